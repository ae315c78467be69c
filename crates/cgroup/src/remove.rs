use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::cgroup::Cgroup;
use crate::error::Error;
use crate::hierarchy::Hierarchy;
use crate::kill::DEEPEST;
use crate::{files, mark};

/// How long a cgroup may stay busy after its last process was killed.
const BUSY_BOUND: Duration = Duration::from_secs(2);

impl Cgroup {
    /// Removes what was made for this cgroup: its directory where it is ours, with whatever the container made below, and parents
    /// of our making that are empty now. Succeeds when some or all of it is gone. Processes in it are waited for, two seconds, not
    /// killed.
    ///
    /// Every hierarchy is tried; the first failure is returned.
    pub fn remove(&self) -> Result<(), Error> {
        self.remove_within(BUSY_BOUND)
    }

    /// As [`Cgroup::remove`], with another bound for a cgroup that is busy; zero tries once.
    pub fn remove_within(&self, bound: Duration) -> Result<(), Error> {
        self.remove_where(bound, |index, hierarchy| self.is_ours_in(index, hierarchy))
    }

    /// Undoes a failed making: what this process made, not what bears our mark and was there before.
    pub(crate) fn remove_made(&self) -> Result<(), Error> {
        self.remove_where(Duration::ZERO, |_, hierarchy| self.was_made_in(hierarchy))
    }

    fn remove_where(
        &self,
        bound: Duration,
        ours: impl Fn(usize, &Hierarchy) -> bool,
    ) -> Result<(), Error> {
        let started = Instant::now();
        let mut first = Ok(());
        for (index, hierarchy) in self.hierarchies.all().iter().enumerate() {
            if !ours(index, hierarchy) {
                continue;
            }
            let path = self.path_in(hierarchy);
            let removed = remove_tree(hierarchy, &path, started, bound);
            if removed.is_ok() && !self.is_exec() {
                mark::remove_implied_parents(hierarchy, &path);
            }
            first = first.and(removed);
        }
        first
    }
}

fn remove_tree(
    hierarchy: &Hierarchy,
    path: &str,
    started: Instant,
    bound: Duration,
) -> Result<(), Error> {
    let failed = |source| Error::Remove {
        cgroup: hierarchy.label(path),
        source,
    };
    let mut pause = Duration::from_micros(200);
    loop {
        // Most have no children: one call.
        let mut removed = rustix::fs::unlinkat(hierarchy.dir(), path, AtFlags::REMOVEDIR);
        if matches!(removed, Err(Errno::BUSY | Errno::NOTEMPTY)) {
            removed = remove_children(hierarchy, path)
                .and_then(|()| rustix::fs::unlinkat(hierarchy.dir(), path, AtFlags::REMOVEDIR));
        }
        match removed {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY | Errno::NOTEMPTY) => {}
            Err(source) => return Err(failed(source)),
        }
        let waited = started.elapsed();
        if waited >= bound {
            return Err(Error::InUse {
                cgroup: hierarchy.label(path),
                waited,
            });
        }
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn remove_children(hierarchy: &Hierarchy, path: &str) -> Result<(), Errno> {
    let dir = files::open_dir(hierarchy, path)?;
    remove_below(dir.as_fd(), DEEPEST)
}

/// Removes what can be removed; the caller's next attempt meets the rest.
fn remove_below(dir: BorrowedFd<'_>, depth: usize) -> Result<(), Errno> {
    if depth == 0 {
        return Err(Errno::MLINK);
    }
    for name in files::children(dir)? {
        match remove_child(dir, &name, depth) {
            Ok(()) | Err(Errno::NOENT | Errno::BUSY | Errno::NOTEMPTY) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn remove_child(dir: BorrowedFd<'_>, name: &CStr, depth: usize) -> Result<(), Errno> {
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Err(Errno::BUSY | Errno::NOTEMPTY) => {}
        other => return other,
    }
    let child = files::open_child(dir, name)?;
    remove_below(child.as_fd(), depth - 1)?;
    rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
}
