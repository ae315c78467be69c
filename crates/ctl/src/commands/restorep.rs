use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::checkpoint::absolute;
use super::each::Quiet;
use crate::error::Error;
use crate::input;
use crate::output::Output;
use crate::session::Session;

/// Restore a pod and its containers from a checkpoint of a pod
///
/// The containers are created; `start` lets them go on. Shows the pod's id, then its containers' ids and names.
#[derive(Debug, Args)]
pub(crate) struct Restorep {
    /// Directory of the checkpoint
    #[arg(long, short, value_name = "DIRECTORY")]
    import: PathBuf,
    /// PodSandboxConfig of the new pod in JSON or YAML
    #[arg(value_name = "POD-CONFIG")]
    pod_config: PathBuf,
    /// ContainerConfig of each container in the checkpoint, by its name there
    #[arg(value_name = "CONTAINER-CONFIG", required = true)]
    container_configs: Vec<PathBuf>,
    /// Runtime handler
    #[arg(long, short, default_value = "", hide_default_value = true)]
    runtime: String,
    /// Let the containers go on
    #[arg(long)]
    start: bool,
    #[command(flatten)]
    quiet: Quiet,
}

impl Restorep {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let path = absolute("restorep", &self.import)?;
        let config = input::pod_config(&self.pod_config)?;
        let configs = self.container_configs.iter();
        let containers = configs
            .map(|path| input::container_config(path))
            .collect::<Result<Vec<_>, _>>()?;
        let restored = session
            .restore_pod(path, config, &self.runtime, containers)
            .await?;
        writeln!(out, "{}", restored.pod_sandbox_id)?;
        for container in restored.restored_containers {
            if self.start {
                session.start_container(&container.container_id).await?;
            }
            match self.quiet.quiet {
                true => writeln!(out, "{}", container.container_id)?,
                false => writeln!(out, "{} {}", container.container_id, container.name)?,
            }
        }
        Ok(())
    }
}
