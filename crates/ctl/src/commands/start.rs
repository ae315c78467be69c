use clap::Args;

use super::each::{Quiet, each};
use crate::error::Error;
use crate::ids;
use crate::output::Output;
use crate::session::Session;

/// Start created containers
#[derive(Debug, Args)]
pub(crate) struct Start {
    #[arg(value_name = "CONTAINER-ID", required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    quiet: Quiet,
}

impl Start {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let targets = ids::containers(session, &self.ids).await?;
        // One after the other: who names them in an order wants it.
        each(session, out, 1, targets, async |id| {
            session.start_container(&id).await?;
            Ok(id)
        })
        .await
    }
}
