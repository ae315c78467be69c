//! Execs: further processes in a running container, each in a cgroup of its own below the container's, so that its whole tree can be
//! killed.
//!
//! ```text
//!  Launching ──Started──▶ Running ──death──▶ (event sent, forgotten)
//!      └── error, deadline, death ──▶ Failed ──death──▶ (forgotten; the error has been told)
//! ```
//!
//! Its bytes are none of this process's business: its streams are the daemon's own pipes, and the master of its terminal goes to the daemon,
//! which reads it to its end.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use oci_plan::FdSlot;
use oci_runtime::ChildStdio;
use rustix::process::Signal;
use supervisor_api::{ErrorKind, Event, Exec as Request, ExecKilled, ReplyBody, WireError};

use crate::connection::Asker;
use crate::container::LAUNCH;
use crate::poll::{Alarm, Deadline};
use crate::reap::Ending;
use crate::runtime::{
    Body, Launch, Launched, NewExec, Outcome, Progress, failed_precondition, internal, invalid,
};
use crate::supervisor::{Supervisor, complain, now_ns, take_slot};

#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) key: u32,
    pub(crate) exec_id: String,
    container_id: String,
    pub(crate) pid: i32,
    pub(crate) body: Body,
    pub(crate) reaped: bool,
    phase: Phase,
    launch: Option<Launch>,
    /// When its launch is overdue, and when its time is over.
    alarms: [Option<Alarm>; 2],
    asker: Option<Asker>,
    /// The connection whose end is its end.
    bound_to: Option<u32>,
    killed: Option<ExecKilled>,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Launching,
    Running,
    Failed,
}

impl Supervisor {
    fn keyed_exec(&mut self, key: u32) -> Option<&mut Exec> {
        self.execs.iter_mut().find(|one| one.key == key)
    }

    /// `before` the container's program has run, or while it runs.
    pub(crate) fn exec(
        &mut self,
        asker: Asker,
        request: Request,
        before: bool,
        descriptors: &[OwnedFd],
    ) {
        let (container_id, exec_id) = (request.container_id.clone(), request.exec_id.clone());
        if let Err(error) = self.begin_exec(asker, request, before, descriptors) {
            let message = format!(
                "exec {exec_id} in container {container_id}: {}",
                error.message
            );
            self.reply(asker, Err(WireError { message, ..error }));
        }
    }

    fn begin_exec(
        &mut self,
        asker: Asker,
        request: Request,
        before: bool,
        descriptors: &[OwnedFd],
    ) -> Result<(), WireError> {
        if self.execs.iter().any(|one| one.exec_id == request.exec_id) {
            return Err(failed_precondition("there is one of that id".to_owned()));
        }
        let take = |slot: Option<FdSlot>| {
            let taken = slot.map(|slot| take_slot(descriptors, slot));
            taken.transpose()
        };
        let (stdin, stdout, stderr) = (
            take(request.stdin)?,
            take(request.stdout)?,
            take(request.stderr)?,
        );
        let streams = [&stdin, &stdout, &stderr];
        if request.process.terminal.is_some() && streams.iter().any(|one| one.is_some()) {
            let message = "with a terminal there are no other streams".to_owned();
            return Err(invalid(message));
        }
        let key = self.new_key();
        let container = self
            .containers
            .iter()
            .find(|one| one.id == request.container_id)
            .ok_or_else(|| {
                crate::runtime::not_found("the container is not in this pod".to_owned())
            })?;
        let (init, state) = match before {
            true => (container.waiting_init(), "waiting"),
            false => (container.running_init(), "running"),
        };
        let init =
            init.ok_or_else(|| failed_precondition(format!("the container is not {state}")))?;
        let stdio = ChildStdio {
            stdin: stdin.as_ref().map(AsFd::as_fd),
            stdout: stdout.as_ref().map(AsFd::as_fd),
            stderr: stderr.as_ref().map(AsFd::as_fd),
        };
        let Launched {
            launch,
            body,
            command,
        } = self.handler.exec(NewExec {
            key,
            container_id: &request.container_id,
            container: &container.body,
            init,
            exec_id: &request.exec_id,
            process: &request.process,
            stdio,
        })?;
        let watched = self.poll.watch(&launch, key);
        let launch_alarm = self.poll.after(LAUNCH, Deadline::Launch(key));
        let alarm = request.timeout_ms.map(|timeout| {
            self.poll
                .after(Duration::from_millis(timeout), Deadline::Exec(key))
        });
        self.execs.push(Exec {
            key,
            exec_id: request.exec_id,
            container_id: request.container_id,
            pid: launch.pid(),
            body,
            reaped: false,
            phase: Phase::Launching,
            launch: Some(launch),
            alarms: [Some(launch_alarm), alarm],
            asker: Some(asker),
            bound_to: request.bound_to_connection.then_some(asker.connection),
            killed: None,
        });
        if let Some(command) = command {
            self.watch_command(command);
        }
        if let Err(error) = watched {
            self.exec_failed(key, internal(format!("watch its launch: {error}")));
        }
        Ok(())
    }

