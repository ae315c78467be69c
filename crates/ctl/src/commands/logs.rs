use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use cri::v1::{ContainerState, ContainerStatus};

use crate::error::Error;
use crate::logs::{Follow, LogOptions, Stream};
use crate::output::{Output, time};
use crate::session::Session;
use crate::{duration, ids, logs};

/// How often a follower asks whether the container still runs.
const STATE_INTERVAL: Duration = Duration::from_millis(500);

/// Show a container's log
#[derive(Debug, Args)]
pub(crate) struct Logs {
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
    /// Go on until the container has exited
    #[arg(long, short)]
    follow: bool,
    /// Show only the last N lines; -1 is all
    #[arg(long, value_name = "N", default_value_t = -1, allow_negative_numbers = true, hide_default_value = true)]
    tail: i64,
    /// Show times
    #[arg(long, short)]
    timestamps: bool,
    /// Show the log of the container's previous attempt
    #[arg(long, short)]
    previous: bool,
    /// Make the runtime reopen the log file first
    #[arg(long, short)]
    reopen: bool,
    /// Show only one stream
    #[arg(long, short, conflicts_with = "tail")]
    stream: Option<Stream>,
    /// Show lines since a time (2026-11-21T08:00:00Z) or for a while back (10m)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Show at most this much; -1 is all
    #[arg(long, value_name = "BYTES", default_value_t = -1, allow_negative_numbers = true, hide_default_value = true)]
    limit_bytes: i64,
}

impl Logs {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let options = LogOptions {
            tail: u64::try_from(self.tail).ok(),
            timestamps: self.timestamps,
            stream: self.stream,
            since_ns: self.since.as_deref().map(since).transpose()?,
            limit_bytes: u64::try_from(self.limit_bytes).ok(),
        };
        let id = ids::container(session, &self.id).await?;
        if self.reopen {
            session.reopen_log(&id).await?;
        }
        let status = session
            .container_status(&id, false)
            .await?
            .status
            .unwrap_or_default();
        let path = log_path(&id, &status, self.previous)?;
        // Of a previous attempt nothing more comes.
        let follow = self.follow && !self.previous;
        let mut running = async || {
            match session.container_status(&id, false).await {
                Ok(reply) => {
                    let state = reply.status.unwrap_or_default().state();
                    Ok(matches!(
                        state,
                        ContainerState::ContainerRunning | ContainerState::ContainerCreated
                    ))
                }
                // Removed meanwhile: what is left of the log has been read.
                Err(error) if error.not_found() => Ok(false),
                Err(error) => Err(error),
            }
        };
        let follow = follow.then_some(Follow {
            still_running: &mut running,
            interval: STATE_INTERVAL,
        });
        logs::show(&path, &options, follow, out).await
    }
}

fn log_path(id: &str, status: &ContainerStatus, previous: bool) -> Result<PathBuf, Error> {
    if status.log_path.is_empty() {
        return Err(Error::Refused(format!("container {id} has no log path")));
    }
    let path = PathBuf::from(&status.log_path);
    if !previous {
        return Ok(path);
    }
    // The kubelet names logs by attempt: 0.log, 1.log.
    let attempt = status
        .metadata
        .as_ref()
        .map_or(0, |metadata| metadata.attempt);
    match attempt.checked_sub(1) {
        Some(attempt) => Ok(path.with_file_name(format!("{attempt}.log"))),
        None => Err(Error::Refused(format!(
            "container {id} has no previous attempt"
        ))),
    }
}

fn since(text: &str) -> Result<i64, Error> {
    if let Some(ns) = time::parse_rfc3339(text) {
        return Ok(ns);
    }
    let back = duration::parse(text).map_err(|_| {
        Error::Usage(format!(
            "--since {text:?}: write a time like 2026-11-21T08:00:00Z or a duration like 10m"
        ))
    })?;
    Ok(time::now_ns().saturating_sub(i64::try_from(back.as_nanos()).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri::v1::ContainerMetadata;

    #[test]
    fn the_previous_log_is_that_of_the_attempt_before() {
        let status = |attempt| ContainerStatus {
            log_path: "/logs/web/1.log".to_owned(),
            metadata: Some(ContainerMetadata {
                name: "web".to_owned(),
                attempt,
            }),
            ..ContainerStatus::default()
        };
        let path = |attempt, previous| log_path("abc", &status(attempt), previous);
        assert_eq!(path(1, false).unwrap(), PathBuf::from("/logs/web/1.log"));
        assert_eq!(path(1, true).unwrap(), PathBuf::from("/logs/web/0.log"));
        assert!(path(0, true).is_err());
        assert!(log_path("abc", &ContainerStatus::default(), false).is_err());
    }
}
