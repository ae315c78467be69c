use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use rustix::fs::FlockOperation;
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
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                // For the next one's message only: on a full disk there is none.
                let _unsaid = file.set_len(0);
                let _unsaid = writeln!(file, "{}", std::process::id());
                Ok(Self { _file: file })
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let _unsaid = file.read_to_string(&mut text);
                Err(LockError::Held {
                    directory: directory.to_owned(),
                    pid: text.trim().parse().ok(),
                })
            }
            Err(source) => Err(failed(source.into())),
        }
    }
}
