use std::path::{Path, PathBuf};

use clap::Args;

use super::each::{Quiet, each};
use crate::error::Error;
use crate::ids;
use crate::output::Output;
use crate::session::Session;

/// Checkpoint running containers
#[derive(Debug, Args)]
pub(crate) struct Checkpoint {
    #[arg(value_name = "CONTAINER-ID", required = true)]
    ids: Vec<String>,
    /// Archive that the runtime writes
    #[arg(long, short, value_name = "FILE.TAR")]
    export: PathBuf,
    #[command(flatten)]
    quiet: Quiet,
}

impl Checkpoint {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        if self.ids.len() > 1 {
            return Err(Error::Usage(
                "checkpoint: one container for one --export; a second would overwrite the first"
                    .to_owned(),
            ));
        }
        let location = absolute("checkpoint", &self.export)?;
        let targets = ids::containers(session, &self.ids).await?;
        each(session, out, 1, targets, async |id| {
            session.checkpoint_container(&id, location.clone()).await?;
            Ok(id)
        })
        .await
    }
}

/// A path as the runtime understands it, whose working directory is another.
pub(super) fn absolute(command: &str, path: &Path) -> Result<String, Error> {
    let whole = std::path::absolute(path).map_err(|source| Error::Io {
        what: format!("find the directory of {}", path.display()),
        source,
    })?;
    let text = whole.to_str().map(str::to_owned);
    text.ok_or_else(|| Error::Usage(format!("{command}: {} is not UTF-8", whole.display())))
}
