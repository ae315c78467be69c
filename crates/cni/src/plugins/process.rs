//! Running one plugin: a child in a process group of its own, with bounds on its time and its words.
//!
//! What a plugin starts and leaves in its group ends with it. What leaves the group (a plugin that becomes a daemon does) is left alone,
//! except where the plugin was killed or a daemon of ours died while it ran: then everything that bears its mark in the environment
//! ends, so that nothing goes on adding what is being removed.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::error::Reason;

/// In the environment of all that we start.
const MARK: &str = "LONGSHORE_ATTACHMENT";

/// The longest result.
const LONGEST_OUTPUT: usize = 1 << 20;

/// How much of what else a plugin says is kept: the end.
const LAST_WORDS: usize = 1024;

/// What was printed before the end is in the pipe; who holds the pipe any longer has left the plugin.
const AFTER_THE_END: Duration = Duration::from_millis(200);

/// How long the kernel may take over a killed process.
const DIES_WITHIN: Duration = Duration::from_secs(5);

/// One run of a plugin.
#[derive(Debug)]
pub(super) struct Run<'a> {
    pub(super) program: &'a Path,
    pub(super) environment: &'a [(&'static str, String)],
    /// On standard input.
    pub(super) config: Vec<u8>,
    pub(super) mark: String,
    /// The whole operation's.
    pub(super) bound: Duration,
    pub(super) deadline: Instant,
}

/// What a plugin that ran to its end has said.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

/// The mark of an attachment's plugins. The journal's path tells daemons apart.
pub(super) fn mark(journal: &Path, id: &str) -> String {
    format!("{}:{id}", journal.display())
}

/// The executable of a plugin, in the first directory that has one.
pub(super) fn find(directories: &[PathBuf], plugin: &str) -> Result<PathBuf, Reason> {
    let paths = directories.iter().map(|directory| directory.join(plugin));
    paths
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| Reason::Missing {
            directories: join(directories),
        })
}

pub(super) fn join(directories: &[PathBuf]) -> String {
    let texts: Vec<_> = directories
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    texts.join(":")
}

/// Runs a plugin to its end, or to its deadline. Cancellation kills it.
pub(super) async fn run(run: Run<'_>) -> Result<Output, Reason> {
    let mut command = Command::new(run.program);
    command
        .envs(run.environment.iter().map(|(key, value)| (*key, value)))
        .env(MARK, &run.mark)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|source| Reason::Start {
        path: run.program.to_owned(),
        source: Arc::new(source),
    })?;
    unprotect(&child);
    let mut group = Group::of(&child)?;
    let (input, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (mut result, mut words) = (Vec::new(), Vec::new());
    let ended = {
        let talk = async {
            tokio::try_join!(
                feed(input, &run.config),
                read_all(stdout, &mut result),
                read_last(stderr, &mut words),
            )
        };
        tokio::pin!(talk);
        let whole = async {
            let mut silent = false;
            loop {
                tokio::select! {
                    ended = group.ended() => break ended?,
                    talked = &mut talk, if !silent => {
                        talked?;
                        silent = true;
                    }
                }
            }
            // While the child is not reaped, nobody else can have its group.
            group.kill();
            if !silent && let Ok(talked) = tokio::time::timeout(AFTER_THE_END, &mut talk).await {
                talked?;
            }
            child.wait().await.map_err(process)
        };
        tokio::time::timeout_at(run.deadline, whole).await
    };
    match ended {
        Ok(Ok(status)) => Ok(Output {
            status,
            stdout: result,
            stderr: words,
        }),
        Ok(Err(reason)) => Err(end(group, child, run.mark, reason).await),
        Err(_late) => {
            let bound = run.bound;
            Err(end(group, child, run.mark, Reason::Late { bound }).await)
        }
    }
}

/// The caller may be spared by the OOM killer; a foreign program is not. Advice: a score is lowered only where that is permitted.
fn unprotect(child: &Child) {
    if let Some(pid) = child.id() {
        let _advice = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "0");
    }
}

