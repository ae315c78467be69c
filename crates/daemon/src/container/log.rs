//! Container logs: the files are opened here, in the node's file system, and written by the pod's supervisor.

use std::{
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use oci_plan::FdSlot;
use supervisor_api::RequestBody;

use super::{Container, Phase};
use crate::{
    id::ContainerId,
    paths::{PathError, Paths},
    supervisor::CallError,
};

#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error("log_path {0:?}: must not leave the pod's log_directory by `..`")]
    Escapes(String),
    #[error(
        "log_path {0:?} is relative and the pod has no log_directory: give the pod one, or an absolute log_path"
    )]
    NoDirectory(String),
    #[error("open the log {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: PathError,
    },
    #[error("container {0} is not running: its log cannot be reopened")]
    NotRunning(ContainerId),
    #[error("container {0} has no log_path: there is no log to reopen")]
    NoLog(ContainerId),
    #[error("reopen the log of container {0}")]
    Supervisor(ContainerId, #[source] CallError),
}

/// Where a container's log is; `None` where its output is dropped.
pub(super) fn path(log_directory: &str, log_path: &str) -> Result<Option<PathBuf>, LogError> {
    if log_path.is_empty() {
        return Ok(None);
    }
    let relative = Path::new(log_path);
    if relative
        .components()
        .any(|component| component == Component::ParentDir)
    {
        return Err(LogError::Escapes(log_path.to_owned()));
    }
    if relative.is_absolute() {
        return Ok(Some(relative.to_owned()));
    }
    if log_directory.is_empty() {
        return Err(LogError::NoDirectory(log_path.to_owned()));
    }
    Ok(Some(Path::new(log_directory).join(relative)))
}

/// Opens a container's log, where it has one.
pub(super) async fn open_for(
    paths: &Paths,
    container: &Container,
) -> Result<Option<OwnedFd>, LogError> {
    match &container.log_path {
        Some(path) => open(paths, path).await.map(Some),
        None => Ok(None),
    }
}

/// Opens a log for appending, making it and its directory where they are missing.
async fn open(paths: &Paths, path: &Path) -> Result<OwnedFd, LogError> {
    let opened = paths.log(path).await;
    opened.map_err(|source| LogError::Open {
        path: path.to_owned(),
        source,
    })
}

/// ReopenContainerLog: after a rotation by rename, output goes on in a new file at the old path.
pub(crate) async fn reopen(paths: &Paths, container: &Arc<Container>) -> Result<(), LogError> {
    let id = &container.id;
    let (Phase::Running { .. }, Some(link)) = (container.phase(), container.pod.link()) else {
        return Err(LogError::NotRunning(id.clone()));
    };
    let path = container
        .log_path
        .as_deref()
        .ok_or_else(|| LogError::NoLog(id.clone()))?;
    let log = open(paths, path).await?;
    let request = RequestBody::ReopenLog {
        id: id.to_string(),
        log: FdSlot(0),
    };
    link.order("ReopenLog", request, vec![log])
        .await
        .map_err(|error| LogError::Supervisor(id.clone(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_below_its_directory_or_absolute() {
        let at = |directory: &str, log: &str| path(directory, log).map(|p| p.unwrap());
        assert_eq!(
            at("/var/log/pods/x", "web/0.log").unwrap(),
            Path::new("/var/log/pods/x/web/0.log")
        );
        assert_eq!(
            at("/var/log/pods/x", "/tmp/abs.log").unwrap(),
            Path::new("/tmp/abs.log")
        );
        assert!(matches!(at("/d", "../x"), Err(LogError::Escapes(_))));
        assert!(matches!(at("", "x"), Err(LogError::NoDirectory(_))));
        assert!(path("/d", "").unwrap().is_none());
    }
}
