use std::io::Write;

use clap::Args;

use crate::error::Error;
use crate::output::Output;
use crate::session::Session;

/// Show the runtime's version
#[derive(Debug, Args)]
pub(crate) struct Version {}

impl Version {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let version = session.version().await?;
        // Two spaces, as crictl prints them: scripts cut at them.
        writeln!(out, "Version:  {}", version.version)?;
        writeln!(out, "RuntimeName:  {}", version.runtime_name)?;
        writeln!(out, "RuntimeVersion:  {}", version.runtime_version)?;
        writeln!(out, "RuntimeApiVersion:  {}", version.runtime_api_version)?;
        Ok(())
    }
}
