//! Taking a container away.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use supervisor_api::{AttachEnd, ErrorKind, ReplyBody, WireError};

use super::{Container, Forgetting, Phase, Removal, names_a_file};
use crate::connection::Asker;
use crate::poll::Deadline;
use crate::runtime::{Outcome, failed_precondition, internal};
use crate::supervisor::{Supervisor, complain};

/// How long killed processes may stay before their removal is given up. D state has no end of its own.
const REMOVAL: Duration = Duration::from_secs(10);

impl Supervisor {
    pub(crate) fn delete_container(&mut self, asker: Asker, id: &str) {
        let Ok(container) = self.container(id) else {
            if names_a_file(id) {
                self.forget_exit(id);
            }
            return self.reply(asker, Ok(ReplyBody::Done));
        };
        let key = container.key;
        if let Phase::Creating | Phase::Paused = container.phase {
            let error = failed_precondition("it was deleted meanwhile".to_owned());
            self.creation_failed(key, error);
        }
        self.begin_removal(key, Some(asker));
    }

    pub(super) fn begin_removal(&mut self, key: u32, asker: Option<Asker>) {
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
            forgetting: Forgetting::Due,
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
        if container.reaped {
            match removal.forgetting {
                Forgetting::Due => return self.forget_at_runtime(key),
                Forgetting::UnderWay => return,
                Forgetting::Done => {}
            }
        }
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

    /// The runtime gets to know before its container's cgroup goes. Whatever it says, the container goes.
    fn forget_at_runtime(&mut self, key: u32) {
        if let Some(Container {
            phase: Phase::Failed(_),
            ..
        }) = self.keyed(key)
        {
            self.kill_remains();
        }
        let Some(container) = self.containers.iter_mut().find(|one| one.key == key) else {
            return;
        };
        let command = self.handler.delete(&container.id, key);
        let Some(removal) = &mut container.removal else {
            return;
        };
        removal.forgetting = Forgetting::UnderWay;
        match command {
            Ok(Some(command)) => self.watch_command(command),
            Ok(None) => self.delete_ended(key, Ok(())),
            Err(error) => self.delete_ended(key, Err(error)),
        }
    }

    pub(crate) fn delete_ended(&mut self, key: u32, outcome: Outcome) {
        if let Err(error) = outcome {
            complain(&error.message);
        }
        if let Some(removal) = self.keyed(key).and_then(|one| one.removal.as_mut()) {
            removal.forgetting = Forgetting::Done;
            self.try_remove(key);
        }
    }

    pub(super) fn removed(&mut self, key: u32) {
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
    pub(super) fn not_removed(&mut self, key: u32, error: WireError) {
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

    pub(super) fn let_go(&mut self, container: Container, left: Option<&WireError>) {
        if let Some(log) = container.log {
            for attach in self.logs.remove(&self.poll, log) {
                self.attach_ended(attach, AttachEnd::Output);
            }
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

    pub(super) fn forget_exit(&self, id: &str) {
        if let Err(error) = self.exits.remove(id) {
            complain(&format!(
                "remove the exit record of container {id}: {error}"
            ));
        }
    }
}
