use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_plan::{ContainerPlan, Process};

use crate::{Error, Host, PodHandles};

/// Where a new process belongs, prepared by the caller.
#[derive(Debug, Clone, Copy, Default)]
pub struct Placement<'a> {
    /// `tasks` (or `cgroup.procs`) files of v1 hierarchies, open for writing: the child writes `0` into each.
    pub tasks: &'a [OwnedFd],
    /// Directory in the cgroup2 hierarchy into which the child is cloned.
    pub unified: Option<BorrowedFd<'a>>,
}

/// The child's standard streams; `None` is `/dev/null`. Not looked at where the process has a terminal.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChildStdio<'a> {
    pub stdin: Option<BorrowedFd<'a>>,
    pub stdout: Option<BorrowedFd<'a>>,
    pub stderr: Option<BorrowedFd<'a>>,
}

/// A process to run in a living container.
#[derive(Debug, Clone, Copy)]
pub struct ExecPlan<'a> {
    pub process: &'a Process,
    /// pidfd of the container's init: all of its namespaces are joined.
    pub container: BorrowedFd<'a>,
}

/// How far a launch has come.
#[derive(Debug)]
pub enum Progress {
    /// Nothing new; poll [`Launch::handshake`].
    Pending,
    /// The container waits for [`Launch::start`]. With a terminal: its master side.
    Created { console: Option<OwnedFd> },
    /// The program runs (`execve(2)` has succeeded). `console` is that of an exec with a terminal; a container's came with `Created`.
    Started { console: Option<OwnedFd> },
}

/// A container's init, or an exec, on its way to its program.
///
/// Dropped before it has started, it kills its process; reaping is the caller's, as for every child.
#[derive(Debug)]
pub struct Launch {
    pid: i32,
    pidfd: OwnedFd,
    handshake: OwnedFd,
}

impl Launch {
    /// Clones the container's init and returns while it sets itself up. `fds` are those that the plan's slots index; none is consumed,
    /// but a detached mount among them is used up. `targets` finds the pidfd of another container of the pod by id.
    pub fn container<'a>(
        host: &Host,
        plan: &ContainerPlan,
        fds: &[OwnedFd],
        pod: &PodHandles,
        targets: &dyn Fn(&str) -> Option<BorrowedFd<'a>>,
        placement: Placement<'_>,
        stdio: ChildStdio<'_>,
    ) -> Result<Self, Error> {
        let _ = (host, plan, fds, pod, targets, placement, stdio);
        Err(unfinished())
    }

    /// Clones a process into all namespaces of a living container.
    pub fn exec(
        host: &Host,
        plan: ExecPlan<'_>,
        placement: Placement<'_>,
        stdio: ChildStdio<'_>,
    ) -> Result<Self, Error> {
        let _ = (host, plan, placement, stdio);
        Err(unfinished())
    }

    /// The process's pid in the caller's PID namespace.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Becomes readable (EPOLLIN or EPOLLHUP) when [`advance`](Self::advance) has something to say. Level-triggered.
    #[must_use]
    pub fn handshake(&self) -> BorrowedFd<'_> {
        self.handshake.as_fd()
    }

    /// Takes what the child has said. Never blocks. After `Started` or an error there is nothing more to say: remove the handshake from the
    /// poll set and take the launch apart.
    pub fn advance(&mut self) -> Result<Progress, Error> {
        Err(unfinished())
    }

    /// Lets a created container run its program. An error means that the child is gone or has been killed.
    pub fn start(&mut self) -> Result<(), Error> {
        Err(unfinished())
    }

    /// The pidfd of the process, for the caller to keep once it has started.
    #[must_use]
    pub fn into_pidfd(self) -> OwnedFd {
        self.pidfd
    }
}

fn unfinished() -> Error {
    Error::Handshake(0)
}
