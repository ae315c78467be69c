//! Programs that know credentials: `docker-credential-NAME get`, which is told a registry on stdin and answers in JSON on stdout
//! (<https://github.com/docker/docker-credential-helpers>).

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use crate::auth::Credentials;

const MAX_ANSWER_BYTES: u64 = 256 << 10;

/// Instead of a user where the secret is an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

pub(super) fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !name.is_empty() && name.bytes().all(allowed)
}

/// What the program knows of `address`. Why it did not answer never has its words: they may be the secret.
pub(super) async fn get(
    program: &Path,
    address: &str,
    bound: Duration,
) -> Result<Option<Credentials>, String> {
    let child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("it does not start: {error}"))?;
    let group = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    // Dropped with this future, if that is.
    let mut running = Running { group, child };
    unprotect(&running.child);
    match tokio::time::timeout(bound, running.converse(address)).await {
        Ok(answer) => answer,
        Err(_late) => Err(format!("it took longer than {} s", bound.as_secs())),
    }
}

struct Running {
    /// Of the program and what it starts, until it has been waited for: then its number may be another's.
    group: Option<Pid>,
    child: Child,
}

impl Running {
    async fn converse(&mut self, address: &str) -> Result<Option<Credentials>, String> {
        let failed = |error: std::io::Error| format!("it does not talk: {error}");
        if let Some(mut stdin) = self.child.stdin.take() {
            // One that knows without reading may be gone already.
            let _unread = stdin.write_all(format!("{address}\n").as_bytes()).await;
        }
        let mut text = Vec::new();
        if let Some(stdout) = self.child.stdout.take() {
            let mut stdout = stdout.take(MAX_ANSWER_BYTES + 1);
            stdout.read_to_end(&mut text).await.map_err(failed)?;
        }
        if text.len() as u64 > MAX_ANSWER_BYTES {
            return Err(format!("it said more than {MAX_ANSWER_BYTES} bytes"));
        }
        let status = self.child.wait().await.map_err(failed)?;
        self.group = None;
        if !status.success() {
            let words = String::from_utf8_lossy(&text);
            return match words.contains("credentials not found") {
                true => Ok(None),
                false => Err(format!("it ended with {status}")),
            };
        }
        let answer: Answer =
            serde_json::from_slice(&text).map_err(|_| "its answer is not the protocol's")?;
        Ok(match (&*answer.username, answer.secret) {
            (_, secret) if secret.is_empty() => None,
            (TOKEN_USER, secret) => Some(Credentials::IdentityToken(secret)),
            (user, secret) => Some(Credentials::Basic(format!("{user}:{secret}"))),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            let _gone = kill_process_group(group, Signal::KILL);
        }
    }
}

/// The daemon may be spared by the OOM killer; a foreign program is not. Advice: a score is lowered only where that is permitted.
fn unprotect(child: &Child) {
    if let Some(pid) = child.id() {
        let _advice = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "0");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that no fork of ours ever had open for writing.
    fn script(directory: &Path, text: &str) -> std::path::PathBuf {
        let (source, program) = (directory.join("source"), directory.join("program"));
        std::fs::write(&source, format!("#!/bin/sh\n{text}\n")).unwrap();
        let made = std::process::Command::new("install")
            .args(["-m", "755"])
            .args([&source, &program])
            .status()
            .unwrap();
        assert!(made.success());
        program
    }

    #[tokio::test]
    async fn answers_of_every_kind() {
        let answer = |user: &str| {
            format!(
                r#"read at; [ "$1" = get ] && echo "{{\"ServerURL\":\"$at\",\"Username\":\"{user}\",\"Secret\":\"of $at\"}}""#
            )
        };
        let basic = Ok(Some(Credentials::Basic("me:of r.io:5000".into())));
        let token = Ok(Some(Credentials::IdentityToken("of r.io:5000".into())));
        let failed = |said: &str| Err(said.to_owned());
        for (text, wanted) in [
            (answer("me"), basic),
            (answer(TOKEN_USER), token),
            (
                "echo credentials not found in native keychain; exit 1".into(),
                Ok(None),
            ),
            (
                "echo s3cret; exit 3".into(),
                failed("it ended with exit status: 3"),
            ),
            (
                "echo s3cret".into(),
                failed("its answer is not the protocol's"),
            ),
            (
                "yes s3cret".into(),
                failed("it said more than 262144 bytes"),
            ),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let program = script(directory.path(), &text);
            let got = get(&program, "r.io:5000", Duration::from_secs(60)).await;
            assert!(got == wanted, "{text}: {got:?}");
        }
        let missing = get(
            Path::new("/nowhere/docker-credential-x"),
            "r.io",
            Duration::from_secs(60),
        );
        assert!(missing.await.unwrap_err().contains("does not start"));
    }

    #[tokio::test]
    async fn one_that_hangs_is_killed_with_what_it_has_started() {
        let directory = tempfile::tempdir().unwrap();
        let mark = directory.path().join("pid");
        let text = format!("sleep 1000 & echo $! > {}; wait", mark.display());
        let program = script(directory.path(), &text);
        let error = get(&program, "r.io", Duration::from_secs(2)).await;
        assert_eq!(error, Err("it took longer than 2 s".into()));
        let pid = std::fs::read_to_string(&mark).unwrap();
        let state = format!("/proc/{}/stat", pid.trim());
        // Killed; whoever inherits it reaps it some time.
        let lives = || std::fs::read_to_string(&state).is_ok_and(|stat| !stat.contains(") Z"));
        for _ in 0..1000 {
            if !lives() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it is still there");
    }
}
