//! Containers inside a pod's sandbox, as gVisor has them: the first container is the sandbox, whose kernel runs the others.
//!
//! ```text
//!  create ──▶ Created, with nothing that runs ──start──▶ wait, a command that stands in for the container
//!                                                           └── ends with it, and prints its exit status
//! ```
//!
//! No process of the host's is such a container: what is done to it is done by a command, and its streams are handed over by `start`.

use std::os::fd::{AsFd, OwnedFd};

use oci_runtime::ChildStdio;
use rustix::process::Signal;
use supervisor_api::WireError;

use super::{Aim, Command, Embedded, Launch, Made, Oci, Order, Place};
use crate::runtime::internal;

/// What `start` is given, from the time of `create` on.
#[derive(Debug)]
pub(super) struct Held {
    places: Vec<Place>,
    /// Standard input, output and error.
    stdio: [Option<OwnedFd>; 3],
}

/// There is no process until it is started.
pub(super) const NOT_YET: Made = Made {
    pid: 0,
    console: None,
};

impl Held {
    pub(super) fn hold(places: Vec<Place>, stdio: ChildStdio<'_>) -> Result<Self, WireError> {
        let copy = |stream: Option<std::os::fd::BorrowedFd<'_>>| {
            let copied = stream.map(|stream| rustix::io::fcntl_dupfd_cloexec(stream, 3));
            let failed = |error| internal(format!("hold on to its streams: {error}"));
            copied.transpose().map_err(failed)
        };
        Ok(Self {
            places,
            stdio: [copy(stdio.stdin)?, copy(stdio.stdout)?, copy(stdio.stderr)?],
        })
    }
}

impl Oci {
    /// Whether a container runs on the kernel of another one.
    pub(in crate::runtime) fn is_inside(&self, id: &str) -> bool {
        self.sandbox().is_some_and(|sandbox| sandbox != id)
    }

    /// The container that is the pod's sandbox.
    pub(in crate::runtime) fn sandbox(&self) -> Option<&str> {
        self.runtime.sandbox.as_deref()
    }

    pub(super) fn start_inside(
        &self,
        core: &Embedded,
        launch: &Launch,
        held: Held,
        id: &str,
        aim: Aim,
    ) -> Result<Command, WireError> {
        let [stdin, stdout, stderr] = held
            .stdio
            .each_ref()
            .map(|one| one.as_ref().map(AsFd::as_fd));
        let stdio = ChildStdio {
            stdin,
            stdout,
            stderr,
        };
        let mut order = Order::of(aim, &["start", id]);
        order.stdio = launch.console.is_none().then_some(stdio);
        order.places = &held.places;
        self.run(core, order)
    }

    /// Begins to wait for a container that has been started. Its terminal comes with it, where it has one.
    pub(in crate::runtime) fn stand_in(
        &self,
        core: &Embedded,
        launch: &mut Launch,
        id: &str,
        key: u32,
    ) -> Result<(Command, Option<OwnedFd>), WireError> {
        let console = self.terminal(launch, "start")?;
        let command = self.run(core, Order::of(Aim::Wait(key), &["wait", id]))?;
        let pidfd = rustix::io::fcntl_dupfd_cloexec(command.pidfd(), 3);
        launch.init =
            Some(pidfd.map_err(|error| internal(format!("hold on to its stand-in: {error}")))?);
        Ok((command, console))
    }

    /// Signals a container's init, or all that runs in it.
    pub(in crate::runtime) fn signal_inside(
        &self,
        core: &Embedded,
        id: &str,
        signal: Signal,
        all: bool,
        aim: Aim,
    ) -> Result<Command, WireError> {
        let number = signal.as_raw().to_string();
        let arguments: &[&str] = match all {
            true => &["kill", "--all", id, &number],
            false => &["kill", id, &number],
        };
        self.run(core, Order::of(aim, arguments))
    }
}
