use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use cri::progress::LoadOptions;

use super::each::Quiet;
use super::load;
use crate::error::Error;
use crate::output::Output;
use crate::session::Session;

/// Make an image of one layer from the archive of a root file system
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// Archive, plain or compressed; - is stdin
    #[arg(value_name = "ARCHIVE")]
    archive: PathBuf,
    /// The image's name
    #[arg(value_name = "NAME[:TAG]")]
    name: Option<String>,
    /// Change of the configuration, such as 'CMD ["sh"]'; also ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME and WORKDIR
    #[arg(long = "change", short, value_name = "INSTRUCTION")]
    changes: Vec<String>,
    #[command(flatten)]
    quiet: Quiet,
}

impl Import {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let options = LoadOptions {
            name: self.name.unwrap_or_default(),
            root: true,
            changes: self.changes,
        };
        let loaded = load::send(session, options, Some(self.archive)).await?;
        for image in loaded.images {
            writeln!(out, "{}", image.id)?;
        }
        Ok(())
    }
}
