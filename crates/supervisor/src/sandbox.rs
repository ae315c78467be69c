//! The sandbox.
//!
//! ```text
//!  Empty ──CreateSandbox──▶ Ready ──StopSandbox──▶ Stopping ──nothing runs──▶ Stopped ──Shutdown──▶ (the supervisor exits)
//!    └──────────────────────────────StopSandbox────────────────────────────────▲
//! ```

use std::time::{Duration, Instant};

use oci_plan::SandboxPlan;
use rustix::process::{Pid, Signal, WaitOptions};
use supervisor_api::{Event, ReplyBody, WireError};

use crate::connection::Asker;
use crate::poll::Deadline;
use crate::reap::Ending;
use crate::runtime::{failed_precondition, internal};
use crate::supervisor::{Supervisor, complain};

/// How long the pod's processes may take to go once they have been killed.
const STOP: Duration = Duration::from_secs(10);

/// How often killing is repeated meanwhile: for those that were forked outside every known cgroup.
const STOP_TICK: Duration = Duration::from_millis(50);

/// How long a cgroup may stay busy at the very end.
const SHUTDOWN: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) enum Sandbox {
    Empty,
    Ready {
        plan: Box<SandboxPlan>,
        /// The init of its PID namespace is gone, and everything in it with it.
        init_died: bool,
    },
    Stopping {
        askers: Vec<Asker>,
        until: Instant,
        init_died: bool,
    },
    Stopped,
}

impl Supervisor {
    pub(crate) fn create_sandbox(&mut self, asker: Asker, plan: SandboxPlan) {
        let result = match &self.sandbox {
            Sandbox::Empty => self.handler.create_sandbox(&plan),
            Sandbox::Ready {
                plan: existing,
                init_died: false,
            } if **existing == plan => Ok(()),
            Sandbox::Ready {
                init_died: false, ..
            } => Err(failed_precondition(
                "there is one, of another plan".to_owned(),
            )),
            Sandbox::Ready { .. } => Err(failed_precondition(
                "the init of its PID namespace has died".to_owned(),
            )),
            Sandbox::Stopping { .. } | Sandbox::Stopped => {
                Err(failed_precondition("it has been stopped".to_owned()))
            }
        };
        let network = self
            .handler
            .network()
            .map(|network| network.try_clone_to_owned());
        match (result, network.transpose()) {
            (Ok(()), Ok(network)) => {
                self.sandbox = Sandbox::Ready {
                    plan: Box::new(plan),
                    init_died: false,
                };
                let descriptors = network.into_iter().collect();
                self.connections
                    .reply(&self.poll, asker, Ok(ReplyBody::Sandbox), descriptors);
            }
            (Err(error), _) => {
                let message = format!("create sandbox {}: {}", plan.id, error.message);
                self.reply(asker, Err(WireError { message, ..error }));
            }
            (Ok(()), Err(error)) => {
                let message = format!("create sandbox {}: pass its network on: {error}", plan.id);
                self.sandbox = Sandbox::Ready {
                    plan: Box::new(plan),
                    init_died: false,
                };
                self.reply(asker, Err(internal(message)));
            }
        }
    }

    pub(crate) fn user_namespace(&mut self, asker: Asker) {
        let namespace = self.handler.user_namespace();
        let (result, descriptors) = match namespace.map(|fd| fd.try_clone_to_owned()) {
            Some(Ok(namespace)) => (Ok(ReplyBody::Done), vec![namespace]),
            Some(Err(error)) => {
                let message = format!("pass the pod's user namespace on: {error}");
                (Err(internal(message)), Vec::new())
            }
            None => {
                let message = "the pod has no user namespace of its own".to_owned();
                (Err(failed_precondition(message)), Vec::new())
            }
        };
        self.connections
            .reply(&self.poll, asker, result, descriptors);
    }

    /// The init of the pod's PID namespace, while it lives.
    pub(crate) fn live_init(&self) -> Option<i32> {
        match self.sandbox {
            Sandbox::Ready {
                init_died: false, ..
            }
            | Sandbox::Stopping {
                init_died: false, ..
            } => self.handler.sandbox_init().map(|(pid, _)| pid),
            Sandbox::Empty
            | Sandbox::Ready { .. }
            | Sandbox::Stopping { .. }
            | Sandbox::Stopped => None,
        }
    }

    pub(crate) fn sandbox_init_ended(&mut self, ending: Ending) {
        match &mut self.sandbox {
            Sandbox::Ready { init_died, .. } => {
                *init_died = true;
                let reason = format!("the init of the pod's PID namespace {ending}");
                complain(&reason);
                self.tell(Event::SandboxEnded { reason });
            }
            Sandbox::Stopping { init_died, .. } => *init_died = true,
            Sandbox::Empty | Sandbox::Stopped => {}
        }
    }

    /// With it end all containers, which ran on its kernel.
    pub(crate) fn sandbox_container_ended(&mut self, ending: Ending) {
        if let Sandbox::Ready { .. } = self.sandbox {
            let reason = format!("the sandbox that its containers run in {ending}");
            complain(&reason);
            self.tell(Event::SandboxEnded { reason });
        }
    }

    pub(crate) fn stop_sandbox(&mut self, asker: Asker) {
        let init_died = match &mut self.sandbox {
            Sandbox::Stopped => return self.reply(asker, Ok(ReplyBody::Done)),
            Sandbox::Stopping { askers, until, .. } => {
                let idle = askers.is_empty();
                askers.push(asker);
                // An attempt that was given up begins again.
                if idle {
                    *until = Instant::now() + STOP;
                    self.stop_tick();
                }
                return;
            }
            Sandbox::Empty => false,
            Sandbox::Ready { init_died, .. } => *init_died,
        };
        self.sandbox = Sandbox::Stopping {
            askers: vec![asker],
            until: Instant::now() + STOP,
            init_died,
        };
        self.stop_tick();
        self.check_stopped();
    }

