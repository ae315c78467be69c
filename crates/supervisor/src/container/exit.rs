//! From a dead init to an exit that is known.

use std::time::Duration;

use supervisor_api::{Event, ExitRecord};

use super::Phase;
use crate::logs::{DRAIN, LogKey};
use crate::poll::Deadline;
use crate::reap::Ending;
use crate::runtime::{Launch, internal};
use crate::supervisor::{Supervisor, complain, now_ns};

/// Grace of the log process beyond its own bound, before an exit is told without it.
const DRAIN_GRACE: Duration = Duration::from_secs(3);

/// What other runtimes report for a program that could not be started.
const START_FAILED: i32 = 128;

impl Supervisor {
    /// Its init has been reaped.
    pub(crate) fn container_ended(&mut self, key: u32, ending: Ending) {
        // What the program's fate was comes first: it may have run and ended since the launch was last looked at.
        self.advance_container(key);
        let Some(container) = self.containers.iter_mut().find(|one| one.key == key) else {
            return;
        };
        container.reaped = true;
        container.pidfd = None;
        if let (Phase::Starting, Some(Launch::Oci(_))) = (&container.phase, &container.launch) {
            // A short program: whether it has run is for the runtime to say.
            container.early_end = Some(ending);
            return;
        }
        if let Some(launch) = container.launch.take() {
            self.poll.forget(&launch);
        }
        if !container.own_pid_namespace
            && let Err(error) = container.body.kill()
        {
            complain(&error.message);
        }
        let error = match container.phase {
            Phase::Failed(_) => return self.try_remove(key),
            _ if container.removal.is_some() => return self.try_remove(key),
            Phase::Creating | Phase::Paused => {
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
        let is_sandbox = Some(&*container.id) == self.handler.sandbox_container();
        if let Some(asker) = asker {
            let message = format!("its init {ending} before it ran its program");
            self.reply(asker, Err(internal(message)));
        }
        if is_sandbox {
            self.sandbox_container_ended(ending);
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
    pub(super) fn record_exit(&mut self, key: u32, trouble: Option<String>) {
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
        container.stdin = None;
        let id = container.id.clone();
        self.tell(Event::Exited { id, exit });
        self.check_stopped();
    }
}

/// An exit record must fit into the room that was reserved for it; a message can quote a path.
const MESSAGE_BYTES: usize = 2048;

fn add_message(exit: &mut ExitRecord, trouble: Option<String>) {
    exit.message = match (exit.message.take(), trouble) {
        (Some(first), Some(second)) => Some(format!("{first}; {second}")),
        (first, second) => first.or(second),
    };
    if let Some(message) = &mut exit.message {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES));
    }
}
