//! What a command line says of itself, and whether it answers at all.

use std::{os::unix::process::ExitStatusExt, path::Path, process::Stdio, time::Duration};

use supervisor_api::ENCLOSED_ARGUMENT;
use tokio::io::AsyncReadExt;

use crate::{
    config::{KernelOf, RuntimeSettings},
    supervisor::Executable,
};

/// For each command.
const BOUND: Duration = Duration::from_secs(5);

/// Of what a command prints; features take a few kilobytes.
const MOST_BYTES: u64 = 256 * 1024;

/// A command line, looked at.
#[derive(Debug, Clone, Default)]
pub(crate) struct Probe {
    /// The first line of `--version`.
    pub(crate) version: Option<String>,
    /// What `features` prints; many know no such command.
    pub(crate) features: Option<serde_json::Value>,
    /// It says that it loads seccomp profiles.
    pub(crate) seccomp: bool,
    /// Why no pod can be made with it.
    pub(crate) trouble: Option<String>,
}

impl Probe {
    pub(super) async fn run(executable: &Executable, settings: &RuntimeSettings) -> Self {
        let mut probe = Self::default();
        let mut said = String::new();
        match ask(executable, settings, &["--version"]).await {
            Ok(text) => match text.lines().next().map(str::trim) {
                Some(line) if is_version(line) => {
                    probe.version = Some(line.to_owned());
                    said.clone_from(&text);
                }
                Some(_) | None => {
                    probe.trouble = Some(format!(
                        "{} --version prints no version: {:?}",
                        program(settings),
                        text.chars().take(80).collect::<String>()
                    ));
                }
            },
            Err(trouble) => probe.trouble = Some(trouble),
        }
        if probe.trouble.is_none()
            && let Ok(text) = ask(executable, settings, &["features"]).await
        {
            probe.features = serde_json::from_str(&text)
                .ok()
                .filter(serde_json::Value::is_object);
        }
        probe.seccomp = loads_profiles(&said, probe.features.as_ref());
        probe
    }

    /// gVisor's: each container has a kernel of its own, which is not the pod's.
    pub(crate) fn own_kernel(&self) -> bool {
        let version = self.version.as_deref().unwrap_or_default();
        version.starts_with("runsc ")
    }

    /// youki's (seen with 0.7): what exec gets is not what init got.
    pub(crate) fn exec_outside(&self) -> bool {
        let version = self.version.as_deref().unwrap_or_default();
        version.starts_with("youki ")
    }

    /// What pods with this handler go without.
    pub(crate) fn missing(&self, settings: &RuntimeSettings) -> Vec<&'static str> {
        let mut missing = Vec::new();
        if self.trouble.is_some() {
            return missing;
        }
        if !self.seccomp {
            missing.push("seccomp");
        }
        if self.own_kernel() {
            missing.push(match settings.kernel_of() {
                KernelOf::Container => "one sandbox for all containers of a pod",
                KernelOf::Pod => "limits and statistics of a container's own",
            });
            missing.push("user namespaces");
        }
        if self.exec_outside() {
            missing.push("user namespaces");
        }
        missing
    }

    /// Only one that says so: others pass over the field in silence.
    pub(crate) fn memory_policy(&self) -> bool {
        let features = self.features.as_ref();
        features.is_some_and(|all| all.pointer("/linux/memoryPolicy/modes").is_some())
    }

    /// Those whose `exec` is known to put its process into a cgroup below the container's.
    pub(crate) fn exec_cgroup(&self) -> bool {
        let version = self.version.as_deref().unwrap_or_default();
        ["runc ", "crun ", "longshore-oci "]
            .iter()
            .any(|name| version.starts_with(name))
    }
}

/// A line that people can read, with a number in it.
fn is_version(line: &str) -> bool {
    let garbage = |c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER;
    line.len() <= 200 && line.contains(|c: char| c.is_ascii_digit()) && !line.contains(garbage)
}

