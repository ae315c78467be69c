use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use cri::v1::{ContainerFilter, ContainerState, ContainerStateValue};

use super::checkpoint::absolute;
use super::each::Quiet;
use crate::error::Error;
use crate::ids;
use crate::output::Output;
use crate::session::Session;

/// Checkpoint containers of a pod, in one cut
///
/// All of them stand still while the first is written down, and go on afterwards. Without container ids: all that run.
#[derive(Debug, Args)]
pub(crate) struct Checkpointp {
    #[arg(value_name = "POD-ID")]
    pod: String,
    #[arg(value_name = "CONTAINER-ID")]
    containers: Vec<String>,
    /// Directory that the runtime writes into; made if it is not there, and empty otherwise
    #[arg(long, short, value_name = "DIRECTORY")]
    export: PathBuf,
    #[command(flatten)]
    quiet: Quiet,
}

impl Checkpointp {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let path = absolute("checkpointp", &self.export)?;
        let pod = ids::pod(session, &self.pod).await?;
        let containers = match self.containers.as_slice() {
            [] => {
                let filter = ContainerFilter {
                    pod_sandbox_id: pod.clone(),
                    state: Some(ContainerStateValue {
                        state: ContainerState::ContainerRunning.into(),
                    }),
                    ..ContainerFilter::default()
                };
                let running = session.containers(filter).await?;
                running.into_iter().map(|container| container.id).collect()
            }
            given => {
                let found = ids::containers(session, given).await?;
                found.into_iter().collect::<Result<Vec<_>, _>>()?
            }
        };
        let mut directory = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut directory, 0o700);
        let made = directory.create(&self.export);
        match &made {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                made.map_err(|source| Error::Io {
                    what: format!("make the directory {path}"),
                    source,
                })?;
            }
            Ok(()) | Err(_) => {}
        }
        session.checkpoint_pod(&pod, path, containers).await?;
        writeln!(out, "{pod}")?;
        Ok(())
    }
}
