//! What is done to a container that is there.

use std::os::fd::OwnedFd;
use std::time::Duration;

use oci_plan::{FdSlot, Resources, TerminalSize};
use rustix::io::Errno;
use rustix::process::Signal;
use rustix::termios::Winsize;
use supervisor_api::{ReplyBody, WireError};

use super::Phase;
use crate::connection::Asker;
use crate::logs::LogKey;
use crate::poll::Deadline;
use crate::runtime::{Aim, Command, Outcome, failed_precondition, internal, invalid, not_found};
use crate::supervisor::{Supervisor, complain, take_slot};

/// How long a log file may take to be changed; only a blocked write takes long.
const REOPEN: Duration = Duration::from_secs(10);

impl Supervisor {
    pub(crate) fn signal(&mut self, asker: Asker, id: &str, number: i32, all: bool) {
        let result = match self.begin_signal(asker, id, number, all) {
            Ok(Some(command)) => return self.watch_command(command),
            Ok(None) => Ok(ReplyBody::Done),
            Err(error) => Err(signalling(id, error)),
        };
        self.reply(asker, result);
    }

    /// A command that sends it, or `None`: it has been sent.
    fn begin_signal(
        &mut self,
        asker: Asker,
        id: &str,
        number: i32,
        all: bool,
    ) -> Result<Option<Command>, WireError> {
        let found = self.containers.iter().find(|one| one.id == id);
        let container = found.ok_or_else(|| not_found("it is not in this pod".to_owned()))?;
        let signal = sys::signal_from_number(number)
            .ok_or_else(|| invalid(format!("{number} is no signal")))?;
        if let Phase::Creating | Phase::Paused | Phase::Failed(_) = container.phase {
            return Err(failed_precondition(format!("it {}", container.describe())));
        }
        let Some(init) = container.init() else {
            return Ok(None);
        };
        let key = container.key;
        let last = signal == Signal::KILL;
        let aim = Aim::Kill { key, asker, last };
        if self.handler.is_inside(id) {
            return self.handler.signal_inside(id, signal, all, aim);
        }
        match (all, signal) {
            (true, Signal::KILL) => container.body.kill().map(|()| None),
            (true, signal) => container.body.signal(signal).map(|()| None),
            (false, signal) => {
                // No runtime stands between a container and its end.
                if !last {
                    let command = self.handler.kill(id, signal, aim)?;
                    if command.is_some() {
                        return Ok(command);
                    }
                }
                match rustix::process::pidfd_send_signal(init, signal) {
                    Ok(()) | Err(Errno::SRCH) => Ok(None),
                    Err(error) => Err(internal(error.to_string())),
                }
            }
        }
    }

    /// A runtime has sent a signal, or has not. One to a container that has ended meanwhile has done its work.
    pub(crate) fn kill_ended(&mut self, key: u32, asker: Asker, last: bool, outcome: Outcome) {
        if last && outcome.is_err() {
            self.end_sandbox_container();
        }
        let result = match (outcome, self.keyed(key)) {
            (Err(error), Some(container)) if container.init().is_some() => {
                Err(signalling(&container.id, error))
            }
            (Ok(()) | Err(_), _) => Ok(ReplyBody::Done),
        };
        self.reply(asker, result);
    }

    /// A kernel that does not end one of its containers ends with all of them.
    fn end_sandbox_container(&self) {
        let sandbox = self.handler.sandbox_container();
        let found = self.containers.iter().find(|one| Some(&*one.id) == sandbox);
        if let Some(Err(error)) = found.map(|sandbox| sandbox.body.kill()) {
            complain(&error.message);
        }
    }

    pub(crate) fn resize_terminal(
        &mut self,
        id: &str,
        size: TerminalSize,
    ) -> Result<ReplyBody, WireError> {
        let console = self.container(id)?.console.as_ref();
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
    pub(super) fn begin_reopen(
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
        let done = self
            .logs
            .reopen(&self.poll, key, file)
            .map_err(|error| internal(error.to_string()))?;
        if done {
            return Ok(None);
        }
        container.reopening.push(Some(asker));
        Ok(Some(key))
    }

    /// In the order in which they were asked for.
    pub(crate) fn log_reopened(&mut self, key: LogKey) {
        let Some(container) = self.logged(key) else {
            return;
        };
        if !container.reopening.is_empty()
            && let Some(asker) = container.reopening.remove(0)
        {
            self.reply(asker, Ok(ReplyBody::Done));
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
}

fn signalling(id: &str, error: WireError) -> WireError {
    WireError {
        message: format!("signal container {id}: {}", error.message),
        ..error
    }
}
