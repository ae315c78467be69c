use clap::Args;

use super::each::{AT_ONCE, Quiet, each};
use crate::error::Error;
use crate::ids;
use crate::output::Output;
use crate::session::Session;

/// Stop pods and the containers in them
#[derive(Debug, Args)]
pub(crate) struct Stopp {
    #[arg(value_name = "POD-ID", required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    quiet: Quiet,
}

impl Stopp {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let targets = ids::pods(session, &self.ids).await?;
        each(session, out, AT_ONCE, targets, async |id| {
            session.stop_pod(&id).await?;
            Ok(match self.quiet.quiet {
                true => id,
                false => format!("Stopped sandbox {id}"),
            })
        })
        .await
    }
}
