use std::io::Write;

use clap::Args;

use crate::error::Error;
use crate::output::{Format, Output, json};
use crate::session::Session;

/// Show the runtime's configuration as CRI tells it
#[derive(Debug, Args)]
pub(crate) struct RuntimeConfig {
    /// Output format
    #[arg(long, short, default_value = "table")]
    output: Format,
}

impl RuntimeConfig {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let format = self.output;
        let config = session.runtime_config().await?;
        if format != Format::Table {
            return json::write_message(out, format, &config);
        }
        if let Some(linux) = &config.linux {
            writeln!(
                out,
                "cgroup driver:   {}",
                linux.cgroup_driver().as_str_name()
            )?;
        }
        Ok(())
    }
}