    /// Kills what still runs, and gives up when the time is over.
    pub(crate) fn stop_tick(&mut self) {
        let Sandbox::Stopping { askers, until, .. } = &mut self.sandbox else {
            return;
        };
        if askers.is_empty() {
            return;
        }
        if Instant::now() >= *until {
            let askers = std::mem::take(askers);
            let error = internal(format!(
                "stop the sandbox: after {} s there still is {}",
                STOP.as_secs(),
                self.survivors().join(", ")
            ));
            for asker in askers {
                self.reply(asker, Err(error.clone()));
            }
            return;
        }
        self.kill_everything();
        self.poll.after(STOP_TICK, Deadline::Stop);
        self.check_stopped();
    }

    fn kill_everything(&mut self) {
        self.kill_commands();
        for container in self.containers.iter().filter(|one| !one.at_rest()) {
            if let Err(error) = container.body.kill() {
                complain(&error.message);
            }
            kill_pid(container.pid, container.reaped);
        }
        for exec in &self.execs {
            if let Err(error) = exec.body.kill() {
                complain(&error.message);
            }
            kill_pid(exec.pid, exec.reaped);
        }
        if self.live_init().is_some()
            && let Some((_, pidfd)) = self.handler.sandbox_init()
        {
            let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
        }
        for stray in self.strays() {
            kill_pid(stray, false);
        }
    }

    /// Looks whether a stop has come to its end.
    pub(crate) fn check_stopped(&mut self) {
        let Sandbox::Stopping { askers, .. } = &mut self.sandbox else {
            return;
        };
        if askers.is_empty() || !self.survivors().is_empty() {
            return;
        }
        self.handler.stop_sandbox();
        if let Sandbox::Stopping { askers, .. } =
            std::mem::replace(&mut self.sandbox, Sandbox::Stopped)
        {
            for asker in askers {
                self.reply(asker, Ok(ReplyBody::Done));
            }
        }
    }

    /// What still runs, or has ended and is not yet recorded.
    fn survivors(&self) -> Vec<String> {
        let containers = self.containers.iter().filter(|one| !one.at_rest());
        let containers = containers.map(|one| format!("container {}", one.id));
        let execs = self.execs.iter().map(|one| format!("exec {}", one.exec_id));
        let init = self.live_init().map(|_| "the pod's init".to_owned());
        let mut survivors: Vec<String> = containers.chain(execs).chain(init).collect();
        if survivors.is_empty() {
            survivors.extend(self.strays().iter().map(|pid| format!("process {pid}")));
        }
        survivors
    }

    /// Children that are none of those known: orphans that came to this process, their subreaper. A kernel without the file
    /// (CONFIG_PROC_CHILDREN) shows none.
    pub(crate) fn strays(&self) -> Vec<i32> {
        let own = rustix::process::getpid().as_raw_nonzero();
        let Ok(text) = std::fs::read_to_string(format!("/proc/self/task/{own}/children")) else {
            return Vec::new();
        };
        let children = text
            .split_ascii_whitespace()
            .filter_map(|pid| pid.parse().ok());
        let known = |pid: &i32| {
            self.logs.pid() == Some(*pid)
                || self
                    .anchor
                    .as_ref()
                    .is_some_and(|anchor| anchor.pid == *pid)
                || self.live_init() == Some(*pid)
                || self
                    .containers
                    .iter()
                    .any(|one| one.pid == *pid && !one.reaped)
                || self.execs.iter().any(|one| one.pid == *pid && !one.reaped)
                || self.commands.iter().any(|one| one.pid == *pid)
        };
        children.filter(|pid| !known(pid)).collect()
    }

    pub(crate) fn shut_down(&mut self, asker: Asker) {
        let result = match self.sandbox {
            Sandbox::Empty | Sandbox::Stopped => self.take_down(),
            Sandbox::Ready { .. } | Sandbox::Stopping { .. } => {
                Err(failed_precondition("the sandbox is not stopped".to_owned()))
            }
        };
        match result {
            Ok(()) => {
                self.finished = true;
                self.reply(asker, Ok(ReplyBody::Done));
                self.connections
                    .flush_before_exit(&self.poll, Duration::from_secs(1));
            }
            Err(error) => {
                let message = format!("shut down: {}", error.message);
                self.reply(asker, Err(WireError { message, ..error }));
            }
        }
    }

    /// There is nobody left whom waiting could stall.
    fn take_down(&mut self) -> Result<(), WireError> {
        let until = Instant::now() + SHUTDOWN;
        for container in &self.containers {
            while !container.body.remove()? {
                if Instant::now() >= until {
                    let message = format!("the cgroup of container {} is in use", container.id);
                    return Err(internal(message));
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        self.handler.remove_sandbox()?;
        if let Some(pid) = self.logs.close(&self.poll) {
            end_log_process(pid, until);
        }
        Ok(())
    }
}

fn kill_pid(pid: i32, reaped: bool) {
    // Not reaped: the number still is this child's.
    if !reaped && let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

/// It ends by itself, unless a write blocks it.
fn end_log_process(pid: i32, until: Instant) {
    let Some(pid) = Pid::from_raw(pid) else {
        return;
    };
    while let Ok(None) = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG) {
        if Instant::now() >= until {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
