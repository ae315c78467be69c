//! Containers.
//!
//! ```text
//!            CreateContainer            StartContainer
//!                   │                          │
//!                   ▼                          ▼
//!               Creating ──Created──▶ Created ──▶ Starting ──Started──▶ Running
//!                   │                    │           │                    │
//!        error, deadline, death        death   error (128), death       death
//!                   ▼                    └───────────┴─────────┬──────────┘
//!                Failed                                        ▼
//!                   │                                      Draining   its log is written to the end, bounded
//!                   │                                          │
//!                   │                                          ▼
//!                   │                                       Exited    record on disk, event sent
//!                   ▼                                          │
//!                removal ◀─────────── DeleteContainer ─────────┘ (from every state)
//! ```
//!
//! One that is made to wait is `Paused` in the middle of `Creating`, until it is resumed; what happens to it then happens as in `Creating`.
//!
//! A launch says what happened to the program, SIGCHLD says what happened to the process; both are needed, in either order. `Failed` is
//! never shown: the creation is answered once nothing is left of it, so that it can be repeated at once.

mod exit;
mod launch;
mod removal;
mod requests;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use supervisor_api::{ContainerStatus, ExitRecord, WireError};

use crate::attach::Stdin;
use crate::connection::Asker;
use crate::denied::Denied;
use crate::logs::LogKey;
use crate::poll::Alarm;
use crate::reap::Ending;
use crate::runtime::{Body, Launch, not_found};
use crate::streams::Streams;
use crate::supervisor::Supervisor;

/// How long an init may take to set itself up, and to execute its program.
pub(crate) const LAUNCH: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) key: u32,
    pub(crate) id: String,
    pub(crate) pid: i32,
    pub(crate) body: Body,
    phase: Phase,
    launch: Option<Launch>,
    /// When its launch, or the end of its log, is overdue.
    alarm: Option<Alarm>,
    pidfd: Option<OwnedFd>,
    /// Who waits for its creation or its start.
    asker: Option<Asker>,
    pub(crate) reaped: bool,
    /// The kernel kills what is left when init dies; otherwise it is done here.
    own_pid_namespace: bool,
    /// The ends of its pipes, until the log process gets them.
    streams: Option<Streams>,
    log_file: Option<OwnedFd>,
    pub(crate) log: Option<LogKey>,
    /// In order; `None` has been answered in the meantime.
    reopening: Vec<Option<Asker>>,
    pub(crate) console: Option<OwnedFd>,
    /// Kept open for attach.
    pub(crate) stdin: Option<Stdin>,
    started_at_ns: i64,
    start_error: Option<String>,
    removal: Option<Removal>,
    /// How its init ended while a runtime's command was still starting it.
    early_end: Option<Ending>,
    /// Cgroups of execs that left processes behind.
    pub(crate) leftovers: Vec<Body>,
    pub(crate) denied: Denied,
}

#[derive(Debug)]
enum Phase {
    Creating,
    Paused,
    Created,
    Starting,
    Running,
    Draining(ExitRecord),
    Exited(ExitRecord),
    Failed(WireError),
}

#[derive(Debug)]
struct Removal {
    askers: Vec<Asker>,
    until: Instant,
    pause: Duration,
    forgetting: Forgetting,
}

/// How far a runtime is with forgetting the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Forgetting {
    Due,
    UnderWay,
    Done,
}

/// What a runtime's command says of a start.
#[derive(Debug)]
pub(crate) enum Fate {
    Started,
    Failed(WireError),
}

impl Container {
    pub(crate) fn status(&self) -> Option<ContainerStatus> {
        let pid = self.pid;
        match &self.phase {
            Phase::Creating | Phase::Paused | Phase::Failed(_) => None,
            Phase::Created | Phase::Starting => Some(ContainerStatus::Created { pid }),
            // Its exit is told once its output is written.
            Phase::Running | Phase::Draining(_) => Some(ContainerStatus::Running {
                pid,
                started_at_ns: self.started_at_ns,
            }),
            Phase::Exited(exit) => Some(ContainerStatus::Exited(exit.clone())),
        }
    }

    /// Until it has started, or has been given up.
    pub(crate) fn launch_mut(&mut self) -> Option<&mut Launch> {
        self.launch.as_mut()
    }

    /// Its init, while it is there.
    fn init(&self) -> Option<BorrowedFd<'_>> {
        match (self.reaped, &self.pidfd, &self.launch) {
            (true, _, _) => None,
            (false, Some(pidfd), _) => Some(pidfd.as_fd()),
            (false, None, launch) => launch.as_ref().and_then(Launch::pidfd),
        }
    }

    /// Its init, once it runs its program.
    pub(crate) fn running_init(&self) -> Option<BorrowedFd<'_>> {
        match self.phase {
            Phase::Running => self.init(),
            _ => None,
        }
    }

    /// Its init, while it waits to be resumed or started.
    pub(crate) fn waiting_init(&self) -> Option<BorrowedFd<'_>> {
        match self.phase {
            Phase::Paused | Phase::Created => self.init(),
            _ => None,
        }
    }

    pub(crate) fn at_rest(&self) -> bool {
        self.reaped && matches!(self.phase, Phase::Exited(_) | Phase::Failed(_))
    }

    fn describe(&self) -> &'static str {
        match self.phase {
            Phase::Creating => "is being created",
            Phase::Paused => "waits before its root",
            Phase::Created => "is created and not started",
            Phase::Starting => "is being started",
            Phase::Running => "is running",
            Phase::Draining(_) | Phase::Exited(_) => "has exited",
            Phase::Failed(_) => "could not be created",
        }
    }
}

impl Supervisor {
    pub(crate) fn container(&mut self, id: &str) -> Result<&mut Container, WireError> {
        self.containers
            .iter_mut()
            .find(|one| one.id == id)
            .ok_or_else(|| not_found(format!("container {id} is not in this pod")))
    }

    pub(crate) fn keyed(&mut self, key: u32) -> Option<&mut Container> {
        self.containers.iter_mut().find(|one| one.key == key)
    }

    pub(super) fn logged(&mut self, key: LogKey) -> Option<&mut Container> {
        self.containers.iter_mut().find(|one| one.log == Some(key))
    }
}

/// Exit records are named by containers' ids.
fn names_a_file(id: &str) -> bool {
    !id.is_empty() && id.len() <= 200 && !id.starts_with('.') && !id.contains(['/', '\0'])
}