    pub(crate) fn advance_exec(&mut self, key: u32) {
        let Some(exec) = self.keyed_exec(key) else {
            return;
        };
        let Some(launch) = &mut exec.launch else {
            return;
        };
        match launch.advance() {
            Ok(Progress::Pending | Progress::Paused | Progress::Created { .. }) => {}
            Ok(Progress::Started { console }) => self.exec_started(key, console),
            Ok(Progress::Listening(listener)) => {
                let of = exec.container_id.clone();
                if let Ok(container) = self.container(&of) {
                    let container = container.key;
                    self.listen(container, listener);
                }
                self.advance_exec(key);
            }
            Err(error) => self.exec_failed(key, error),
        }
    }

    fn exec_started(&mut self, key: u32, console: Option<OwnedFd>) {
        let Some(exec) = self.execs.iter_mut().find(|one| one.key == key) else {
            return;
        };
        if let Some(launch) = exec.launch.take() {
            self.poll.forget(&launch);
            drop(launch.into_pidfd());
        }
        self.poll.cancel(exec.alarms[0].take());
        exec.phase = Phase::Running;
        let started = ReplyBody::Started {
            pid: exec.pid,
            started_at_ns: now_ns(),
        };
        if let Some(asker) = exec.asker.take() {
            // Ours is gone with that: the daemon's hang-up is the terminal's.
            let descriptors = console.into_iter().collect();
            self.connections
                .reply(&self.poll, asker, Ok(started), descriptors);
        }
    }

    fn exec_failed(&mut self, key: u32, error: WireError) {
        let Some(exec) = self.execs.iter_mut().find(|one| one.key == key) else {
            return;
        };
        if let Some(launch) = exec.launch.take() {
            self.poll.forget(&launch);
        }
        exec.phase = Phase::Failed;
        exec.kill();
        let (kind, why) = match exec.killed {
            Some(ExecKilled::Timeout) => (
                ErrorKind::DeadlineExceeded,
                "its time was over before it ran its program: ",
            ),
            Some(ExecKilled::Requested | ExecKilled::ConnectionClosed) => {
                (error.kind, "it was killed before it ran its program: ")
            }
            None => (error.kind, ""),
        };
        let message = format!(
            "exec {} in container {}: {why}{}",
            exec.exec_id, exec.container_id, error.message
        );
        if let Some(asker) = exec.asker.take() {
            self.reply(asker, Err(WireError { kind, message }));
        }
    }

    pub(crate) fn exec_launch_overdue(&mut self, key: u32) {
        let launching = |exec: &mut Exec| matches!(exec.phase, Phase::Launching);
        if self.keyed_exec(key).is_some_and(launching) {
            let message = format!(
                "its process did not get ready within {} s and was killed",
                LAUNCH.as_secs()
            );
            self.exec_failed(key, internal(message));
            self.kill_commands_of(key);
        }
    }

