use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use cri::v1::{ContainerFilter, ContainerState, ContainerStatus};

use crate::error::{self, Error};
use crate::logs::{Follow, Log, LogOptions, Stream};
use crate::output::{Output, time};
use crate::session::Session;
use crate::{duration, ids, logs};

/// How often a follower asks whether the container still runs.
const STATE_INTERVAL: Duration = Duration::from_millis(500);

/// Colours of names, none of which means anything.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

/// Show the logs of containers
///
/// Of several containers, or of a pod, each line begins with its container's name; they are shown one after the other, and as they come with
/// --follow.
#[derive(Debug, Args)]
pub(crate) struct Logs {
    #[arg(value_name = "CONTAINER-ID", required_unless_present = "pod")]
    ids: Vec<String>,
    /// Show the logs of all containers of a pod
    #[arg(long, value_name = "POD-ID", conflicts_with = "ids")]
    pod: Option<String>,
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
    /// Show lines until a time, or until a while ago
    #[arg(long, value_name = "TIME", conflicts_with_all = ["tail", "follow"])]
    until: Option<String>,
    /// Show at most this much; -1 is all
    #[arg(long, value_name = "BYTES", default_value_t = -1, allow_negative_numbers = true, hide_default_value = true)]
    limit_bytes: i64,
}

/// What is known of a container whose log is asked for.
struct Source {
    id: String,
    name: String,
    path: PathBuf,
    options: LogOptions,
}

impl Logs {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let options = LogOptions {
            prefix: String::new(),
            tail: u64::try_from(self.tail).ok(),
            timestamps: self.timestamps,
            stream: self.stream,
            since_ns: moment("--since", self.since.as_deref())?,
            until_ns: moment("--until", self.until.as_deref())?,
            limit_bytes: u64::try_from(self.limit_bytes).ok(),
        };
        let ids = match &self.pod {
            Some(pod) => containers_of(session, pod).await?,
            None => ids::containers(session, &self.ids).await?,
        };
        let several = self.pod.is_some() || ids.len() > 1;
        // What is wrong with one of several does not keep the others from being shown.
        let mut failed = false;
        let mut report = |error: Error| match several && !matches!(error, Error::Connect(_)) {
            true => {
                failed = true;
                error::report(session.program(), &error);
                Ok(())
            }
            false => Err(error),
        };
        let mut sources = Vec::new();
        for id in ids {
            match self.source(session, id, &options).await {
                Ok(source) => sources.push(source),
                Err(error) => report(error)?,
            }
        }
        if several {
            prefix(&mut sources, out.has_colours());
        }
        let mut open = Vec::new();
        for source in &sources {
            // Of a previous attempt nothing more comes.
            let follow = (self.follow && !self.previous).then_some(Follow {
                still_running: async || is_alive(session, &source.id).await,
                interval: STATE_INTERVAL,
            });
            match Log::open(&source.path, &source.options, follow) {
                Ok(log) => open.push(log),
                Err(error) => report(error)?,
            }
        }
        logs::show(open, out).await?;
        if failed { Err(Error::Reported) } else { Ok(()) }
    }

    async fn source(
        &self,
        session: &Session,
        id: Result<String, Error>,
        options: &LogOptions,
    ) -> Result<Source, Error> {
        let id = id?;
        if self.reopen {
            session.reopen_log(&id).await?;
        }
        let status = session.container_status(&id, false).await?.status;
        let status = status.unwrap_or_default();
        let path = log_path(&id, &status, self.previous)?;
        Ok(Source {
            id,
            name: status.metadata.unwrap_or_default().name,
            path,
            options: options.clone(),
        })
    }
}

/// In the order in which they were created.
async fn containers_of(session: &Session, pod: &str) -> Result<Vec<Result<String, Error>>, Error> {
    let pod = ids::pod(session, pod).await?;
    let filter = ContainerFilter {
        pod_sandbox_id: pod.clone(),
        ..ContainerFilter::default()
    };
    let mut found = session.containers(filter).await?;
    if found.is_empty() {
        // Whether there is such a pod, its status says better.
        session.pod_status(&pod, false).await?;
        return Err(Error::Refused(format!("pod {pod} has no containers")));
    }
    found.sort_by_key(|container| container.created_at);
    Ok(found
        .into_iter()
        .map(|container| Ok(container.id))
        .collect())
}

/// Names of one width, so that the lines begin below each other.
fn prefix(sources: &mut [Source], colours: bool) {
    let names = sources.iter().map(|source| source.name.chars().count());
    let width = names.max().unwrap_or(0);
    for (source, colour) in sources.iter_mut().zip(COLOURS.into_iter().cycle()) {
        let name = &source.name;
        source.options.prefix = match colours {
            true => format!("\x1b[{colour}m{name:width$} |\x1b[0m "),
            false => format!("{name:width$} | "),
        };
    }
}

async fn is_alive(session: &Session, id: &str) -> Result<bool, Error> {
    match session.container_status(id, false).await {
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

/// A time, or so long before now.
fn moment(flag: &str, text: Option<&str>) -> Result<Option<i64>, Error> {
    let Some(text) = text else {
        return Ok(None);
    };
    if let Some(ns) = time::parse_rfc3339(text) {
        return Ok(Some(ns));
    }
    let back = duration::parse(text).map_err(|_| {
        Error::Usage(format!(
            "{flag} {text:?}: write a time like 2026-11-21T08:00:00Z or a duration like 10m"
        ))
    })?;
    let back = i64::try_from(back.as_nanos()).unwrap_or(i64::MAX);
    Ok(Some(time::now_ns().saturating_sub(back)))
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
