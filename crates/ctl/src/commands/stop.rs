use std::io::Write;

use clap::Args;

use super::each::{AT_ONCE, Quiet, check_targets, each};
use crate::error::Error;
use crate::ids;
use crate::output::Output;
use crate::select::ContainerSelection;
use crate::session::Session;

/// Stop running containers
#[derive(Debug, Args)]
pub(crate) struct Stop {
    #[arg(value_name = "CONTAINER-ID")]
    ids: Vec<String>,
    /// Seconds between the stop signal and the kill
    #[arg(long, short, value_name = "SECONDS", default_value_t = 0)]
    timeout: i64,
    /// Stop all running containers
    #[arg(long, short)]
    all: bool,
    #[command(flatten)]
    quiet: Quiet,
}

impl Stop {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        check_targets("container", &self.ids, self.all)?;
        let targets = if self.all {
            let running = ContainerSelection::default().list(session, None).await?;
            if running.is_empty() {
                writeln!(out, "No running containers found.")?;
            }
            running
                .into_iter()
                .map(|container| Ok(container.id))
                .collect()
        } else {
            ids::containers(session, &self.ids).await?
        };
        each(session, out, AT_ONCE, targets, async |id| {
            session.stop_container(&id, self.timeout).await?;
            Ok(id)
        })
        .await
    }
}
