//! From a plan to a program that runs.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use oci_plan::{ContainerPlan, FdSlot, NamespaceSource};
use oci_runtime::{ChildStdio, Pause};
use rustix::io::Errno;
use rustix::process::Signal;
use supervisor_api::{CreateContainer, ReplyBody, Restore, WireError};

use super::{Container, Fate, LAUNCH, Phase, names_a_file};
use crate::attach::Stdin;
use crate::connection::Asker;
use crate::denied::Denied;
use crate::poll::Deadline;
use crate::reap::Ending;
use crate::runtime::{
    Aim, Command, Launch, Launched, Made, NewRestore, Progress, failed_precondition, internal,
    invalid, not_found, resource_exhausted,
};
use crate::sandbox::Sandbox;
use crate::streams::{Streams, host_user};
use crate::supervisor::{Supervisor, complain, now_ns, take_slot};

/// No restore takes longer.
const LONGEST_RESTORE: Duration = Duration::from_secs(3600);

impl Supervisor {
    pub(crate) fn create_container(
        &mut self,
        asker: Asker,
        request: CreateContainer,
        pause: Option<(FdSlot, &str)>,
        descriptors: &[OwnedFd],
    ) {
        let id = request.plan.id.clone();
        let begun = self.begin_container(asker, request, pause, None, descriptors);
        self.begun(asker, &id, begun);
    }

    pub(crate) fn restore_container(
        &mut self,
        asker: Asker,
        restore: &Restore,
        descriptors: &[OwnedFd],
    ) {
        let request = restore.create.clone();
        let id = request.plan.id.clone();
        let begun = self.begin_container(asker, request, None, Some(restore), descriptors);
        self.begun(asker, &id, begun);
    }

    fn begun(&mut self, asker: Asker, id: &str, begun: Result<(), WireError>) {
        if let Err(error) = begun {
            let message = format!("create container {id}: {}", error.message);
            self.reply(asker, Err(WireError { message, ..error }));
        }
    }

    pub(super) fn begin_container(
        &mut self,
        asker: Asker,
        request: CreateContainer,
        pause: Option<(FdSlot, &str)>,
        restore: Option<&Restore>,
        descriptors: &[OwnedFd],
    ) -> Result<(), WireError> {
        let CreateContainer { plan, stdio } = request;
        if !matches!(
            self.sandbox,
            Sandbox::Ready {
                init_died: false,
                ..
            }
        ) {
            return Err(failed_precondition("the sandbox is not ready".to_owned()));
        }
        if !names_a_file(&plan.id) {
            return Err(invalid(format!("id {:?} cannot name a file", plan.id)));
        }
        if let Ok(other) = self.container(&plan.id) {
            return Err(failed_precondition(format!(
                "there is one already, which {}",
                other.describe()
            )));
        }
        let pause = match pause {
            Some((host, at)) => Some((take_slot(descriptors, host)?, at)),
            None => None,
        };
        let restoring = match restore {
            Some(restore) => Some((
                restore,
                take_slot(descriptors, restore.mounts)?,
                take_slot(descriptors, restore.directory)?,
                Duration::from_millis(restore.bound_ms).min(LONGEST_RESTORE),
            )),
            None => None,
        };
        let log_file = stdio.log.map(|slot| take_slot(descriptors, slot));
        let log_file = log_file.transpose()?;
        let with_terminal = plan.process.terminal.is_some();
        let (child, mut streams) = if with_terminal {
            (None, None)
        } else {
            let (child, ours) = Streams::open(stdio.stdin)
                .and_then(|(child, ours)| {
                    child.give_to(self.host_user(&plan))?;
                    Ok((child, ours))
                })
                .map_err(|error| {
                    resource_exhausted(format!("open pipes for its standard streams: {error}"))
                })?;
            (Some(child), Some(ours))
        };
        self.exits
            .reserve(&plan.id)
            .map_err(|error| resource_exhausted(format!("reserve its exit record: {error}")))?;
        let key = self.new_key();
        let containers = &self.containers;
        let targets = |id: &str| {
            let target = containers.iter().find(|one| one.id == id)?;
            target.init()
        };
        let child_stdio = child
            .as_ref()
            .map_or_else(ChildStdio::default, Streams::as_child);
        let launched = match &restoring {
            Some((restore, mounts, directory, bound)) => self.handler.restore(
                NewRestore {
                    key,
                    restore,
                    mounts,
                    directory,
                    path: self.directory(),
                    descriptors,
                    stdio: child_stdio,
                    bound: *bound,
                },
                &targets,
            ),
            None => self.handler.create(
                &plan,
                descriptors,
                &targets,
                child_stdio,
                pause.as_ref().map(|(host, at)| Pause {
                    host: Some(host.as_fd()),
                    at,
                }),
                key,
            ),
        };
        let Launched {
            launch,
            body,
            command,
        } = match launched {
            Ok(launched) => launched,
            Err(error) => {
                self.forget_exit(&plan.id);
                return Err(error);
            }
        };
        drop(child);
        let watched = self.poll.watch(&launch, key);
        let bound = restoring.as_ref().map_or(LAUNCH, |one| one.3 + LAUNCH);
        let alarm = self.poll.after(bound, Deadline::Launch(key));
        let stdin = streams.as_mut().and_then(|streams| streams.stdin.take());
        let stdin = stdin.map(|pipe| Stdin::new(pipe, stdio.stdin_once));
        self.containers.push(Container {
            key,
            id: plan.id,
            pid: launch.pid(),
            body,
            phase: Phase::Creating,
            launch: Some(launch),
            alarm: Some(alarm),
            pidfd: None,
            asker: Some(asker),
            reaped: false,
            own_pid_namespace: plan.namespaces.pid == NamespaceSource::New,
            streams,
            log_file,
            log: None,
            reopening: Vec::new(),
            console: None,
            stdin,
            started_at_ns: 0,
            start_error: None,
            removal: None,
            early_end: None,
            leftovers: Vec::new(),
            denied: Denied::default(),
        });
        if let Some(command) = command {
            self.watch_command(command);
        }
        if let Err(error) = watched {
            self.creation_failed(key, internal(format!("watch its launch: {error}")));
        }
        Ok(())
    }

