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
//! A launch says what happened to the program, SIGCHLD says what happened to the process; both are needed, in either order. `Failed` is
//! never shown: the creation is answered once nothing is left of it, so that it can be repeated at once.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use oci_plan::{ContainerPlan, FdSlot, NamespaceSource, Resources, TerminalSize};
use oci_runtime::ChildStdio;
use rustix::io::Errno;
use rustix::process::Signal;
use rustix::termios::Winsize;
use supervisor_api::{
    ContainerStatus, CreateContainer, ErrorKind, Event, ExitRecord, ReplyBody, WireError,
};

use crate::connection::{Asker, chain};
use crate::logs::{DRAIN, LogKey};
use crate::poll::{Alarm, Deadline, Interest, Source};
use crate::reap::Ending;
use crate::runtime::{
    Body, Launch, Launched, Progress, failed_precondition, internal, invalid, not_found,
    resource_exhausted,
};
use crate::sandbox::Sandbox;
use crate::streams::{Streams, host_user};
use crate::supervisor::{Supervisor, complain, now_ns, take_slot};

/// How long an init may take to set itself up, and to execute its program.
pub(crate) const LAUNCH: Duration = Duration::from_secs(30);

/// Grace of the log process beyond its own bound, before an exit is told without it.
const DRAIN_GRACE: Duration = Duration::from_secs(3);

/// How long a log file may take to be changed; only a blocked write takes long.
const REOPEN: Duration = Duration::from_secs(10);

/// How long killed processes may stay before their removal is given up. D state has no end of its own.
const REMOVAL: Duration = Duration::from_secs(10);

/// What other runtimes report for a program that could not be started.
const START_FAILED: i32 = 128;

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
    log: Option<LogKey>,
    /// In order; `None` has been answered in the meantime.
    reopening: Vec<Option<Asker>>,
    console: Option<OwnedFd>,
    /// Kept open for attach.
    #[expect(
        dead_code,
        reason = "attach will write to it; until then it keeps the program from reading an end of file"
    )]
    stdin: Option<OwnedFd>,
    started_at_ns: i64,
    start_error: Option<String>,
    removal: Option<Removal>,
    /// Cgroups of execs that left processes behind.
    pub(crate) leftovers: Vec<Body>,
}

#[derive(Debug)]
enum Phase {
    Creating,
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
}

impl Container {
    pub(crate) fn status(&self) -> Option<ContainerStatus> {
        let pid = self.pid;
        match &self.phase {
            Phase::Creating | Phase::Failed(_) => None,
            Phase::Created | Phase::Starting => Some(ContainerStatus::Created { pid }),
            // Its exit is told once its output is written.
            Phase::Running | Phase::Draining(_) => Some(ContainerStatus::Running {
                pid,
                started_at_ns: self.started_at_ns,
            }),
            Phase::Exited(exit) => Some(ContainerStatus::Exited(exit.clone())),
        }
    }

