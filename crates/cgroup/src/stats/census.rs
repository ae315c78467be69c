//! Who is in a cgroup, asked again and again.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::Pid;

use crate::cgroup::Cgroup;
use crate::error::Error;
use crate::kill::{DEEPEST, collect};

use super::file::{File, open};

/// The processes of one cgroup and those below it: two descriptors. As long as nothing is below it, asking takes three system calls.
#[derive(Debug)]
pub struct Census {
    dir: OwnedFd,
    procs: File,
}

impl Cgroup {
    /// Opens what a [`Census`] reads; `None` where no hierarchy is mounted.
    pub fn census(&self) -> Result<Option<Census>, Error> {
        let Some(tracking) = self.hierarchies.tracking() else {
            return Ok(None);
        };
        Ok(Some(Census {
            dir: self.open_in(tracking)?,
            procs: open(self, tracking, "cgroup.procs")?,
        }))
    }
}

impl Census {
    /// As [`Cgroup::processes`], with those below; none once the cgroup is gone.
    ///
    /// # Errors
    /// The kernel's, of a read.
    pub fn processes(&self) -> Result<Vec<Pid>, Errno> {
        let mut pids = BTreeSet::new();
        // A directory of the kernel's has a link for each one below, its own two beside.
        match rustix::fs::fstat(&self.dir)?.st_nlink {
            2 => match self.procs.whole() {
                Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
                // Removed, and a threaded one, whose processes its domain lists.
                Err(Errno::NODEV | Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(errno),
            },
            _ => collect(self.dir.as_fd(), DEEPEST, &mut pids)?,
        }
        Ok(pids.into_iter().filter_map(Pid::from_raw).collect())
    }
}
