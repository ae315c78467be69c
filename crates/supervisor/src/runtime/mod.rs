//! The handler seam: who makes, runs and ends a pod's containers.
//!
//! Two handlers: the core in this process, and an external OCI command line. `docs/decisions/2026-11-21-handler-seam.md` draws the line, and
//! `docs/decisions/2026-11-21-oci-handlers.md` says how the second one came to lie. What the supervisor keeps to itself, whatever the
//! handler: ids and states, descriptors and pipes, logs, reaping, exit records, deadlines. What a handler owns: how a container and an exec
//! come to be.
//!
//! Nothing here waits. What takes time is a [`Launch`]: of the core, a descriptor to poll and a process to reap; of a runtime, a [`Command`]
//! to reap, which leaves a process behind.

mod criu;
mod embedded;
mod failure;
mod launch;
mod loopback;
mod oci;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use oci_plan::{ContainerPlan, Process, Resources, SandboxPlan};
use oci_runtime::{ChildStdio, Pause};
use rustix::process::Signal;
use supervisor_api::{OciRuntime, WireError};

pub(crate) use criu::NewRestore;
pub(crate) use embedded::Embedded;
pub(crate) use failure::{
    core, failed_precondition, internal, invalid, not_found, resource_exhausted, unavailable,
};
pub(crate) use launch::Launch;
pub(crate) use oci::{Aim, Command, Made, Outcome};
pub(crate) use oci_runtime::Progress;

use oci::Oci;

/// Who makes a pod's containers: the core in this process, unless there is a runtime. Sandboxes and cgroups are always the core's.
#[derive(Debug)]
pub(crate) struct Handler {
    core: Embedded,
    runtime: Option<Oci>,
}

/// What a container or an exec lives in: a cgroup of the container, or below it for an exec.
#[derive(Debug)]
pub(crate) struct Body(cgroup::Cgroup);

/// A process on its way, and what it lives in.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) launch: Launch,
    pub(crate) body: Body,
    /// What makes it, if that is not the launch itself.
    pub(crate) command: Option<Command>,
}

/// An exec to begin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewExec<'a> {
    pub(crate) key: u32,
    pub(crate) container_id: &'a str,
    pub(crate) container: &'a Body,
    pub(crate) init: BorrowedFd<'a>,
    pub(crate) exec_id: &'a str,
    pub(crate) process: &'a Process,
    pub(crate) stdio: ChildStdio<'a>,
}

impl Handler {
    pub(crate) fn new(core: Embedded) -> Self {
        Self {
            core,
            runtime: None,
        }
    }

    /// From now on a runtime makes the containers. `directory` is the pod's, which the host calls `path`.
    pub(crate) fn use_runtime(
        &mut self,
        runtime: OciRuntime,
        mounts: OwnedFd,
        directory: OwnedFd,
        path: PathBuf,
    ) -> Result<(), WireError> {
        for path in [&runtime.program, &runtime.bundles] {
            if !path.starts_with('/') {
                return Err(invalid(format!("{path:?} is no absolute path")));
            }
        }
        if self.runtime.is_some() {
            return Err(failed_precondition("the pod has a runtime".to_owned()));
        }
        self.runtime = Some(Oci::new(runtime, mounts, directory, path));
        Ok(())
    }

    /// Makes what the pod's containers share. On failure nothing stays.
    pub(crate) fn create_sandbox(&mut self, plan: &SandboxPlan) -> Result<(), WireError> {
        self.core.create_sandbox(plan)
    }

