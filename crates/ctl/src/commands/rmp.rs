use std::io;
use std::path::Path;

use clap::Args;
use cri::v1::{PodSandboxFilter, PodSandboxState, PodSandboxStatus};

use super::each::{AT_ONCE, Quiet, check_targets, each};
use crate::error::{self, Error};
use crate::ids;
use crate::manifest::LOG_DIRECTORY_ANNOTATION;
use crate::output::Output;
use crate::session::Session;

/// Remove pods and the containers in them
#[derive(Debug, Args)]
pub(crate) struct Rmp {
    #[arg(value_name = "POD-ID")]
    ids: Vec<String>,
    /// Stop a pod that is ready, then remove it
    #[arg(long, short)]
    force: bool,
    /// Remove all pods
    #[arg(long, short)]
    all: bool,
    #[command(flatten)]
    quiet: Quiet,
}

impl Rmp {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        check_targets("pod", &self.ids, self.all)?;
        let targets = if self.all {
            let pods = session.pods(PodSandboxFilter::default()).await?;
            pods.into_iter().map(|pod| Ok(pod.id)).collect()
        } else {
            ids::pods(session, &self.ids).await?
        };
        each(session, out, AT_ONCE, targets, async |id| {
            let reply = session.pod_status(&id, false).await?;
            let status = reply.status.unwrap_or_default();
            let mut lines = String::new();
            if status.state() == PodSandboxState::SandboxReady {
                if !self.force {
                    return Err(Error::Refused(format!(
                        "remove pod {id}: it is ready; stop it first, or use --force"
                    )));
                }
                session.stop_pod(&id).await?;
                lines = format!("Stopped sandbox {id}\n");
            }
            session.remove_pod(&id).await?;
            if let Some(logs) = log_directory(&status)
                && let Err(failure) = remove_all(logs)
            {
                let logs = logs.display();
                error::note(&format!(
                    "{}: remove logs {logs}: {failure}",
                    session.program()
                ));
            }
            if self.quiet.quiet {
                return Ok(id);
            }
            lines.push_str(&format!("Removed sandbox {id}"));
            Ok(lines)
        })
        .await
    }
}

/// The log directory that `run` made for this pod. Its name must be the pod's: an annotation alone removes nothing.
fn log_directory(pod: &PodSandboxStatus) -> Option<&Path> {
    let metadata = pod.metadata.as_ref()?;
    let name = format!("{}_{}_{}", metadata.namespace, metadata.name, metadata.uid);
    let path = Path::new(pod.annotations.get(LOG_DIRECTORY_ANNOTATION)?);
    (path.is_absolute() && path.file_name()? == name.as_str()).then_some(path)
}

fn remove_all(directory: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri::v1::PodSandboxMetadata;

    #[test]
    fn only_the_pods_own_log_directory_is_removed() {
        let pod = |path: &str| PodSandboxStatus {
            metadata: Some(PodSandboxMetadata {
                name: "web".to_owned(),
                uid: "u".to_owned(),
                namespace: "ns".to_owned(),
                attempt: 0,
            }),
            annotations: [(LOG_DIRECTORY_ANNOTATION.to_owned(), path.to_owned())].into(),
            ..PodSandboxStatus::default()
        };
        let own = pod("/var/log/pods/ns_web_u");
        assert_eq!(
            log_directory(&own),
            Some(Path::new("/var/log/pods/ns_web_u"))
        );
        for other in ["/var/log/pods", "/", "ns_web_u", "/var/log/pods/ns_db_u"] {
            assert_eq!(log_directory(&pod(other)), None);
        }
        assert_eq!(log_directory(&PodSandboxStatus::default()), None);
    }
}
