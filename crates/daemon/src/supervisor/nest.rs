//! The cgroup that all supervisors live in.
//!
//! In the daemon's own a limit on the daemon would be one on every pod, and a service manager that empties the daemon's cgroup would
//! end them; in a pod's own the supervisor's memory would be taken from what the pod was promised.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
};

use cgroup::Hierarchies;

use super::SpawnError;

#[derive(Debug)]
pub(crate) struct Nest {
    hierarchies: Hierarchies,
    path: String,
    entrance: Mutex<Arc<Entrance>>,
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
        let entrance = open(hierarchies, path)?;
        Ok(Self {
            hierarchies: hierarchies.clone(),
            path: path.to_owned(),
            entrance: Mutex::new(Arc::new(entrance)),
        })
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn entrance(&self) -> Arc<Entrance> {
        Arc::clone(&self.entrance.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes the cgroup again after somebody has removed it.
    pub(super) fn make(&self) -> Result<Arc<Entrance>, SpawnError> {
        let made = Arc::new(open(&self.hierarchies, &self.path)?);
        *self.entrance.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&made);
        Ok(made)
    }
}

fn open(hierarchies: &Hierarchies, path: &str) -> Result<Entrance, SpawnError> {
    let open = || {
        let cgroup = hierarchies.ensure(path, &oci_plan::Resources::default())?;
        Ok(Entrance {
            unified: cgroup.unified_dir()?,
            tasks: cgroup.attach_fds()?,
        })
    };
    open().map_err(|source| SpawnError::Nest {
        path: path.to_owned(),
        source,
    })
}
