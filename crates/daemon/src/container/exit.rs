//! How a container ended, and taking that in.

use std::sync::Arc;

use supervisor_api::ExitRecord;

use super::{Container, Phase, return_devices};
use crate::{
    events::{Kind, News},
    id::ContainerId,
    runtime::{Runtime, now_ns},
};

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exit {
    /// The exit status, or 128 and the signal.
    pub(crate) code: i32,
    pub(crate) reason: ExitReason,
    pub(crate) message: String,
    /// Nanoseconds since the Unix epoch; 0 if it never ran.
    pub(crate) started_at_ns: i64,
    pub(crate) finished_at_ns: i64,
}

/// CRI's `reason`, in the words that the kubelet and people know from the peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExitReason {
    Completed,
    Error,
    OomKilled,
    StartError,
    /// It was stopped for system calls that its filter denies.
    SeccompKilled,
}

impl ExitReason {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OomKilled => "OOMKilled",
            Self::StartError => "StartError",
            Self::SeccompKilled => "seccomp killed",
        }
    }
}

/// The exit code of a container whose program could not be run, as on the peers.
pub(super) const START_ERROR_CODE: i32 = 128;

impl Exit {
    /// `forbidden`: the system calls for which it was stopped, if it was.
    pub(crate) fn from_record(record: &ExitRecord, forbidden: Option<&str>) -> Self {
        let reason = match record {
            _ if forbidden.is_some() => ExitReason::SeccompKilled,
            ExitRecord {
                oom_killed: true, ..
            } => ExitReason::OomKilled,
            // How a supervisor records a container whose program could not be run.
            ExitRecord {
                exit_code: START_ERROR_CODE,
                started_at_ns: 0,
                message: Some(_),
                ..
            } => ExitReason::StartError,
            ExitRecord { exit_code: 0, .. } => ExitReason::Completed,
            ExitRecord { .. } => ExitReason::Error,
        };
        Self {
            code: record.exit_code,
            reason,
            message: match (forbidden, &record.message) {
                (Some(forbidden), None) => forbidden.to_owned(),
                (Some(forbidden), Some(message)) => format!("{forbidden}; {message}"),
                (None, message) => message.clone().unwrap_or_default(),
            },
            started_at_ns: record.started_at_ns,
            finished_at_ns: record.finished_at_ns,
        }
    }

    pub(crate) fn start_error(message: String, finished_at_ns: i64) -> Self {
        Self {
            code: START_ERROR_CODE,
            reason: ExitReason::StartError,
            message,
            started_at_ns: 0,
            finished_at_ns,
        }
    }
}

/// A supervisor has told of an exit; its record is on disk.
pub(crate) fn exited(runtime: &Runtime, id: &str, record: &ExitRecord) {
    let container = ContainerId::parse(id).and_then(|id| runtime.inventory.container(&id));
    // One that is being created or removed is not listed, and its exit is no news to whoever does that.
    if let Some(container) = container {
        container.take_exit(runtime, record);
    }
}

impl Container {
    /// The first word on how it ended stands.
    pub(crate) fn take_exit(self: &Arc<Self>, runtime: &Runtime, record: &ExitRecord) {
        runtime.happen(|news| {
            // It ran, and its end is known before the reply to its start: that it ran is told first.
            if let Phase::Created { pid } = self.phase()
                && record.started_at_ns != 0
            {
                self.run(news, pid, record.started_at_ns);
            }
            let mut exit = Exit::from_record(record, self.record().forbidden.as_deref());
            if exit.started_at_ns == 0 {
                exit.started_at_ns = self.started_at_ns();
            }
            self.end(news, exit);
        });
        return_devices(runtime, self);
        runtime.nri.ended(self);
    }

    /// Its program could not be run. An exit that is known already, such as by the OOM killer, stands.
    pub(super) fn not_started(self: &Arc<Self>, runtime: &Runtime, message: &str) {
        runtime.happen(|news| {
            if let Phase::Created { .. } = self.phase() {
                self.end(news, Exit::start_error(message.to_owned(), now_ns()));
            }
        });
        return_devices(runtime, self);
        runtime.nri.ended(self);
    }

    fn end(self: &Arc<Self>, news: &mut News<'_>, exit: Exit) {
        let ended = self.phase.send_if_modified(|phase| {
            let news = matches!(phase, Phase::Created { .. } | Phase::Running { .. });
            if news {
                *phase = Phase::Exited(Arc::new(exit));
            }
            news
        });
        if ended {
            news.container(Kind::Stopped, self);
        }
    }
}
