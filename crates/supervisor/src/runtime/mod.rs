//! The handler seam: who makes, runs and ends a pod's containers.
//!
//! A closed enum until a second handler exists; `docs/decisions/2026-11-21-handler-seam.md` draws the line by sketching gVisor's `runsc`
//! against it. What the supervisor keeps to itself, whatever the handler: ids and states, descriptors and pipes, logs, reaping, exit
//! records, deadlines. What a handler owns: how a sandbox, a container and an exec come to be, how they are killed, limited, and taken
//! away.
//!
//! Nothing here waits. What takes time is a [`Launch`]: a descriptor to poll, and a process to reap.

mod embedded;
mod failure;
mod loopback;

use std::os::fd::{BorrowedFd, OwnedFd};

use oci_plan::{ContainerPlan, Process, Resources, SandboxPlan};
use oci_runtime::ChildStdio;
use rustix::process::Signal;
use supervisor_api::WireError;

pub(crate) use embedded::Embedded;
pub(crate) use failure::{
    core, failed_precondition, internal, invalid, not_found, resource_exhausted, unavailable,
};
pub(crate) use oci_runtime::{Launch, Progress};

/// Which handler a pod has.
#[derive(Debug)]
pub(crate) enum Handler {
    /// Our own OCI core, in this process.
    Embedded(Embedded),
}

/// What a handler knows a container or an exec by.
#[derive(Debug)]
pub(crate) enum Body {
    /// A cgroup: of the container, or below it for an exec.
    Embedded(cgroup::Cgroup),
}

/// A process on its way, and what it lives in.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) launch: Launch,
    pub(crate) body: Body,
}

impl Handler {
    /// Makes what the pod's containers share. On failure nothing stays.
    pub(crate) fn create_sandbox(&mut self, plan: &SandboxPlan) -> Result<(), WireError> {
        match self {
            Self::Embedded(core) => core.create_sandbox(plan),
        }
    }

    /// The network namespace of the pod, where it has its own.
    pub(crate) fn network(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Embedded(core) => core.network(),
        }
    }

    /// The user namespace of the pod, where it has its own.
    pub(crate) fn user_namespace(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Embedded(core) => core.user_namespace(),
        }
    }

    /// The init of the pod's PID namespace, where it has its own: the pid that is reaped, and what kills it.
    pub(crate) fn sandbox_init(&self) -> Option<(i32, BorrowedFd<'_>)> {
        match self {
            Self::Embedded(core) => core.sandbox_init(),
        }
    }

    /// Lets go of the namespaces. Its processes have been killed.
    pub(crate) fn stop_sandbox(&mut self) {
        match self {
            Self::Embedded(core) => core.stop_sandbox(),
        }
    }

    /// Takes away what is left; repeating it does no harm.
    pub(crate) fn remove_sandbox(&mut self) -> Result<(), WireError> {
        match self {
            Self::Embedded(core) => core.remove_sandbox(),
        }
    }

    /// Begins a container; its launch says when it is created.
    pub(crate) fn create<'a>(
        &self,
        plan: &ContainerPlan,
        descriptors: &[OwnedFd],
        targets: &dyn Fn(&str) -> Option<BorrowedFd<'a>>,
        stdio: ChildStdio<'_>,
    ) -> Result<Launched, WireError> {
        match self {
            Self::Embedded(core) => core.create(plan, descriptors, targets, stdio),
        }
    }

    /// Begins a process in a running container, whose init is `init`. `name` is unique in the pod.
    pub(crate) fn exec(
        &self,
        container: &Body,
        init: BorrowedFd<'_>,
        name: &str,
        process: &Process,
        stdio: ChildStdio<'_>,
    ) -> Result<Launched, WireError> {
        match (self, container) {
            (Self::Embedded(core), Body::Embedded(cgroup)) => {
                core.exec(cgroup, init, name, process, stdio)
            }
        }
    }
}

impl Body {
    /// Kills every process in it.
    pub(crate) fn kill(&self) -> Result<(), WireError> {
        match self {
            Self::Embedded(cgroup) => cgroup.kill_all().map_err(|error| failure::cgroup(&error)),
        }
    }

    /// Signals every process in it.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), WireError> {
        match self {
            Self::Embedded(cgroup) => cgroup
                .signal(signal)
                .map_err(|error| failure::cgroup(&error)),
        }
    }

    pub(crate) fn update(&self, resources: &Resources) -> Result<(), WireError> {
        match self {
            Self::Embedded(cgroup) => cgroup
                .update(resources)
                .map_err(|error| failure::cgroup(&error)),
        }
    }

    /// Whether the OOM killer has killed any of its processes.
    pub(crate) fn oom_killed(&self) -> bool {
        match self {
            Self::Embedded(cgroup) => cgroup.oom_kills().is_ok_and(|kills| kills > 0),
        }
    }

    /// Takes it away if nothing is left in it. `Ok(false)`: something is.
    pub(crate) fn remove(&self) -> Result<bool, WireError> {
        match self {
            Self::Embedded(cgroup) => match cgroup.remove_within(std::time::Duration::ZERO) {
                Ok(()) => Ok(true),
                Err(cgroup::Error::InUse { .. }) => Ok(false),
                Err(error) => Err(failure::cgroup(&error)),
            },
        }
    }
}
