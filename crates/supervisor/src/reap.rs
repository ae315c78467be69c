use std::fmt;
use std::os::fd::AsFd;

use rustix::process::{WaitOptions, WaitStatus};

use crate::supervisor::{Supervisor, complain};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Exited(i32),
    Killed(i32),
}

impl Ending {
    /// `None` for a process that has only stopped or gone on.
    fn of(status: WaitStatus) -> Option<Self> {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Some(Self::Exited(code)),
            (None, Some(signal)) => Some(Self::Killed(signal)),
            (None, None) => None,
        }
    }

    /// As a shell would say it.
    pub(crate) fn code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Killed(signal) => 128 + signal,
        }
    }

    pub(crate) fn signal(self) -> Option<i32> {
        match self {
            Self::Exited(_) => None,
            Self::Killed(signal) => Some(signal),
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with status {code}"),
            Self::Killed(signal) => write!(f, "was killed by signal {signal}"),
        }
    }
}

impl Supervisor {
    /// SIGCHLD: one signal may stand for many children.
    pub(crate) fn reap(&mut self) {
        while let Ok(Some(_)) = sys::receive_signal(self.signals.as_fd()) {}
        // ECHILD ends it as well.
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if let Some(ending) = Ending::of(status) {
                self.ended(pid.as_raw_nonzero().get(), ending);
            }
        }
        self.check_stopped();
    }

    fn ended(&mut self, pid: i32, ending: Ending) {
        if self.logs.pid() == Some(pid) {
            complain(&format!("the log process {ending}"));
            for finished in self.logs.died(&mut self.poll) {
                self.log_finished(finished);
            }
            return;
        }
        if self.anchor.as_ref().is_some_and(|anchor| anchor.pid == pid) {
            complain(&format!("the anchor of the pod's scope {ending}"));
            self.anchor = None;
            return;
        }
        if self.live_init() == Some(pid) {
            return self.sandbox_init_ended(ending);
        }
        if self.command_ended(pid, ending) {
            return;
        }
        let container = self
            .containers
            .iter()
            .find(|one| one.pid == pid && !one.reaped);
        if let Some(key) = container.map(|one| one.key) {
            return self.container_ended(key, ending);
        }
        let exec = self.execs.iter().find(|one| one.pid == pid && !one.reaped);
        if let Some(key) = exec.map(|one| one.key) {
            return self.exec_ended(key, ending);
        }
        // Anything else is an orphan of the pod, which came here because this process is its subreaper.
        self.orphan_ended(pid, ending);
    }
}
