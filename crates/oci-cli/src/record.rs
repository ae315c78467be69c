//! What is known of a container, and what its state is.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::Context as _;
use cgroup::{Cgroup, Hierarchies};
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};

use crate::store::Place;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) version: String,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: PathBuf,
    pub(crate) created: String,
    /// Relative to each hierarchy's root.
    pub(crate) cgroup: String,
    pub(crate) annotations: HashMap<String, String>,
    pub(crate) own_pid_namespace: bool,
    /// Once there is one.
    pub(crate) init: Option<Init>,
}

/// A process, told from a later one with its number by when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Init {
    pub(crate) pid: i32,
    /// Clock ticks since the boot.
    pub(crate) began: u64,
}

/// By the runtime specification, and runc's `paused`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

impl Init {
    /// One that runs.
    pub(crate) fn of(pid: i32) -> anyhow::Result<Self> {
        let stat = Stat::read(pid).with_context(|| format!("look at process {pid}"))?;
        Ok(Self {
            pid,
            began: stat.began,
        })
    }

    pub(crate) fn lives(self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| stat.began == self.began && !stat.ended)
    }

    /// A descriptor of it. `None`: it has ended.
    pub(crate) fn open(self) -> Option<std::os::fd::OwnedFd> {
        let pid = Pid::from_raw(self.pid)?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Looked at after it was opened: a number that was given anew meanwhile does not pass.
        self.lives().then_some(pidfd)
    }
}

struct Stat {
    ended: bool,
    began: u64,
}

impl Stat {
    /// Fields 3 and 22 of `proc_pid_stat(5)`, behind a name that may hold anything.
    fn read(pid: i32) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, rest) = text.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?;
        Some(Self {
            ended: ["Z", "X"].contains(&state),
            began: fields.nth(18)?.parse().ok()?,
        })
    }
}

impl Record {
    pub(crate) fn status(&self, place: &Place) -> Status {
        let Some(init) = self.init else {
            return Status::Creating;
        };
        if !init.lives() {
            return Status::Stopped;
        }
        if self.is_frozen() {
            return Status::Paused;
        }
        match place.has_gate() {
            true => Status::Created,
            false => Status::Running,
        }
    }

    /// Of a container that has a cgroup still.
    pub(crate) fn cgroup(&self) -> anyhow::Result<Cgroup> {
        Ok(Hierarchies::open()?.open_cgroup(&self.cgroup)?)
    }

    fn is_frozen(&self) -> bool {
        let said = |name: &str| {
            let directory = self.cgroup().ok()?.freezer_directory().ok()?;
            std::fs::read_to_string(directory.join(name)).ok()
        };
        match said("cgroup.freeze") {
            Some(text) => text.trim() == "1",
            None => said("freezer.state").is_some_and(|text| text.trim() != "THAWED"),
        }
    }
}
