use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::each::Quiet;
use super::pull::{self, PullFlags};
use crate::error::Error;
use crate::output::Output;
use crate::session::Session;
use crate::{duration, ids, input};

/// Create a container in a pod
#[derive(Debug, Args)]
pub(crate) struct Create {
    #[arg(value_name = "POD-ID")]
    pod: String,
    /// ContainerConfig in JSON or YAML; - is standard input
    #[arg(value_name = "CONTAINER-CONFIG")]
    container_config: PathBuf,
    /// The PodSandboxConfig that the pod was run with
    #[arg(value_name = "POD-CONFIG")]
    pod_config: PathBuf,
    /// Do not pull the image first (the default, unless the configuration file says pull-image-on-create)
    #[arg(long, conflicts_with = "with_pull")]
    no_pull: bool,
    /// Pull the image first
    #[arg(long)]
    with_pull: bool,
    #[command(flatten)]
    pull: PullFlags,
    /// Give up after this time
    #[arg(long, short = 'T', value_name = "DURATION", value_parser = duration::parse)]
    cancel_timeout: Option<Duration>,
    #[command(flatten)]
    quiet: Quiet,
}

impl Create {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let config = input::container_config(&self.container_config)?;
        let mut sandbox = input::pod_config(&self.pod_config)?;
        let pod = ids::pod(session, &self.pod).await?;
        // A uid that was made up differs from the one that runp made up.
        if let (Some(ours), Ok(reply)) = (
            sandbox.metadata.as_mut(),
            session.pod_status(&pod, false).await,
        ) && let Some(theirs) = reply.status.and_then(|status| status.metadata)
            && theirs.name == ours.name
            && theirs.namespace == ours.namespace
        {
            ours.uid = theirs.uid;
        }
        let wanted = session.settings().pull_on_create && !self.no_pull;
        if wanted || self.with_pull {
            pull::images_of(session, &config, Some(&sandbox), &self.pull).await?;
        }
        let bound = self.cancel_timeout;
        let id = session
            .create_container(&pod, config, Some(sandbox), bound)
            .await?;
        writeln!(out, "{id}")?;
        Ok(())
    }
}
