//! Containers that are held still, and what CRIU writes down of them meanwhile.
//!
//! ```text
//!  Freeze ──all are──▶ Frozen ──Thaw──▶ (gone)
//!                        │ its connection closes, its time is over
//!                        ▼
//!                      Ending ──no dump is under way any more──▶ (gone)
//! ```
//!
//! Whatever becomes of the daemon, and of CRIU, the containers go on: CRIU thaws and freezes the cgroup of one that it writes down as it
//! needs to, and the last to write there is this process.

use std::os::fd::OwnedFd;
use std::time::Duration;

use supervisor_api::{Dump, ReplyBody, WireError};

use crate::connection::Asker;
use crate::poll::Deadline;
use crate::runtime::{Aim, Command, Outcome, failed_precondition, not_found};
use crate::supervisor::{Supervisor, complain, take_slot};

/// No request holds a container longer.
const LONGEST: Duration = Duration::from_secs(3600);

/// Containers that are held still together.
#[derive(Debug)]
pub(crate) struct Frozen {
    number: u32,
    connection: u32,
    keys: Vec<u32>,
    ending: bool,
}

impl Supervisor {
    pub(crate) fn freeze(
        &mut self,
        asker: Asker,
        ids: &[String],
        bound_ms: u64,
    ) -> Result<ReplyBody, WireError> {
        let mut keys = Vec::with_capacity(ids.len());
        for id in ids {
            let held =
                self.runs(id)
                    .and_then(|(key, _)| match self.is_held(key) || keys.contains(&key) {
                        true => Err(failed_precondition("it is held still already".to_owned())),
                        false => Ok(key),
                    });
            keys.push(held.map_err(|error| about("freeze", id, error))?);
        }
        for (index, key) in keys.iter().enumerate() {
            let done = self
                .keyed(*key)
                .map_or(Ok(()), |container| container.body.freeze());
            if let Err(error) = done {
                self.thaw(&keys[..=index]);
                return Err(about("freeze", &ids[index], error));
            }
        }
        let number = self.new_key();
        self.frozen.push(Frozen {
            number,
            connection: asker.connection,
            keys,
            ending: false,
        });
        let bound = Duration::from_millis(bound_ms).min(LONGEST);
        self.poll.after(bound, Deadline::Frozen(number));
        Ok(ReplyBody::Done)
    }

    pub(crate) fn thaw_asked(&mut self, ids: &[String]) -> Result<ReplyBody, WireError> {
        for id in ids {
            let Some(key) = self.containers.iter().find(|one| one.id == *id) else {
                continue;
            };
            let key = key.key;
            if self.is_dumped(key) {
                self.abandon_dump(key);
                continue;
            }
            for frozen in &mut self.frozen {
                frozen.keys.retain(|held| *held != key);
            }
            self.thaw(&[key]);
        }
        self.frozen.retain(|frozen| !frozen.keys.is_empty());
        Ok(ReplyBody::Done)
    }

    pub(crate) fn dump(&mut self, asker: Asker, dump: &Dump, descriptors: &[OwnedFd]) {
        match self.begin_dump(asker, dump, descriptors) {
            Ok(command) => self.watch_command(command),
            Err(error) => self.reply(asker, Err(about("dump", &dump.container_id, error))),
        }
    }

    fn begin_dump(
        &self,
        asker: Asker,
        dump: &Dump,
        descriptors: &[OwnedFd],
    ) -> Result<Command, WireError> {
        let mounts = take_slot(descriptors, dump.mounts)?;
        let (key, init) = self.runs(&dump.container_id)?;
        if self.is_dumped(key) {
            return Err(failed_precondition(
                "a dump of it is under way already".to_owned(),
            ));
        }
        let bound = Duration::from_millis(dump.bound_ms).min(LONGEST);
        let aim = Aim::Dump { key, asker, bound };
        self.handler.dump(dump, init, &mounts, aim)
    }

    /// CRIU has ended.
    pub(crate) fn dump_ended(&mut self, key: u32, asker: Asker, outcome: Outcome) {
        let name = |one: &Self| {
            let container = one.containers.iter().find(|one| one.key == key);
            container.map_or_else(String::new, |container| container.id.clone())
        };
        let result = match outcome {
            Ok(()) => Ok(ReplyBody::Done),
            Err(error) => Err(about("dump", &name(self), error)),
        };
        self.reply(asker, result);
        self.settle_frozen();
    }

    pub(crate) fn frozen_overdue(&mut self, number: u32) {
        let Some(frozen) = self.frozen.iter_mut().find(|one| one.number == number) else {
            return;
        };
        frozen.ending = true;
        for command in &self.commands {
            if matches!(command.aim, Aim::Dump { key, .. } if frozen.keys.contains(&key)) {
                command.kill();
            }
        }
        self.settle_frozen();
    }

    /// Nobody wants to know what CRIU still writes down. Its container goes on when it has ended.
    fn abandon_dump(&mut self, key: u32) {
        for command in &self.commands {
            if matches!(command.aim, Aim::Dump { key: of, .. } if of == key) {
                command.kill();
            }
        }
        let all = self.frozen.iter_mut();
        all.filter(|frozen| frozen.keys.contains(&key))
            .for_each(|frozen| frozen.ending = true);
    }

    /// Nobody is there who would let them go on. A dump under way comes to its own end: CRIU takes its hands off the processes better than
    /// the kernel does.
    pub(crate) fn frozen_lost(&mut self, connection: u32) {
        let all = self.frozen.iter_mut();
        all.filter(|frozen| frozen.connection == connection)
            .for_each(|frozen| frozen.ending = true);
        self.settle_frozen();
    }

    fn settle_frozen(&mut self) {
        let mut over = Vec::new();
        for frozen in self.frozen.iter().filter(|frozen| frozen.ending) {
            if !frozen.keys.iter().any(|key| self.is_dumped(*key)) {
                over.push(frozen.number);
            }
        }
        for number in over {
            if let Some(index) = self.frozen.iter().position(|one| one.number == number) {
                let frozen = self.frozen.swap_remove(index);
                self.thaw(&frozen.keys);
            }
        }
    }

    fn thaw(&self, keys: &[u32]) {
        for container in self.containers.iter().filter(|one| keys.contains(&one.key)) {
            if let Err(error) = container.body.thaw() {
                complain(&format!(
                    "thaw container {}: {}",
                    container.id, error.message
                ));
            }
        }
    }

    /// A running container's key and the pid of its init.
    fn runs(&self, id: &str) -> Result<(u32, i32), WireError> {
        let found = self.containers.iter().find(|one| one.id == id);
        let container = found.ok_or_else(|| not_found("it is not in this pod".to_owned()))?;
        match container.running_init() {
            Some(_) => Ok((container.key, container.pid)),
            None => Err(failed_precondition("it does not run".to_owned())),
        }
    }

    fn is_held(&self, key: u32) -> bool {
        self.frozen.iter().any(|frozen| frozen.keys.contains(&key))
    }

    fn is_dumped(&self, key: u32) -> bool {
        let mut commands = self.commands.iter();
        commands.any(|one| matches!(one.aim, Aim::Dump { key: of, .. } if of == key))
    }
}

fn about(verb: &str, id: &str, error: WireError) -> WireError {
    WireError {
        message: format!("{verb} container {id}: {}", error.message),
        ..error
    }
}
