use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};

use super::poll;

/// Makes the namespaces a host, says so, and then waits for the end of standard input. It is PID 1 inside, and bash because bash
/// reaps the orphans that it inherits.
const SCRIPT: &str = "
set -e
mount --make-rshared /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/netns /run/lock
ip link set lo up
echo ready
while read -r line; do :; done
";

/// The process whose end is the end of the sandbox.
#[derive(Debug)]
pub(crate) struct Holder {
    unshare: Child,
    pid: u32,
}

impl Holder {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let mut unshare = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--ipc", "--uts", "--fork"])
            .args(["--kill-child", "--propagation=private", "--mount-proc"])
            .args(["bash", "-c", SCRIPT])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("run unshare (package util-linux)")?;
        let mut line = String::new();
        if let Some(stdout) = unshare.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        if line != "ready\n" {
            let status = unshare.wait()?;
            bail!(
                "the sandbox's holder ended with {status}; is this root, and is iproute2 installed?"
            );
        }
        let pid = child_of(unshare.id()).context("find the sandbox's holder in /proc")?;
        Ok(Self { unshare, pid })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // The end of its input is the holder's end, and the kernel kills and reaps its PID namespace before it is gone itself.
        drop(self.unshare.stdin.take());
        let gone = |unshare: &mut Child| matches!(unshare.try_wait(), Ok(Some(_)) | Err(_));
        let limit = Duration::from_secs(5);
        if poll(limit, || gone(&mut self.unshare).then_some(())).is_none() {
            // unshare's death kills the holder (--kill-child).
            let _ = self.unshare.kill();
            let _ = self.unshare.wait();
        }
    }
}

/// A child of the process, by the parent that each process names.
pub(crate) fn child_of(parent: u32) -> Option<u32> {
    fs::read_dir("/proc").ok()?.find_map(|entry| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // `pid (name) state ppid …`, and the name may have spaces and parentheses.
        let (_, rest) = stat.rsplit_once(')')?;
        let named: u32 = rest.split_whitespace().nth(1)?.parse().ok()?;
        (named == parent).then_some(pid)
    })
}