    /// Its init, while it is there.
    fn init(&self) -> Option<BorrowedFd<'_>> {
        match (self.reaped, &self.pidfd, &self.launch) {
            (true, _, _) => None,
            (false, Some(pidfd), _) => Some(pidfd.as_fd()),
            (false, None, launch) => launch.as_ref().map(Launch::pidfd),
        }
    }

    /// Its init, once it runs its program.
    pub(crate) fn running_init(&self) -> Option<BorrowedFd<'_>> {
        match self.phase {
            Phase::Running => self.init(),
            _ => None,
        }
    }

    pub(crate) fn at_rest(&self) -> bool {
        self.reaped && matches!(self.phase, Phase::Exited(_) | Phase::Failed(_))
    }

    fn describe(&self) -> &'static str {
        match self.phase {
            Phase::Creating => "is being created",
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

    fn keyed(&mut self, key: u32) -> Option<&mut Container> {
        self.containers.iter_mut().find(|one| one.key == key)
    }

    fn logged(&mut self, key: LogKey) -> Option<&mut Container> {
        self.containers.iter_mut().find(|one| one.log == Some(key))
    }

    pub(crate) fn create_container(
        &mut self,
        asker: Asker,
        request: CreateContainer,
        descriptors: &[OwnedFd],
    ) {
        let id = request.plan.id.clone();
        if let Err(error) = self.begin_container(asker, request, descriptors) {
            let message = format!("create container {id}: {}", error.message);
            self.reply(asker, Err(WireError { message, ..error }));
        }
    }

    fn begin_container(
        &mut self,
        asker: Asker,
        request: CreateContainer,
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
        let containers = &self.containers;
        let launched = self.handler.create(
            &plan,
            descriptors,
            &|id| {
                let target = containers.iter().find(|one| one.id == id)?;
                target.init()
            },
            child
                .as_ref()
                .map_or_else(ChildStdio::default, Streams::as_child),
        );
        let Launched { launch, body } = match launched {
            Ok(launched) => launched,
            Err(error) => {
                self.forget_exit(&plan.id);
                return Err(error);
            }
        };
        drop(child);
        let key = self.new_key();
        let watched = self
            .poll
            .add(launch.handshake(), Source::Launch(key), Interest::Read);
        let alarm = self.poll.after(LAUNCH, Deadline::Launch(key));
        let stdin = streams.as_mut().and_then(|streams| streams.stdin.take());
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
            leftovers: Vec::new(),
        });
        if let Err(error) = watched {
            self.creation_failed(key, internal(format!("watch its launch: {error}")));
        }
        Ok(())
    }

    fn host_user(&self, plan: &ContainerPlan) -> u32 {
        let mappings = match (&plan.namespaces.user, &self.sandbox) {
            (NamespaceSource::New, _) => plan.namespaces.mappings.as_ref(),
            (NamespaceSource::Pod, Sandbox::Ready { plan, .. }) => plan.user.as_ref(),
            _ => None,
        };
        host_user(plan.process.user.uid, mappings)
    }

    pub(crate) fn start_container(&mut self, asker: Asker, id: &str) {
        let result = self.container(id).and_then(|container| {
            match (&container.phase, &mut container.launch) {
                (Phase::Created, Some(launch)) if !container.reaped => {
                    launch.start().map_err(|error| internal(chain(&error)))?;
                    container.phase = Phase::Starting;
                    container.asker = Some(asker);
                    Ok(container.key)
                }
                _ => Err(failed_precondition(format!("it {}", container.describe()))),
            }
        });
        match result {
            Ok(key) => {
                let alarm = self.poll.after(LAUNCH, Deadline::Launch(key));
                if let Some(container) = self.keyed(key) {
                    container.alarm = Some(alarm);
                }
            }
            Err(error) => {
                let message = format!("start container {id}: {}", error.message);
                self.reply(asker, Err(WireError { message, ..error }));
            }
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
            Ok(Progress::Created { console }) => self.created(key, console),
            Ok(Progress::Started { .. }) => self.started(key),
            Err(error) => {
                let error = crate::runtime::core(&error);
                self.launch_failed(key, error);
            }
        }
    }

    fn created(&mut self, key: u32, console: Option<OwnedFd>) {
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

    fn connect_log(&mut self, key: u32, console: Option<OwnedFd>) -> Result<(), Errno> {
        let Some(container) = self.containers.iter_mut().find(|one| one.key == key) else {
            return Ok(());
        };
        let file = container.log_file.take();
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
            (None, None) => return Ok(()),
        };
        container.log = Some(self.logs.add(&self.poll, stdout, stderr, file)?);
        Ok(())
    }

    fn started(&mut self, key: u32) {
        let Some(container) = self.containers.iter_mut().find(|one| one.key == key) else {
            return;
        };
        if let Some(launch) = container.launch.take() {
            self.poll.remove(launch.handshake());
            container.pidfd = Some(launch.into_pidfd());
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
    fn launch_failed(&mut self, key: u32, error: WireError) {
        let Some(container) = self.containers.iter_mut().find(|one| one.key == key) else {
            return;
        };
        self.poll.cancel(container.alarm.take());
        if let Some(launch) = container.launch.take() {
            self.poll.remove(launch.handshake());
            // Dropping the launch kills the process, so that it is reaped in any case.
        }
        match container.phase {
            Phase::Creating => self.creation_failed(key, error),
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

    fn creation_failed(&mut self, key: u32, error: WireError) {
        let Some(container) = self.containers.iter_mut().find(|one| one.key == key) else {
            return;
        };
        self.poll.cancel(container.alarm.take());
        if let Some(launch) = container.launch.take() {
            self.poll.remove(launch.handshake());
        }
        container.phase = Phase::Failed(error);
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

    pub(crate) fn signal(
        &mut self,
        id: &str,
        number: i32,
        all: bool,
    ) -> Result<ReplyBody, WireError> {
        let container = self.container(id)?;
        let signal = sys::signal_from_number(number)
            .ok_or_else(|| invalid(format!("signal container {id}: {number} is no signal")))?;
        if let Phase::Creating | Phase::Failed(_) = container.phase {
            return Err(failed_precondition(format!(
                "signal container {id}: it {}",
                container.describe()
            )));
        }
        let Some(init) = container.init() else {
            return Ok(ReplyBody::Done);
        };
        let sent = match (all, signal) {
            (true, Signal::KILL) => container.body.kill(),
            (true, signal) => container.body.signal(signal),
            (false, signal) => match rustix::process::pidfd_send_signal(init, signal) {
                Ok(()) | Err(Errno::SRCH) => Ok(()),
                Err(error) => Err(internal(error.to_string())),
            },
        };
        sent.map_err(|error| WireError {
            message: format!("signal container {id}: {}", error.message),
            ..error
        })?;
        Ok(ReplyBody::Done)
    }

    pub(crate) fn resize_terminal(
        &mut self,
        id: &str,
        size: TerminalSize,
    ) -> Result<ReplyBody, WireError> {
        let console = match self.container(id) {
            Ok(container) => container.console.as_ref().map(AsFd::as_fd),
            Err(error) => self.exec_console(id).ok_or(error)?,
        };
        let console = console
            .ok_or_else(|| failed_precondition(format!("resize {id}: it has no terminal")))?;
        let size = Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(console, size)
            .map_err(|error| internal(format!("resize the terminal of {id}: {error}")))?;
        Ok(ReplyBody::Done)
    }

    pub(crate) fn update_resources(
        &mut self,
        id: &str,
        resources: &Resources,
    ) -> Result<ReplyBody, WireError> {
        let container = self.container(id)?;
        let result = match container.init() {
            Some(_) => container.body.update(resources),
            None => Err(failed_precondition(format!("it {}", container.describe()))),
        };
        result.map_err(|error| WireError {
            message: format!("update container {id}: {}", error.message),
            ..error
        })?;
        Ok(ReplyBody::Done)
    }

    pub(crate) fn reopen_log(
        &mut self,
        asker: Asker,
        id: &str,
        slot: FdSlot,
        descriptors: &[OwnedFd],
    ) {
        let result = self.begin_reopen(asker, id, slot, descriptors);
        match result {
            Ok(Some(key)) => {
                self.poll.after(REOPEN, Deadline::Reopen(key));
            }
            Ok(None) => self.reply(asker, Ok(ReplyBody::Done)),
            Err(error) => {
                let message = format!("reopen the log of container {id}: {}", error.message);
                self.reply(asker, Err(WireError { message, ..error }));
            }
        }
    }

    /// `None`: it has been done.
    fn begin_reopen(
        &mut self,
        asker: Asker,
        id: &str,
        slot: FdSlot,
        descriptors: &[OwnedFd],
    ) -> Result<Option<LogKey>, WireError> {
        let file = take_slot(descriptors, slot)?;
        let container = self
            .containers
            .iter_mut()
            .find(|one| one.id == id)
            .ok_or_else(|| not_found("it is not in this pod".to_owned()))?;
        let Some(key) = container.log else {
            container.log_file = Some(file);
            return Ok(None);
        };
        self.logs
            .reopen(&self.poll, key, file)
            .map_err(|error| internal(error.to_string()))?;
        container.reopening.push(Some(asker));
        Ok(Some(key))
    }

    /// In the order in which they were asked for.
    pub(crate) fn log_reopened(&mut self, key: LogKey) {
        let Some(container) = self.logged(key) else {
            return;
        };
        if !container.reopening.is_empty() {
            if let Some(asker) = container.reopening.remove(0) {
                self.reply(asker, Ok(ReplyBody::Done));
            }
        }
    }

    /// Those who wait are told; the file changes when the log process gets to it.
    pub(crate) fn reopen_overdue(&mut self, key: LogKey) {
        if !self.logs.is_reopening(key) {
            return;
        }
        let Some(container) = self.logged(key) else {
            return;
        };
        let askers: Vec<Asker> = container
            .reopening
            .iter_mut()
            .filter_map(Option::take)
            .collect();
        let error = internal(format!(
            "reopen the log of container {}: a write to the old file has blocked for {} s",
            container.id,
            REOPEN.as_secs()
        ));
        for asker in askers {
            self.reply(asker, Err(error.clone()));
        }
    }

    /// Its init has been reaped.
    pub(crate) fn container_ended(&mut self, key: u32, ending: Ending) {
        // What the program's fate was comes first: it may have run and ended since the launch was last looked at.
        self.advance_container(key);
        let Some(container) = self.containers.iter_mut().find(|one| one.key == key) else {
            return;
        };
        container.reaped = true;
        container.pidfd = None;
        if let Some(launch) = container.launch.take() {
            self.poll.remove(launch.handshake());
        }
        if !container.own_pid_namespace
            && let Err(error) = container.body.kill()
        {
            complain(&error.message);
        }
        let error = match container.phase {
            Phase::Failed(_) => return self.try_remove(key),
            _ if container.removal.is_some() => return self.try_remove(key),
            Phase::Creating => {
                return self.creation_failed(key, internal(format!("its init {ending}")));
            }
            Phase::Draining(_) | Phase::Exited(_) => return,
            Phase::Starting => Some(format!("its init {ending} before it ran its program")),
            Phase::Created | Phase::Running => None,
        };
        let message = container.start_error.take().or(error);
        let failed = message.is_some();
        let exit = ExitRecord {
            exit_code: if failed { START_FAILED } else { ending.code() },
            signal: ending.signal().filter(|_| !failed),
            oom_killed: container.body.oom_killed(),
            started_at_ns: container.started_at_ns,
            finished_at_ns: now_ns(),
            message,
        };
        container.phase = Phase::Draining(exit);
        let (log, asker) = (container.log, container.asker.take());
        if let Some(asker) = asker {
            let message = format!("its init {ending} before it ran its program");
            self.reply(asker, Err(internal(message)));
        }
        match log {
            Some(log) if self.logs.drain(&self.poll, log).is_ok() => {
                let alarm = self.poll.after(DRAIN + DRAIN_GRACE, Deadline::Drain(log));
                if let Some(container) = self.keyed(key) {
                    container.alarm = Some(alarm);
                }
            }
            _ => self.record_exit(key, None),
        }
    }

    pub(crate) fn log_drained(&mut self, log: LogKey, trouble: Option<String>) {
        if let Some(container) = self.logged(log) {
            let key = container.key;
            self.record_exit(key, trouble);
        }
    }

    pub(crate) fn drain_overdue(&mut self, log: LogKey) {
        let trouble = "a write to its log blocks; the end of its log may be missing";
        self.log_drained(log, Some(trouble.to_owned()));
    }

    /// On disk first, then told.
    fn record_exit(&mut self, key: u32, trouble: Option<String>) {
        let Some(container) = self.containers.iter_mut().find(|one| one.key == key) else {
            return;
        };
        let Phase::Draining(exit) = &container.phase else {
            return;
        };
        let mut exit = exit.clone();
        self.poll.cancel(container.alarm.take());
        add_message(&mut exit, trouble);
        if let Err(error) = self.exits.write(&container.id, &exit) {
            // Its room was reserved; if it fails all the same, a daemon that is there is better told than left to wait.
            let trouble = format!("its exit record could not be written: {error}");
            complain(&format!("container {}: {trouble}", container.id));
            add_message(&mut exit, Some(trouble));
        }
        container.phase = Phase::Exited(exit.clone());
        container.console = None;
        let id = container.id.clone();
        self.tell(Event::Exited { id, exit });
        self.check_stopped();
    }

    pub(crate) fn delete_container(&mut self, asker: Asker, id: &str) {
        let Ok(container) = self.container(id) else {
            if names_a_file(id) {
                self.forget_exit(id);
            }
            return self.reply(asker, Ok(ReplyBody::Done));
        };
        let key = container.key;
        if let Phase::Creating = container.phase {
            let error = failed_precondition("it was deleted meanwhile".to_owned());
            self.creation_failed(key, error);
        }
        self.begin_removal(key, Some(asker));
    }

    fn begin_removal(&mut self, key: u32, asker: Option<Asker>) {
        let Some(container) = self.keyed(key) else {
            // The creation that failed has been cleaned up at once.
            if let Some(asker) = asker {
                self.reply(asker, Ok(ReplyBody::Done));
            }
            return;
        };
        let removal = container.removal.get_or_insert_with(|| Removal {
            askers: Vec::new(),
            until: Instant::now() + REMOVAL,
            pause: Duration::from_millis(1),
        });
        removal.askers.extend(asker);
        if let Err(error) = container.body.kill() {
            complain(&error.message);
        }
        if let Some(init) = container.init() {
            // It may not have reached its cgroup yet.
            let _ = rustix::process::pidfd_send_signal(init, Signal::KILL);
        }
        self.try_remove(key);
    }

    /// Takes the container away if nothing of it runs; otherwise looks again soon, until its time is over.
    pub(crate) fn try_remove(&mut self, key: u32) {
        let Some(container) = self.containers.iter_mut().find(|one| one.key == key) else {
            return;
        };
        let Some(removal) = &mut container.removal else {
            return;
        };
        let removed = match container.reaped {
            true => container.body.remove(),
            false => Ok(false),
        };
        match removed {
            Ok(true) => self.removed(key),
            Ok(false) if Instant::now() < removal.until => {
                let pause = removal.pause;
                removal.pause = (pause * 2).min(Duration::from_millis(100));
                self.poll.after(pause, Deadline::Remove(key));
            }
            Ok(false) => {
                let message = format!("processes are still there after {} s", REMOVAL.as_secs());
                self.not_removed(key, internal(message));
            }
            Err(error) => self.not_removed(key, error),
        }
    }

    fn removed(&mut self, key: u32) {
        let Some(index) = self.containers.iter().position(|one| one.key == key) else {
            return;
        };
        let mut container = self.containers.swap_remove(index);
        self.poll.cancel(container.alarm.take());
        self.forget_exit(&container.id);
        self.let_go(container, None);
        self.check_stopped();
    }

    /// A container stays, and can be deleted again. A creation that failed is answered, and what is left of it is found by its cgroup.
    fn not_removed(&mut self, key: u32, error: WireError) {
        let Some(index) = self.containers.iter().position(|one| one.key == key) else {
            return;
        };
        if let Phase::Failed(_) = self.containers[index].phase {
            let container = self.containers.swap_remove(index);
            self.forget_exit(&container.id);
            self.let_go(container, Some(&error));
        } else {
            let container = &mut self.containers[index];
            let message = format!("delete container {}: {}", container.id, error.message);
            let removal = container.removal.take();
            for asker in removal.into_iter().flat_map(|removal| removal.askers) {
                let message = message.clone();
                self.reply(asker, Err(WireError { message, ..error }));
            }
        }
        self.check_stopped();
    }

    fn let_go(&mut self, container: Container, left: Option<&WireError>) {
        if let Some(log) = container.log {
            self.logs.remove(&self.poll, log);
        }
        for asker in container.reopening.into_iter().flatten() {
            self.reply(asker, Ok(ReplyBody::Done));
        }
        let id = &container.id;
        if let (Some(asker), Phase::Failed(error)) = (container.asker, container.phase) {
            let mut message = format!("create container {id}: {}", error.message);
            if let Some(left) = left {
                message.push_str(&format!("; and clean up after it: {}", left.message));
            }
            self.reply(asker, Err(WireError { message, ..error }));
        } else if let Some(asker) = container.asker {
            let message = format!("start container {id}: it was deleted meanwhile");
            self.reply(asker, Err(failed_precondition(message)));
        }
        for asker in container.removal.into_iter().flat_map(|one| one.askers) {
            let result = match left {
                None => Ok(ReplyBody::Done),
                Some(left) => Err(WireError {
                    kind: ErrorKind::Internal,
                    message: format!("delete container {id}: {}", left.message),
                }),
            };
            self.reply(asker, result);
        }
    }

    fn forget_exit(&self, id: &str) {
        if let Err(error) = self.exits.remove(id) {
            complain(&format!(
                "remove the exit record of container {id}: {error}"
            ));
        }
    }
}

fn add_message(exit: &mut ExitRecord, trouble: Option<String>) {
    exit.message = match (exit.message.take(), trouble) {
        (Some(first), Some(second)) => Some(format!("{first}; {second}")),
        (first, second) => first.or(second),
    };
}

/// Exit records are named by containers' ids.
fn names_a_file(id: &str) -> bool {
    !id.is_empty() && id.len() <= 200 && !id.starts_with('.') && !id.contains(['/', '\0'])
}
