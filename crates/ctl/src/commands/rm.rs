use std::fs;
use std::io;
use std::path::Path;

use clap::Args;
use cri::v1::{ContainerFilter, ContainerState};

use super::each::{AT_ONCE, Quiet, check_targets, each};
use crate::error::{self, Error};
use crate::ids;
use crate::output::Output;
use crate::session::Session;

/// Remove containers and their logs
#[derive(Debug, Args)]
pub(crate) struct Rm {
    #[arg(value_name = "CONTAINER-ID")]
    ids: Vec<String>,
    /// Kill a container that runs, then remove it
    #[arg(long, short)]
    force: bool,
    /// Keep the container's log and its rotations
    #[arg(long, short)]
    keep_logs: bool,
    /// Remove all containers
    #[arg(long, short)]
    all: bool,
    #[command(flatten)]
    quiet: Quiet,
}

impl Rm {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        check_targets("container", &self.ids, self.all)?;
        let targets = if self.all {
            let containers = session.containers(ContainerFilter::default()).await?;
            containers
                .into_iter()
                .map(|container| Ok(container.id))
                .collect()
        } else {
            ids::containers(session, &self.ids).await?
        };
        each(session, out, AT_ONCE, targets, async |id| {
            let reply = session.container_status(&id, false).await?;
            let status = reply.status.unwrap_or_default();
            if status.state() == ContainerState::ContainerRunning {
                if !self.force {
                    return Err(Error::Refused(format!(
                        "remove container {id}: it is running; stop it first, or use --force"
                    )));
                }
                session.stop_container(&id, 0).await?;
            }
            session.remove_container(&id).await?;
            if !self.keep_logs && !status.log_path.is_empty() {
                for failure in remove_logs(Path::new(&status.log_path)) {
                    error::note(&format!("{}: {failure}", session.program()));
                }
            }
            Ok(id)
        })
        .await
    }
}

/// Removes the log and its rotations (`0.log.20261121-080000`, perhaps `.gz`); returns what could not be removed.
fn remove_logs(log: &Path) -> Vec<String> {
    let (Some(directory), Some(name)) = (log.parent(), log.file_name()) else {
        return Vec::new();
    };
    let rotated = format!("{}.", name.to_string_lossy());
    let mut files = vec![log.to_owned()];
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&rotated) {
            files.push(entry.path());
        }
    }
    let mut failures = Vec::new();
    for file in files {
        match fs::remove_file(&file) {
            // The runtime, or a kubelet, may have been there first.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                failures.push(format!("remove log {}: {error}", file.display()));
            }
            _ => {}
        }
    }
    failures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_goes_with_its_rotations_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in [
            "0.log",
            "0.log.20261121-080000",
            "0.log.20261121-090000.gz",
            "1.log",
            "10.log",
        ] {
            fs::write(path(name), "x").unwrap();
        }
        assert!(remove_logs(&path("0.log")).is_empty());
        assert!(remove_logs(&path("0.log")).is_empty());
        let mut left: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["1.log", "10.log"]);
    }
}