/// Ends a plugin that will not end, with all that it started.
async fn end(mut group: Group, mut child: Child, mark: String, reason: Reason) -> Reason {
    group.kill();
    if tokio::time::timeout(DIES_WITHIN, child.wait())
        .await
        .is_err()
    {
        tracing::error!(
            pid = child.id(),
            "a killed plugin does not end: it is in an uninterruptible sleep"
        );
    }
    let ended = tokio::task::spawn_blocking(move || end_marked(&mark)).await;
    if let Ok(Err(error)) = ended {
        tracing::warn!(%error, "look for what a killed plugin has started");
    }
    reason
}

/// Kills every process that bears the mark, until there is none. Blocks.
pub(super) fn end_marked(mark: &str) -> io::Result<()> {
    let wanted = format!("{MARK}={mark}");
    // What is started while the list is read is found the next time.
    for _ in 0..10 {
        let mut found = false;
        for entry in std::fs::read_dir("/proc")? {
            let entry = entry?;
            let name = entry.file_name();
            let pid = name.to_str().and_then(|name| name.parse().ok());
            let Some(pid) = pid.and_then(Pid::from_raw) else {
                continue;
            };
            let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
                continue;
            };
            // Read after the descriptor pins the process. A kernel thread has none, one that has just ended has an empty one.
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            if environment
                .split(|byte| *byte == 0)
                .any(|word| word == wanted.as_bytes())
            {
                found |= rustix::process::pidfd_send_signal(&pidfd, Signal::KILL).is_ok();
            }
        }
        if !found {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// A child's process group, killed when dropped.
#[derive(Debug)]
struct Group {
    leader: Pid,
    pidfd: AsyncFd<std::os::fd::OwnedFd>,
    killed: bool,
}

impl Group {
    fn of(child: &Child) -> Result<Group, Reason> {
        let leader = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let leader = leader.ok_or_else(|| process(io::ErrorKind::NotFound.into()))?;
        let pidfd = rustix::process::pidfd_open(leader, PidfdFlags::NONBLOCK)
            .map_err(|errno| process(errno.into()))?;
        // Its successor is an unsafe function, for inner types that may change their descriptor; this one is owned and never does.
        #[expect(
            deprecated,
            reason = "sound for an OwnedFd, and unsafe code lives in one crate"
        )]
        let pidfd = AsyncFd::new(pidfd).map_err(process)?;
        Ok(Group {
            leader,
            pidfd,
            killed: false,
        })
    }

    /// The leader has ended; it is not reaped.
    async fn ended(&self) -> Result<(), Reason> {
        self.pidfd.readable().await.map(drop).map_err(process)
    }

    /// Once, while the leader is there, dead or alive: afterwards the number may be another's.
    fn kill(&mut self) {
        if !self.killed {
            self.killed = true;
            let _nobody_left = rustix::process::kill_process_group(self.leader, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

fn process(error: io::Error) -> Reason {
    Reason::Process(Arc::new(error))
}

/// A plugin need not read what it is told.
async fn feed(input: Option<tokio::process::ChildStdin>, config: &[u8]) -> Result<(), Reason> {
    if let Some(mut input) = input {
        let _unread = input.write_all(config).await;
    }
    Ok(())
}

async fn read_all(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) -> Result<(), Reason> {
    let Some(from) = from else { return Ok(()) };
    let read = from.take(LONGEST_OUTPUT as u64 + 1).read_to_end(into).await;
    read.map_err(process)?;
    match into.len() {
        ..=LONGEST_OUTPUT => Ok(()),
        _ => Err(Reason::TooMuch {
            bytes: LONGEST_OUTPUT,
        }),
    }
}

async fn read_last(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) -> Result<(), Reason> {
    let Some(mut from) = from else { return Ok(()) };
    let mut chunk = [0; 4096];
    loop {
        match from.read(&mut chunk).await.map_err(process)? {
            0 => return Ok(()),
            count => {
                into.extend_from_slice(&chunk[..count]);
                into.drain(..into.len().saturating_sub(LAST_WORDS));
            }
        }
    }
}

/// What a plugin said, for a message: its end, on one line.
pub(super) fn words(said: &[u8]) -> String {
    let tail = &said[said.len().saturating_sub(LAST_WORDS)..];
    let text = String::from_utf8_lossy(tail);
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Script {
        directory: tempfile::TempDir,
    }

    impl Script {
        fn new(text: &str) -> Script {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("plugin");
            std::fs::write(&path, format!("#!/bin/bash\n{text}\n")).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
            Script { directory }
        }

        async fn run(&self, bound: Duration) -> Result<Output, Reason> {
            run(Run {
                program: &self.directory.path().join("plugin"),
                environment: &[("CNI_COMMAND", "ADD".to_owned())],
                config: vec![b'x'; 300_000],
                mark: self.mark(),
                bound,
                deadline: Instant::now() + bound,
            })
            .await
        }

        fn mark(&self) -> String {
            mark(self.directory.path(), "id")
        }

        fn said(&self, name: &str) -> Option<String> {
            std::fs::read_to_string(self.directory.path().join(name)).ok()
        }

        /// Whether a process that wrote its number there has ended, or soon does.
        async fn is_gone(&self, name: &str) -> bool {
            let pid = self.said(name).unwrap();
            let proc = format!("/proc/{}/stat", pid.trim());
            for _ in 0..500 {
                match std::fs::read_to_string(&proc) {
                    Ok(stat) if !stat.contains(") Z ") => {}
                    _ => return true,
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            false
        }
    }

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(700);

    #[tokio::test]
    async fn a_plugin_is_told_and_heard() {
        let script = Script::new("wc -c; echo oops >&2; echo $CNI_COMMAND; exit 3");
        let output = script.run(LONG).await.unwrap();
        assert_eq!(output.stdout, b"300000\nADD\n");
        assert_eq!(output.stderr, b"oops\n");
        assert_eq!(output.status.code(), Some(3));
        // One that does not listen, and one that dies.
        let output = Script::new("exec <&-; echo yes").run(LONG).await.unwrap();
        assert_eq!(output.stdout, b"yes\n");
        let output = Script::new("kill -9 $$").run(LONG).await.unwrap();
        assert_eq!(output.status.code(), None);
    }

    #[tokio::test]
    async fn one_that_hangs_is_killed_with_all_it_started() {
        let script = Script::new(
            "cd $(dirname $0)
             sleep 1000 & echo $! > child
             setsid sleep 1000 & echo $! > escaped
             echo $$ > self; wait",
        );
        let reason = script.run(SHORT).await.unwrap_err();
        assert!(matches!(reason, Reason::Late { .. }), "{reason}");
        for name in ["self", "child", "escaped"] {
            assert!(script.is_gone(name).await, "{name}");
        }
    }

    #[tokio::test]
    async fn one_that_leaks_a_child_is_not_waited_for() {
        // The child holds the pipes.
        let script = Script::new("cd $(dirname $0); sleep 1000 & echo $! > child; echo '{}'");
        let output = script.run(LONG).await.unwrap();
        assert_eq!(output.stdout, b"{}\n");
        assert!(script.is_gone("child").await);
        // One that is out of reach holds them, too.
        let script =
            Script::new("cd $(dirname $0); setsid sleep 1000 & echo $! > child; echo '{}'");
        let output = script.run(LONG).await.unwrap();
        assert_eq!(output.stdout, b"{}\n");
        end_marked(&script.mark()).unwrap();
        assert!(script.is_gone("child").await);
    }

    #[tokio::test]
    async fn one_that_talks_without_end_is_cut_short() {
        let script = Script::new("head -c 100000000 /dev/zero; sleep 1000");
        let reason = script.run(LONG).await.unwrap_err();
        assert!(matches!(reason, Reason::TooMuch { .. }), "{reason}");
        let script = Script::new("head -c 100000000 /dev/zero >&2; echo '{}'");
        let output = script.run(LONG).await.unwrap();
        assert_eq!(output.stderr.len(), LAST_WORDS);
    }

    #[tokio::test]
    async fn one_that_cannot_be_run_is_named() {
        let script = Script::new("");
        let path = script.directory.path().join("plugin");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        let reason = script.run(LONG).await.unwrap_err().to_string();
        assert!(reason.contains("plugin: Permission denied"), "{reason}");
        let missing = find(&["/no/such".into(), "/place".into()], "bridge").unwrap_err();
        assert_eq!(
            missing.to_string(),
            "there is no such executable in /no/such:/place"
        );
    }

    #[test]
    fn words_are_short_and_on_one_line() {
        assert_eq!(words(b"\x1b[1mno\nroom\n"), "[1mno room");
        assert_eq!(words(&vec![b'x'; 100_000]).len(), LAST_WORDS);
    }
}