    /// The network namespace of the pod, where it has its own.
    pub(crate) fn network(&self) -> Option<BorrowedFd<'_>> {
        self.core.network()
    }

    /// The user namespace of the pod, where it has its own.
    pub(crate) fn user_namespace(&self) -> Option<BorrowedFd<'_>> {
        self.core.user_namespace()
    }

    /// The init of the pod's PID namespace, where it has its own: the pid that is reaped, and what kills it.
    pub(crate) fn sandbox_init(&self) -> Option<(i32, BorrowedFd<'_>)> {
        self.core.sandbox_init()
    }

    /// Lets go of the namespaces. Its processes have been killed.
    pub(crate) fn stop_sandbox(&mut self) {
        self.core.stop_sandbox();
    }

    /// Takes away what is left; repeating it does no harm.
    pub(crate) fn remove_sandbox(&mut self) -> Result<(), WireError> {
        self.core.remove_sandbox()
    }

    /// Begins a container; its launch, or its command, says when it is created.
    pub(crate) fn create<'a>(
        &self,
        plan: &ContainerPlan,
        descriptors: &[OwnedFd],
        targets: &dyn Fn(&str) -> Option<BorrowedFd<'a>>,
        stdio: ChildStdio<'_>,
        pause: Option<Pause<'_>>,
        key: u32,
    ) -> Result<Launched, WireError> {
        match &self.runtime {
            None => self
                .core
                .create(plan, descriptors, targets, stdio, pause)
                .map(Launched::embedded),
            // Its own hooks are that runtime's to run.
            Some(_) if pause.is_some() => Err(failed_precondition(
                "another runtime makes the pod's containers, and none of them waits".to_owned(),
            )),
            Some(runtime) => {
                let places =
                    oci::places(&self.core, plan, descriptors, targets, runtime.bundles())?;
                runtime
                    .create(&self.core, plan, places, stdio, key)
                    .map(Launched::oci)
            }
        }
    }

    /// Lets a created container run its program: at once, or by a command.
    pub(crate) fn start(
        &self,
        launch: &mut Launch,
        id: &str,
        key: u32,
    ) -> Result<Option<Command>, WireError> {
        match launch {
            Launch::Embedded(launch) => match launch.start() {
                Ok(()) => Ok(None),
                Err(error) => Err(core(&error)),
            },
            // Its processes go on by a signal.
            Launch::Restored(_) => Ok(None),
            Launch::Oci(launch) => self.simple(Aim::Start(key), |runtime, aim| {
                runtime.start(&self.core, launch, id, aim)
            }),
        }
    }

    /// Whether a container runs inside the pod's sandbox, and not in a process of the host's.
    pub(crate) fn is_inside(&self, id: &str) -> bool {
        self.runtime.as_ref().is_some_and(|one| one.is_inside(id))
    }

    /// The container that is the pod's sandbox, where there is one.
    pub(crate) fn sandbox_container(&self) -> Option<&str> {
        self.runtime.as_ref().and_then(Oci::sandbox)
    }

    /// What stands in for a container inside the sandbox, which has been started, and its terminal.
    pub(crate) fn stand_in(
        &self,
        launch: &mut Launch,
        id: &str,
        key: u32,
    ) -> Result<(Command, Option<OwnedFd>), WireError> {
        match (&self.runtime, launch) {
            (Some(runtime), Launch::Oci(launch)) => runtime.stand_in(&self.core, launch, id, key),
            (None, _) | (_, Launch::Embedded(_) | Launch::Restored(_)) => {
                Err(internal("it is in no sandbox".to_owned()))
            }
        }
    }

    /// A signal to a container inside the sandbox.
    pub(crate) fn signal_inside(
        &self,
        id: &str,
        signal: Signal,
        all: bool,
        aim: Aim,
    ) -> Result<Option<Command>, WireError> {
        self.simple(aim, |runtime, aim| {
            runtime.signal_inside(&self.core, id, signal, all, aim)
        })
    }

    /// Begins a process in a running container.
    pub(crate) fn exec(&self, new: NewExec<'_>) -> Result<Launched, WireError> {
        // Unique in the pod.
        let name = format!("exec-{}", new.key);
        match &self.runtime {
            None => self
                .core
                .exec(new.container, new.init, &name, new.process, new.stdio)
                .map(Launched::embedded),
            Some(runtime) => runtime.exec(&self.core, &name, new).map(Launched::oci),
        }
    }

    /// A signal to a container's init, where a command sends it.
    pub(crate) fn kill(
        &self,
        id: &str,
        signal: Signal,
        aim: Aim,
    ) -> Result<Option<Command>, WireError> {
        let signal = signal.as_raw();
        self.simple(aim, |runtime, aim| {
            runtime.kill(&self.core, id, signal, aim)
        })
    }

    /// Lets the runtime forget a container, where there is one.
    pub(crate) fn delete(&self, id: &str, key: u32) -> Result<Option<Command>, WireError> {
        self.simple(Aim::Delete(key), |runtime, aim| {
            runtime.delete(&self.core, id, aim)
        })
    }

    fn simple(
        &self,
        aim: Aim,
        run: impl FnOnce(&Oci, Aim) -> Result<Command, WireError>,
    ) -> Result<Option<Command>, WireError> {
        let runtime = self.runtime.as_ref();
        runtime.map(|runtime| run(runtime, aim)).transpose()
    }

    /// What a command has made, once it has succeeded. `ended` says of a pid whether it has been reaped already.
    pub(crate) fn made(
        &self,
        launch: &mut Launch,
        verb: &str,
        ended: impl Fn(i32) -> bool,
    ) -> Result<Made, WireError> {
        match (&self.runtime, launch) {
            (_, Launch::Restored(launch)) => launch.made(ended),
            (Some(runtime), Launch::Oci(launch)) => runtime.made(launch, verb, ended),
            (None, _) | (_, Launch::Embedded(_)) => {
                Err(internal("no command has made it".to_owned()))
            }
        }
    }

    /// An exec is over.
    pub(crate) fn forget_exec(&self, container_id: &str, exec_id: &str) {
        if let Some(runtime) = &self.runtime {
            runtime.forget_exec(container_id, exec_id);
        }
    }
}