    pub(super) fn host_user(&self, plan: &ContainerPlan) -> u32 {
        let mappings = match (&plan.namespaces.user, &self.sandbox) {
            (NamespaceSource::New, _) => plan.namespaces.mappings.as_ref(),
            (NamespaceSource::Pod, Sandbox::Ready { plan, .. }) => plan.user.as_ref(),
            _ => None,
        };
        host_user(plan.process.user.uid, mappings)
    }

    pub(crate) fn start_container(&mut self, asker: Asker, id: &str) {
        match self.begin_start(asker, id) {
            Ok((key, command)) => {
                if let Some(command) = command {
                    self.watch_command(command);
                }
                let alarm = self.poll.after(LAUNCH, Deadline::Launch(key));
                if let Some(container) = self.keyed(key) {
                    container.alarm = Some(alarm);
                    if let Some(Launch::Restored(_)) = container.launch {
                        self.started(key);
                    }
                }
            }
            Err(error) => {
                let message = format!("start container {id}: {}", error.message);
                self.reply(asker, Err(WireError { message, ..error }));
            }
        }
    }

    fn begin_start(&mut self, asker: Asker, id: &str) -> Result<(u32, Option<Command>), WireError> {
        let found = self.containers.iter_mut().find(|one| one.id == id);
        let container =
            found.ok_or_else(|| not_found(format!("container {id} is not in this pod")))?;
        match (&container.phase, &mut container.launch) {
            (Phase::Created, Some(launch)) if !container.reaped => {
                if let Launch::Restored(_) = launch {
                    container.body.signal(Signal::CONT)?;
                }
                let command = self.handler.start(launch, id, container.key)?;
                container.phase = Phase::Starting;
                container.asker = Some(asker);
                Ok((container.key, command))
            }
            _ => Err(failed_precondition(format!("it {}", container.describe()))),
        }
    }

    /// A runtime has made its init.
    pub(crate) fn container_made(&mut self, key: u32, made: Made) {
        if let Some(container) = self.keyed(key) {
            container.pid = made.pid;
            self.created(key, made.console);
        }
    }

    /// A runtime has not made it, and will not.
    pub(crate) fn container_not_made(&mut self, key: u32, error: WireError) {
        let Some(container) = self.keyed(key) else {
            return;
        };
        // Its init, if there is one, was never ours to wait for.
        container.reaped = true;
        match container.phase {
            Phase::Creating => self.creation_failed(key, error),
            _ => self.try_remove(key),
        }
    }

    /// A runtime's start has ended. Returns how the init has ended meanwhile, which now is to be told.
    pub(crate) fn start_told(&mut self, key: u32, fate: Fate) -> Option<Ending> {
        match fate {
            Fate::Started => {
                let starting =
                    |container: &mut Container| matches!(container.phase, Phase::Starting);
                if self.keyed(key).is_some_and(starting) {
                    self.started(key);
                }
            }
            Fate::Failed(error) => self.launch_failed(key, error),
        }
        self.keyed(key)?.early_end.take()
    }

    pub(crate) fn resume_container(&mut self, asker: Asker, id: &str) {
        let resumed = self.container(id).and_then(|container| {
            match (&container.phase, &mut container.launch) {
                (Phase::Paused, Some(launch)) if !container.reaped => {
                    launch.resume()?;
                    container.phase = Phase::Creating;
                    container.asker = Some(asker);
                    Ok(container.key)
                }
                _ => Err(failed_precondition(format!("it {}", container.describe()))),
            }
        });
        match resumed {
            Ok(key) => {
                let alarm = self.poll.after(LAUNCH, Deadline::Launch(key));
                if let Some(container) = self.keyed(key) {
                    container.alarm = Some(alarm);
                }
            }
            Err(error) => {
                let message = format!("resume container {id}: {}", error.message);
                self.reply(asker, Err(WireError { message, ..error }));
            }
        }
    }

