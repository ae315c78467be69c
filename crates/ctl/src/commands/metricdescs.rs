use clap::Args;

use super::each::write_ids;
use crate::error::Error;
use crate::output::{Format, Output, json};
use crate::session::Session;

/// List the metrics that the runtime has, and what they say
#[derive(Debug, Args)]
pub(crate) struct Metricdescs {
    /// Output format
    #[arg(long, short, default_value = "json")]
    output: Format,
    /// Print only names
    #[arg(long, short)]
    quiet: bool,
}

impl Metricdescs {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let format = json_or_yaml(self.output)?;
        let reply = session.metric_descriptors().await?;
        if self.quiet {
            return write_ids(out, reply.descriptors.iter().map(|one| &one.name));
        }
        json::write_message(out, format, &reply)
    }
}

/// Metrics have no table, as with crictl.
pub(super) fn json_or_yaml(format: Format) -> Result<Format, Error> {
    match format {
        Format::Table => Err(Error::Usage(
            "metrics have no table: use -o json or -o yaml".to_owned(),
        )),
        format => Ok(format),
    }
}
