use clap::Args;
use cri::v1::{PodSandboxFilter, PodSandboxState};

use super::each::{AT_ONCE, check_targets, each};
use crate::error::Error;
use crate::ids;
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
            let status = session.pod_status(&id, false).await?.status;
            let mut lines = String::new();
            if status.unwrap_or_default().state() == PodSandboxState::SandboxReady {
                if !self.force {
                    return Err(Error::Refused(format!(
                        "remove pod {id}: it is ready; stop it first, or use --force"
                    )));
                }
                session.stop_pod(&id).await?;
                lines = format!("Stopped sandbox {id}\n");
            }
            session.remove_pod(&id).await?;
            lines.push_str(&format!("Removed sandbox {id}"));
            Ok(lines)
        })
        .await
    }
}
