use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::each::Quiet;
use crate::error::Error;
use crate::output::Output;
use crate::session::Session;
use crate::{duration, input};

/// Run a new pod
#[derive(Debug, Args)]
pub(crate) struct Runp {
    /// PodSandboxConfig in JSON or YAML; - is standard input
    #[arg(value_name = "POD-CONFIG")]
    pod_config: PathBuf,
    /// Runtime handler
    #[arg(long, short, default_value = "", hide_default_value = true)]
    runtime: String,
    /// Give up after this time
    #[arg(long, short = 'T', value_name = "DURATION", value_parser = duration::parse)]
    cancel_timeout: Option<Duration>,
    #[command(flatten)]
    quiet: Quiet,
}

impl Runp {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let config = input::pod_config(&self.pod_config)?;
        let id = session
            .run_pod(config, &self.runtime, self.cancel_timeout)
            .await?;
        writeln!(out, "{id}")?;
        Ok(())
    }
}