    /// A runtime's command has ended.
    pub(crate) fn exec_command_ended(&mut self, key: u32, outcome: Outcome) {
        let Some(exec) = self.execs.iter_mut().find(|one| one.key == key) else {
            return;
        };
        let made = match (outcome, &mut exec.launch) {
            (Ok(()), Some(launch)) => {
                let endings = &self.endings;
                self.handler.made(launch, "exec", |pid| {
                    endings.iter().any(|(one, _)| *one == pid)
                })
            }
            // It was given up, and its cgroup has been killed.
            (Ok(()), None) => Err(internal("it was given up".to_owned())),
            (Err(error), _) => Err(error),
        };
        match made {
            Ok(made) => {
                exec.pid = made.pid;
                let ending = self.ending_of(made.pid);
                self.exec_started(key, made.console);
                if let Some(ending) = ending {
                    self.exec_ended(key, ending);
                }
            }
            Err(error) => {
                self.exec_failed(key, error);
                self.forget_exec(key, None);
            }
        }
    }

    pub(crate) fn kill_exec_requested(&mut self, exec_id: &str) -> Result<ReplyBody, WireError> {
        self.end_execs(ExecKilled::Requested, |exec| exec.exec_id == exec_id);
        Ok(ReplyBody::Done)
    }

    pub(crate) fn connection_closed(&mut self, connection: u32) {
        self.end_execs(ExecKilled::ConnectionClosed, |exec| {
            exec.bound_to == Some(connection)
        });
        self.inputs_lost(connection);
        self.frozen_lost(connection);
    }

    fn end_execs(&mut self, why: ExecKilled, which: impl Fn(&Exec) -> bool) {
        let mut ended = Vec::new();
        for exec in self.execs.iter_mut().filter(|exec| which(exec)) {
            exec.end(why);
            ended.push(exec.key);
        }
        for key in ended {
            self.kill_commands_of(key);
        }
    }

    /// Its time is over.
    pub(crate) fn exec_overdue(&mut self, key: u32) {
        self.end_execs(ExecKilled::Timeout, |exec| exec.key == key);
    }

    /// It has been reaped.
    pub(crate) fn exec_ended(&mut self, key: u32, ending: Ending) {
        // It may have run its program since the launch was last looked at.
        self.advance_exec(key);
        let Some(exec) = self.execs.iter_mut().find(|one| one.key == key) else {
            return;
        };
        exec.reaped = true;
        match exec.phase {
            Phase::Launching => {
                let message = format!("its process {ending} before it ran its program");
                self.exec_failed(key, internal(message));
                self.forget_exec(key, None);
            }
            Phase::Failed => self.forget_exec(key, None),
            Phase::Running => self.forget_exec(key, Some(ending)),
        }
    }

    /// With an ending, it is told.
    fn forget_exec(&mut self, key: u32, ending: Option<Ending>) {
        let Some(index) = self.execs.iter().position(|one| one.key == key) else {
            return;
        };
        let exec = self.execs.swap_remove(index);
        for alarm in exec.alarms {
            self.poll.cancel(alarm);
        }
        self.handler.forget_exec(&exec.container_id, &exec.exec_id);
        self.remove_exec_body(&exec.container_id, exec.body);
        if let Some(ending) = ending {
            self.tell(Event::ExecExited {
                exec_id: exec.exec_id,
                exit_code: ending.code(),
                killed: exec.killed,
            });
        }
        self.check_stopped();
    }

    /// Processes that an exec has left behind stay, as they would without a cgroup of their own; what can be removed by now is.
    fn remove_exec_body(&mut self, container_id: &str, body: Body) {
        if let Ok(container) = self.container(container_id) {
            container.leftovers.push(body);
            container
                .leftovers
                .retain(|body| matches!(body.remove(), Ok(false)));
        } else if let Err(error) = body.remove() {
            complain(&error.message);
        }
    }
}

impl Exec {
    /// Kills it, for the first reason that is given.
    fn end(&mut self, why: ExecKilled) {
        if let Phase::Launching | Phase::Running = self.phase {
            self.killed.get_or_insert(why);
            self.kill();
        }
    }

    fn kill(&self) {
        if let Err(error) = self.body.kill() {
            complain(&error.message);
        }
        // It may not have reached its cgroup yet.
        if !self.reaped
            && let Some(pid) = rustix::process::Pid::from_raw(self.pid)
        {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}
