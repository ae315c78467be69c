//! Commands of an external runtime: watched while they run, and what follows from their end.
//!
//! A process that a command leaves behind may end before the command itself has been reaped, so endings of unknown children are kept while
//! a command runs: one of them may turn out to be what its pid file names.

use std::time::Duration;

use crate::container::Fate;
use crate::poll::{Deadline, Interest, Source};
use crate::reap::Ending;
use crate::runtime::{Aim, Command, internal};
use crate::sandbox::Sandbox;
use crate::supervisor::{Supervisor, complain};
use supervisor_api::WireError;

/// Endings that are kept; whoever forks that many orphans meanwhile is answered that its process is not there.
const MOST_ENDINGS: usize = 4096;

impl Supervisor {
    pub(crate) fn watch_command(&mut self, command: Command) {
        let source = Source::Command(command.pid.unsigned_abs());
        if let Err(error) = self.poll.add(command.output(), source, Interest::Read) {
            // Its output is read at its end; if it writes more than a pipe holds it is killed when its time is over.
            complain(&format!("watch the output of a runtime: {error}"));
        }
        if command.aim.bound() < Duration::MAX {
            let due = Deadline::Command(command.pid);
            self.poll.after(command.aim.bound(), due);
        }
        self.commands.push(command);
    }

    pub(crate) fn command_wrote(&mut self, pid: u32) {
        let found = self
            .commands
            .iter_mut()
            .find(|one| one.pid.unsigned_abs() == pid);
        if let Some(command) = found {
            command.read();
        }
    }

    pub(crate) fn command_overdue(&mut self, pid: i32) {
        if let Some(command) = self.commands.iter_mut().find(|one| one.pid == pid) {
            command.end_overdue();
        }
    }

    /// Whatever is still being made for a container or an exec is not wanted any more.
    pub(crate) fn kill_commands_of(&self, key: u32) {
        for command in &self.commands {
            match command.aim {
                Aim::Create(of) | Aim::Start(of) | Aim::Exec(of) if of == key => command.kill(),
                Aim::Restore { key: of, .. } if of == key => command.kill(),
                Aim::Create(_)
                | Aim::Start(_)
                | Aim::Exec(_)
                | Aim::Delete(_)
                | Aim::Kill { .. }
                | Aim::Wait(_)
                | Aim::Restore { .. }
                | Aim::Dump { .. } => {}
            }
        }
    }

    /// Those that make something, or send a signal; what takes away may go on.
    pub(crate) fn kill_commands(&self) {
        let making = self.commands.iter();
        making
            .filter(|one| !matches!(one.aim, Aim::Delete(_)))
            .for_each(Command::kill);
    }

    /// An unknown child has been reaped.
    pub(crate) fn orphan_ended(&mut self, pid: i32, ending: Ending) {
        if self.are_making() && self.endings.len() < MOST_ENDINGS {
            self.endings.push((pid, ending));
        }
    }

    /// Whether a command runs that may leave something behind.
    fn are_making(&self) -> bool {
        let waits = |one: &Command| matches!(one.aim, Aim::Wait(_));
        !self.commands.iter().all(waits)
    }

    /// `false`: it is no command.
    pub(crate) fn command_ended(&mut self, pid: i32, ending: Ending) -> bool {
        let Some(index) = self.commands.iter().position(|one| one.pid == pid) else {
            return false;
        };
        let mut command = self.commands.swap_remove(index);
        self.poll.remove(command.output());
        if let Aim::Wait(key) = command.aim {
            self.container_ended(key, command.waited(ending));
            return true;
        }
        let outcome = command.outcome(ending);
        if outcome.is_err() {
            self.kill_remains();
        }
        match command.aim {
            Aim::Create(key) => self.create_ended(key, outcome),
            Aim::Restore { key, .. } => {
                // Whatever came of it: CRIU gives the pod the name that the processes knew.
                let named = match &self.sandbox {
                    Sandbox::Ready { plan, .. } => self.handler.name_pod(&plan.hostname),
                    Sandbox::Empty | Sandbox::Stopping { .. } | Sandbox::Stopped => Ok(()),
                };
                self.create_ended(key, outcome.and(named));
            }
            Aim::Start(key) => self.start_ended(key, outcome),
            Aim::Exec(key) => self.exec_command_ended(key, outcome),
            Aim::Delete(key) => self.delete_ended(key, outcome),
            Aim::Kill { key, asker, last } => self.kill_ended(key, asker, last, outcome),
            // Seen to above.
            Aim::Wait(_) => {}
            Aim::Dump { key, asker, .. } => self.dump_ended(key, asker, outcome),
        }
        if !self.are_making() {
            self.endings.clear();
        }
        true
    }

    /// How a process ended that was not yet known to be anybody's.
    pub(crate) fn ending_of(&self, pid: i32) -> Option<Ending> {
        let found = self.endings.iter().rev().find(|(one, _)| *one == pid);
        found.map(|(_, ending)| *ending)
    }

    /// What a runtime that was killed in the middle has forked, and not yet moved to a container's cgroup: it is where the runtime was, and
    /// this process is. Nothing of a container's is.
    pub(crate) fn kill_remains(&self) {
        let own = std::fs::read("/proc/self/cgroup");
        for stray in self.strays() {
            let its = std::fs::read(format!("/proc/{stray}/cgroup"));
            if let (Ok(own), Ok(its)) = (&own, its)
                && *own == its
                && let Some(pid) = rustix::process::Pid::from_raw(stray)
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }

    fn create_ended(&mut self, key: u32, outcome: crate::runtime::Outcome) {
        let Some(container) = self.containers.iter_mut().find(|one| one.key == key) else {
            return;
        };
        let made = match (outcome, container.launch_mut()) {
            (Ok(()), Some(launch)) => {
                let endings = &self.endings;
                self.handler.made(launch, "create", |pid| {
                    endings.iter().any(|(one, _)| *one == pid)
                })
            }
            // It has failed meanwhile, and been answered.
            (Ok(()), None) => Err(internal("it was given up".to_owned())),
            (Err(error), _) => Err(error),
        };
        match made {
            Ok(made) => {
                let ending = self.ending_of(made.pid);
                self.container_made(key, made);
                if let Some(ending) = ending {
                    self.container_ended(key, ending);
                }
            }
            Err(error) => self.container_not_made(key, error),
        }
    }

    fn start_ended(&mut self, key: u32, outcome: crate::runtime::Outcome) {
        let fate = match outcome.and_then(|()| self.stand_in(key)) {
            Ok(()) => Fate::Started,
            Err(error) => Fate::Failed(error),
        };
        if let Some(ending) = self.start_told(key, fate) {
            self.container_ended(key, ending);
        }
    }

    /// What runs inside the pod's sandbox has no process here: a command that waits for it stands in for it.
    fn stand_in(&mut self, key: u32) -> Result<(), WireError> {
        let Some(container) = self.containers.iter_mut().find(|one| one.key == key) else {
            return Ok(());
        };
        if !self.handler.is_inside(&container.id) {
            return Ok(());
        }
        let id = container.id.clone();
        let launch = container.launch_mut();
        let launch = launch.ok_or_else(|| internal("it was given up".to_owned()))?;
        let (command, console) = self.handler.stand_in(launch, &id, key)?;
        container.pid = command.pid;
        self.watch_command(command);
        match console {
            Some(console) => self
                .connect_log(key, Some(console))
                .map_err(|error| internal(format!("hand its output to the log process: {error}"))),
            None => Ok(()),
        }
    }
}