/// By `features`, or, of a runtime that has no such command, by what `--version` tells: runc names its libseccomp, crun has a list.
fn loads_profiles(version: &str, features: Option<&serde_json::Value>) -> bool {
    let told = features.and_then(|all| all.pointer("/linux/seccomp/enabled")?.as_bool());
    told.unwrap_or_else(|| {
        version.lines().any(|line| {
            line.starts_with("libseccomp:") || line.split(' ').any(|word| word == "+SECCOMP")
        })
    })
}

fn program(settings: &RuntimeSettings) -> String {
    settings
        .path
        .as_ref()
        .map(|path| path.display().to_string())
        .unwrap_or_default()
}

/// What a command prints, if it succeeds. Nothing that it has started outlives the answer, or the bound.
async fn ask(
    executable: &Executable,
    settings: &RuntimeSettings,
    arguments: &[&str],
) -> Result<String, String> {
    let name = format!("{} {}", program(settings), arguments.join(" "));
    // Which file it is, and whether that can be read, is its own affair: the program may be on a file system that hangs.
    let mut child = executable
        .command("longshore-probe")
        .arg(ENCLOSED_ARGUMENT)
        .arg(settings.path.as_deref().unwrap_or(Path::new("")))
        .args(arguments)
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("start {name}: {error}"))?;
    let (mut stdout, mut stderr) = (String::new(), String::new());
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let answered = async {
        let read = async |from: Option<tokio::process::ChildStdout>, to: &mut String| {
            let mut bytes = Vec::new();
            if let Some(from) = from {
                let _partial = from.take(MOST_BYTES).read_to_end(&mut bytes).await;
            }
            *to = String::from_utf8_lossy(&bytes).into_owned();
        };
        read(out, &mut stdout).await;
        if let Some(err) = err {
            let mut bytes = Vec::new();
            let _partial = err.take(4096).read_to_end(&mut bytes).await;
            stderr = String::from_utf8_lossy(&bytes).into_owned();
        }
        child.wait().await
    };
    match tokio::time::timeout(BOUND, answered).await {
        Ok(Ok(status)) if status.success() => Ok(stdout),
        Ok(Ok(status)) => {
            let how = match (status.code(), status.signal()) {
                (Some(code), _) => format!("exited with status {code}"),
                (None, Some(signal)) => format!("was killed by signal {signal}"),
                (None, None) => "ended".to_owned(),
            };
            let last = stderr.lines().last().unwrap_or_default().trim();
            Err(format!("{name} {how}: {last}"))
        }
        Ok(Err(error)) => Err(format!("wait for {name}: {error}")),
        Err(_elapsed) => Err(format!("{name} did not end within {} s", BOUND.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_a_line_that_can_be_read() {
        assert!(is_version("runc version 1.1.5+ds1"));
        for other in ["", "no number", "7\u{1b}[2J", "\u{fffd}7", &"7".repeat(201)] {
            assert!(!is_version(other), "{other:?}");
        }
    }

    #[test]
    fn seccomp_is_known_by_features_or_by_the_version() {
        let none = serde_json::json!({ "linux": { "seccomp": { "enabled": false } } });
        let some = serde_json::json!({ "linux": { "seccomp": { "enabled": true } } });
        let runc = "runc version 1.1.5\nspec: 1.0.2-dev\nlibseccomp: 2.5.4\n";
        let crun = "crun version 1.8.1\n+SYSTEMD +CAP +SECCOMP +EBPF +YAJL\n";
        assert!(loads_profiles(runc, None));
        assert!(loads_profiles(crun, None));
        assert!(!loads_profiles(
            "crun version 1.8.1\n+SYSTEMD -SECCOMP\n",
            None
        ));
        assert!(!loads_profiles(
            "runsc version release\nspec: 1.0.2\n",
            None
        ));
        assert!(!loads_profiles(runc, Some(&none)));
        assert!(loads_profiles("other 1.0", Some(&some)));
    }
}
