use std::io::Write;

use clap::Args;

use super::each::Quiet;
use crate::error::Error;
use crate::output::Output;
use crate::output::json::{self, Names};
use crate::output::template::{Form, Shape};
use crate::session::Session;

/// Show what happens to containers and pods, until interrupted
#[derive(Debug, Args)]
pub(crate) struct Events {
    #[command(flatten)]
    shape: Shape,
    #[command(flatten)]
    quiet: Quiet,
}

impl Events {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let form = self.shape.form()?;
        if form.is_table() {
            return Err(Error::Usage(
                "events have no table: use -o json or -o yaml".to_owned(),
            ));
        }
        let mut events = session.events().await?;
        loop {
            let next = events.message().await;
            let next = next.map_err(|status| Error::rpc("read events", status))?;
            let Some(event) = next else { return Ok(()) };
            match &form {
                _ if self.quiet.quiet => writeln!(out, "{}", event.container_id)?,
                // A message has the schema's order, a value its keys sorted.
                Form::Plain(format) => json::write_message(out, *format, &event)?,
                Form::Template(_) => form.write(out, &json::value(&event, Names::Json))?,
            }
            // Whoever reads it wants it now.
            out.flush()?;
        }
    }
}
