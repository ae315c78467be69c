//! The cgroup that all supervisors live in.
//!
//! In the daemon's own a limit on the daemon would be one on every pod, and a service manager that empties the daemon's cgroup would
//! end them; in a pod's own the supervisor's memory would be taken from what the pod was promised.
//!
//! Where the tree of cgroups is systemd's, it is a scope: systemd makes it around a first supervisor, which is outside until then, and
//! removes it after the last. Those in between are born in it.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
};

use cgroup::Hierarchies;
use rustix::process::Pid;

use super::SpawnError;
use crate::systemd::Scope;

#[derive(Debug)]
pub(crate) struct Nest {
    hierarchies: Hierarchies,
    path: String,
    /// `None`: the cgroup is ours to make.
    scope: Option<Scope>,
    /// `None`: the scope is not there.
    entrance: Mutex<Option<Arc<Entrance>>>,
}

/// What a process needs to be born in the cgroup, kept open.
#[derive(Debug)]
pub(super) struct Entrance {
    /// Its directory in the v2 tree, if there is one.
    pub(super) unified: Option<OwnedFd>,
    /// Its `tasks` in each v1 hierarchy.
    pub(super) tasks: Vec<OwnedFd>,
}

impl Nest {
    /// Makes the cgroup where it is missing; it stays when the daemon ends.
    ///
    /// # Errors
    /// A hierarchy does not take it.
    pub(crate) fn open(hierarchies: &Hierarchies, path: &str) -> Result<Self, SpawnError> {
        Self::new(hierarchies, path, None)
    }

    /// The scope at `path`, whether it is there or not.
    ///
    /// # Errors
    /// It is there, and cannot be opened.
    pub(crate) fn of_scope(
        hierarchies: &Hierarchies,
        path: &str,
        scope: Scope,
    ) -> Result<Self, SpawnError> {
        Self::new(hierarchies, path, Some(scope))
    }

    fn new(
        hierarchies: &Hierarchies,
        path: &str,
        scope: Option<Scope>,
    ) -> Result<Self, SpawnError> {
        let nest = Self {
            hierarchies: hierarchies.clone(),
            path: path.to_owned(),
            scope,
            entrance: Mutex::default(),
        };
        nest.look_again()?;
        Ok(nest)
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn scope(&self) -> Option<&Scope> {
        self.scope.as_ref()
    }

    /// Moves a process into the scope; `false` where the scope is not there.
    ///
    /// # Errors
    /// The kernel does not move it.
    pub(crate) fn take_in(&self, process: Pid) -> Result<bool, cgroup::Error> {
        let moved = self.hierarchies.open_cgroup(&self.path);
        match moved.and_then(|cgroup| cgroup.attach(process)) {
            Ok(()) => Ok(true),
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn entrance(&self) -> Option<Arc<Entrance>> {
        self.known().clone()
    }

    /// After somebody has removed the cgroup: makes it again, or sees whether systemd has.
    pub(super) fn look_again(&self) -> Result<Option<Arc<Entrance>>, SpawnError> {
        let seen = self.look().map_err(|source| SpawnError::Nest {
            path: self.path.clone(),
            source,
        })?;
        let seen = seen.map(Arc::new);
        *self.known() = seen.clone();
        Ok(seen)
    }

    fn look(&self) -> Result<Option<Entrance>, cgroup::Error> {
        let cgroup = match &self.scope {
            None => (self.hierarchies).ensure(&self.path, &oci_plan::Resources::default())?,
            Some(_) => match self.hierarchies.open_cgroup(&self.path) {
                Err(error) if is_gone(&error) => return Ok(None),
                other => other?,
            },
        };
        Ok(Some(Entrance {
            unified: cgroup.unified_dir()?,
            tasks: cgroup.attach_fds()?,
        }))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Option<Arc<Entrance>>> {
        self.entrance.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_gone(error: &cgroup::Error) -> bool {
    use rustix::io::Errno;
    matches!(error, cgroup::Error::NotFound { .. })
        || matches!(error.errno(), Some(Errno::NODEV | Errno::NOENT))
}
