use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{fs::FlockOperation, process::Pid};
use serde::{Deserialize, Serialize};

/// One boot of the machine: what an earlier one left is not running any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct BootId(String);

impl BootId {
    pub(crate) fn current() -> io::Result<Self> {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Ok(Self(text.trim().to_owned()))
    }
}

/// Held while a daemon serves a directory; the kernel lets go when the process ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    #[error("another longshored{} serves {}", process(*pid), directory.display())]
    Held {
        directory: PathBuf,
        /// As its own PID namespace numbers it.
        pid: Option<u32>,
    },
    #[error("lock {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// What a daemon had begun to start when it was killed has its lock until it has become another program.
const LEFT_WITHIN: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

fn lives(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
}

fn process(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

impl Lock {
    pub(crate) fn take(directory: &Path) -> Result<Self, LockError> {
        let path = directory.join("lock");
        let failed = |source: io::Error| LockError::Io {
            path: path.clone(),
            source,
        };
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(failed)?;
        let deadline = Instant::now() + LEFT_WITHIN;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(source) => return Err(failed(source.into())),
            }
            let mut text = String::new();
            let _unsaid = file.rewind().and_then(|()| file.read_to_string(&mut text));
            let pid = text.trim().parse().ok();
            if pid.is_none_or(lives) || Instant::now() > deadline {
                return Err(LockError::Held {
                    directory: directory.to_owned(),
                    pid,
                });
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        // For the next one's message only: on a full disk there is none.
        let _unsaid = file.set_len(0).and_then(|()| file.rewind());
        let _unsaid = writeln!(file, "{}", std::process::id());
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_lives_keeps_its_directory_and_a_dead_ones_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let held = Lock::take(directory.path()).unwrap();
        let refused = Lock::take(directory.path()).unwrap_err().to_string();
        let this = std::process::id();
        assert_eq!(
            refused,
            format!(
                "another longshored (process {this}) serves {}",
                directory.path().display()
            )
        );

        // Its process is dead, and something that it had begun to start has not let go yet.
        let mut dead = std::process::Command::new("true").spawn().unwrap();
        dead.wait().unwrap();
        let file = directory.path().join("lock");
        std::fs::write(file, format!("{}\n", dead.id())).unwrap();
        let lets_go = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(held);
        });
        let taken = Lock::take(directory.path());
        lets_go.join().unwrap();
        taken.unwrap();
    }
}
