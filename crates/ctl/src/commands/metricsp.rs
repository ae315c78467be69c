use std::io::Write;
use std::time::Duration;

use clap::Args;

use super::each::{Quiet, write_ids};
use super::metricdescs::json_or_yaml;
use crate::error::Error;
use crate::output::{Format, Output, json};
use crate::session::Session;

/// Time between two frames of `--watch`.
const FRAME: Duration = Duration::from_millis(500);

/// List the metrics of pods and their containers
#[derive(Debug, Args)]
pub(crate) struct Metricsp {
    /// Output format
    #[arg(long, short, default_value = "json")]
    output: Format,
    /// Show again and again, until interrupted
    #[arg(long, short)]
    watch: bool,
    #[command(flatten)]
    quiet: Quiet,
}

impl Metricsp {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let format = json_or_yaml(self.output)?;
        loop {
            let metrics = session.pod_metrics().await?;
            if self.watch && out.is_terminal() {
                out.clear_screen()?;
            }
            if self.quiet.quiet {
                write_ids(
                    out,
                    metrics.pod_metrics.iter().map(|pod| &pod.pod_sandbox_id),
                )?;
            } else {
                json::write_message(out, format, &metrics)?;
            }
            out.flush()?;
            if !self.watch {
                return Ok(());
            }
            tokio::time::sleep(FRAME).await;
        }
    }
}
