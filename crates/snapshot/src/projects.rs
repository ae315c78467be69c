//! Writable layers as *projects* of the file system: each is counted by it, and where it enforces limits, limited.
//!
//! The record of a project is the layer's directory, which carries its number: it is there before anything is limited or counted, and a
//! limit that has lost its directory (a daemon died between the two) is lifted when the root is opened. A number is free again when the
//! last file of its layer is gone, not when the layer is: the kernel counts what is being removed, and another container must not
//! start with that.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use crate::{Usage, overlay};

/// Projects of ours are this and those above. People number theirs from 1, kubelets from 2^20.
const FIRST: u32 = 1 << 30;

/// Stores on one file system begin at different ones, so that they seldom meet.
const STORES: u32 = 1 << 14;

const PER_STORE: u32 = 1 << 16;

/// Numbers that still count something are passed over, as many as this.
const MOST_TRIED: usize = 4096;

/// Why writable layers cannot be limited.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoLimits {
    /// The file system knows no project quotas, or was mounted without.
    #[error(
        "the file system of {root} has no project quotas: it takes xfs mounted with `pquota`, or ext4 made with `-O quota,project` and mounted with `prjquota`"
    )]
    Absent {
        /// The root of the layers.
        root: String,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// It counts what projects take, and lets them take more.
    #[error(
        "the file system of {root} counts what projects take and does not limit it: mount it with `prjquota` (`pquota` on xfs)"
    )]
    NotEnforced {
        /// The root of the layers.
        root: String,
    },
}

/// The numbers of one root's layers. Calls block.
#[derive(Debug)]
pub(crate) struct Projects {
    /// Any directory of the file system.
    root: OwnedFd,
    first: u32,
    /// In use.
    taken: Mutex<BTreeSet<u32>>,
}

impl Projects {
    /// Also says whether what is counted can be limited. `directories` hold the layers that there are.
    pub(crate) fn open(root: &Path, directories: &[&Path]) -> Result<(Self, bool), NoLimits> {
        let absent = |source| NoLimits::Absent {
            root: root.display().to_string(),
            source,
        };
        let directory = open_directory(root).map_err(absent)?;
        let quotas = sys::project_quotas(directory.as_fd()).map_err(absent)?;
        if !quotas.counted {
            return Err(absent(Errno::NOSYS));
        }
        let inode = std::fs::metadata(root).map_or(0, |stat| stat.ino());
        // Fibonacci hashing: neighbours are far apart.
        let store = (inode.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32 % STORES;
        let projects = Self {
            root: directory,
            first: FIRST + store * PER_STORE,
            taken: Mutex::default(),
        };
        for directory in directories {
            for name in overlay::list(directory).map_err(absent)? {
                if let Some(project) = projects.of(&directory.join(name)) {
                    projects.taken().insert(project);
                }
            }
        }
        projects.lift_stale_limits().map_err(absent)?;
        Ok((projects, quotas.enforced))
    }

    /// Puts an empty directory into a project of its own, unless it is in one, and limits that; `None` is no limit.
    pub(crate) fn assign(&self, path: &Path, limit: Option<u64>) -> Result<(), Errno> {
        let directory = open_directory(path)?;
        let project = match self.ours(sys::project_of(directory.as_fd())?) {
            Some(project) => project,
            None => {
                let project = self.allocate()?;
                if let Err(errno) = sys::set_project(directory.as_fd(), project) {
                    self.taken().remove(&project);
                    return Err(errno);
                }
                project
            }
        };
        sys::limit_project(self.root(), project, limit.unwrap_or(0))
    }

    /// What the layer at `path` takes. `None`: it was made before there were projects.
    pub(crate) fn usage(&self, path: &Path) -> Result<Option<Usage>, Errno> {
        let directory = open_directory(path)?;
        let Some(project) = self.ours(sys::project_of(directory.as_fd())?) else {
            return Ok(None);
        };
        let usage = sys::project_usage(self.root(), project)?;
        Ok(Some(Usage {
            bytes: usage.bytes,
            inodes: usage.inodes,
        }))
    }

    /// The project of a layer, for [`Projects::release`] once it is gone.
    pub(crate) fn of(&self, path: &Path) -> Option<u32> {
        let directory = open_directory(path).ok()?;
        self.ours(sys::project_of(directory.as_fd()).ok()?)
    }

    /// The last file of a project is gone.
    pub(crate) fn release(&self, project: u32) {
        // A limit that stays is replaced by the next layer's, or lifted when the root is opened.
        let _ = sys::limit_project(self.root(), project, 0);
        self.taken().remove(&project);
    }

    fn allocate(&self) -> Result<u32, Errno> {
        let mut from = self.first;
        for _ in 0..MOST_TRIED {
            let candidate = {
                let mut taken = self.taken();
                let free = (from..self.end()).find(|number| !taken.contains(number));
                let candidate = free.ok_or(Errno::NOSPC)?;
                taken.insert(candidate);
                candidate
            };
            let usage = sys::project_usage(self.root(), candidate);
            if usage == Ok(sys::ProjectUsage::default()) {
                return Ok(candidate);
            }
            self.taken().remove(&candidate);
            usage?;
            // Somebody else's, or xfs has yet to come to its last files.
            from = candidate + 1;
        }
        Err(Errno::NOSPC)
    }

    /// Of layers that were removed when nobody was there to do it any more.
    fn lift_stale_limits(&self) -> Result<(), Errno> {
        let mut next = self.first;
        while let Some((project, usage)) = sys::next_project(self.root(), next)? {
            if project >= self.end() {
                break;
            }
            if usage.inodes == 0 && usage.limit_bytes > 0 {
                sys::limit_project(self.root(), project, 0)?;
            }
            next = project + 1;
        }
        Ok(())
    }

    fn ours(&self, project: u32) -> Option<u32> {
        (self.first..self.end())
            .contains(&project)
            .then_some(project)
    }

    fn end(&self) -> u32 {
        self.first + PER_STORE
    }

    fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    fn taken(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty())
}