impl Launched {
    fn embedded((launch, body): (oci_runtime::Launch, Body)) -> Self {
        Self {
            launch: Launch::Embedded(launch),
            body,
            command: None,
        }
    }

    fn oci((launch, body, command): (oci::Launch, Body, Command)) -> Self {
        Self {
            launch: Launch::Oci(launch),
            body,
            command: Some(command),
        }
    }
}

impl Body {
    /// Kills every process in it.
    pub(crate) fn kill(&self) -> Result<(), WireError> {
        self.0.kill_all().map_err(|error| failure::cgroup(&error))
    }

    /// Signals every process in it.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), WireError> {
        self.0
            .signal(signal)
            .map_err(|error| failure::cgroup(&error))
    }

    /// Holds every process in it still; bounded by half a second.
    pub(crate) fn freeze(&self) -> Result<(), WireError> {
        self.0.freeze().map_err(|error| failure::cgroup(&error))
    }

    /// Lets them go on; also when they were not held.
    pub(crate) fn thaw(&self) -> Result<(), WireError> {
        self.0.thaw().map_err(|error| failure::cgroup(&error))
    }

    pub(crate) fn update(&self, resources: &Resources) -> Result<(), WireError> {
        self.0
            .update(resources)
            .map_err(|error| failure::cgroup(&error))
    }

    /// Whether the OOM killer has killed any of its processes.
    pub(crate) fn oom_killed(&self) -> bool {
        self.0.oom_kills().is_ok_and(|kills| kills > 0)
    }

    /// Takes it away if nothing is left in it. `Ok(false)`: something is.
    pub(crate) fn remove(&self) -> Result<bool, WireError> {
        match self.0.remove_within(std::time::Duration::ZERO) {
            Ok(()) => Ok(true),
            Err(cgroup::Error::InUse { .. }) => Ok(false),
            Err(error) => Err(failure::cgroup(&error)),
        }
    }

    /// One below it, for an exec.
    fn exec(&self, name: &str) -> Result<Self, WireError> {
        self.0
            .create_exec(name)
            .map(Self)
            .map_err(|error| failure::cgroup(&error))
    }

    /// Its files to enter it by in v1 trees, and its directory in the v2 tree.
    fn entrances(&self) -> Result<(Vec<OwnedFd>, Option<OwnedFd>), WireError> {
        let tasks = self.0.attach_fds();
        let tasks = tasks.map_err(|error| failure::cgroup(&error))?;
        Ok((tasks, self.unified()?))
    }

    /// Its directory in the v2 tree.
    fn unified(&self) -> Result<Option<OwnedFd>, WireError> {
        self.0
            .unified_dir()
            .map_err(|error| failure::cgroup(&error))
    }
}