    /// Whoever made it wait has its own bounds.
    fn paused(&mut self, key: u32) {
        let Some(container) = self.containers.iter_mut().find(|one| one.key == key) else {
            return;
        };
        self.poll.cancel(container.alarm.take());
        container.phase = Phase::Paused;
        let pid = container.pid;
        if let Some(asker) = container.asker.take() {
            self.reply(asker, Ok(ReplyBody::Paused { pid }));
        }
    }

    /// The launch has something to say.
    pub(crate) fn advance_container(&mut self, key: u32) {
        let Some(container) = self.keyed(key) else {
            return;
        };
        let Some(launch) = &mut container.launch else {
            return;
        };
        match launch.advance() {
            Ok(Progress::Pending) => {}
            Ok(Progress::Paused) => self.paused(key),
            Ok(Progress::Created { console }) => self.created(key, console),
            Ok(Progress::Started { .. }) => self.started(key),
            Ok(Progress::Listening(listener)) => {
                self.listen(key, listener);
                self.advance_container(key);
            }
            Err(error) => self.launch_failed(key, error),
        }
    }

    pub(super) fn created(&mut self, key: u32, console: Option<OwnedFd>) {
        if let Err(error) = self.connect_log(key, console) {
            let error = resource_exhausted(format!("hand its output to the log process: {error}"));
            return self.creation_failed(key, error);
        }
        let Some(container) = self.containers.iter_mut().find(|one| one.key == key) else {
            return;
        };
        self.poll.cancel(container.alarm.take());
        container.phase = Phase::Created;
        let pid = container.pid;
        if let Some(asker) = container.asker.take() {
            self.reply(asker, Ok(ReplyBody::Created { pid }));
        }
    }

    pub(crate) fn connect_log(&mut self, key: u32, console: Option<OwnedFd>) -> Result<(), Errno> {
        let Some(container) = self.containers.iter_mut().find(|one| one.key == key) else {
            return Ok(());
        };
        let (stdout, stderr) = match (console, container.streams.take()) {
            (Some(console), _) => {
                rustix::io::ioctl_fionbio(&console, true)?;
                let copy = rustix::io::fcntl_dupfd_cloexec(&console, 3)?;
                container.console = Some(console);
                (copy, None)
            }
            (None, Some(streams)) => match (streams.stdout, streams.stderr) {
                (Some(stdout), stderr) => (stdout, stderr),
                (None, _) => return Ok(()),
            },
            // Its terminal comes when it starts.
            (None, None) => return Ok(()),
        };
        let file = container.log_file.take();
        container.log = Some(self.logs.add(&self.poll, stdout, stderr, file)?);
        Ok(())
    }

    pub(super) fn started(&mut self, key: u32) {
        let Some(container) = self.containers.iter_mut().find(|one| one.key == key) else {
            return;
        };
        if let Some(launch) = container.launch.take() {
            self.poll.forget(&launch);
            container.pidfd = launch.into_pidfd();
        }
        self.poll.cancel(container.alarm.take());
        container.phase = Phase::Running;
        container.started_at_ns = now_ns();
        let started = ReplyBody::Started {
            pid: container.pid,
            started_at_ns: container.started_at_ns,
        };
        if let Some(asker) = container.asker.take() {
            self.reply(asker, Ok(started));
        }
    }

    /// The child has been killed; it is reaped like every other.
    pub(super) fn launch_failed(&mut self, key: u32, error: WireError) {
        let Some(container) = self.containers.iter_mut().find(|one| one.key == key) else {
            return;
        };
        self.poll.cancel(container.alarm.take());
        if let Some(launch) = container.launch.take() {
            self.poll.forget(&launch);
            // Dropping the launch kills the process, so that it is reaped in any case.
        }
        for command in &self.commands {
            if command.aim == Aim::Start(key) {
                command.kill();
            }
        }
        match container.phase {
            Phase::Creating | Phase::Paused => self.creation_failed(key, error),
            Phase::Starting => {
                container.start_error = Some(error.message.clone());
                let message = format!("start container {}: {}", container.id, error.message);
                let asker = container.asker.take();
                if let Some(asker) = asker {
                    self.reply(asker, Err(WireError { message, ..error }));
                }
            }
            // It died while it waited to be started, or its exit has been seen first.
            Phase::Created
            | Phase::Running
            | Phase::Draining(_)
            | Phase::Exited(_)
            | Phase::Failed(_) => {}
        }
    }

    pub(super) fn creation_failed(&mut self, key: u32, error: WireError) {
        let Some(container) = self.containers.iter_mut().find(|one| one.key == key) else {
            return;
        };
        self.poll.cancel(container.alarm.take());
        if let Some(launch) = container.launch.take() {
            self.poll.forget(&launch);
        }
        container.phase = Phase::Failed(error);
        self.kill_commands_of(key);
        self.begin_removal(key, None);
    }

    pub(crate) fn container_overdue(&mut self, key: u32) {
        let Some(container) = self.keyed(key) else {
            return;
        };
        if let Phase::Creating | Phase::Starting = container.phase {
            let error = internal(format!(
                "its init did not get ready within {} s and was killed",
                LAUNCH.as_secs()
            ));
            if let Err(error) = container.body.kill() {
                complain(&error.message);
            }
            self.launch_failed(key, error);
        }
    }
}
