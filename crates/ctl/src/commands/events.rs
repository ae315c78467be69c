use std::io::Write;

use clap::Args;

use crate::error::Error;
use crate::output::{Format, Output, json};
use crate::session::Session;

/// Show what happens to containers and pods, until interrupted
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Output format
    #[arg(long, short, default_value = "json")]
    output: Format,
}

impl Events {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let format = self.output.supported()?;
        if format == Format::Table {
            return Err(Error::Usage(
                "events have no table: use -o json or -o yaml".to_owned(),
            ));
        }
        let mut events = session.events().await?;
        loop {
            let next = events.message().await;
            let next = next.map_err(|status| Error::rpc("read events", status))?;
            let Some(event) = next else { return Ok(()) };
            json::write_message(out, format, &event)?;
            // Whoever reads it wants it now.
            out.flush()?;
        }
    }
}
