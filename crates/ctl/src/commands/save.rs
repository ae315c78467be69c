use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use cri::progress::SaveRequest;

use super::pull::PullFlags;
use crate::error::Error;
use crate::output::Output;
use crate::session::Session;

/// Save images as an archive, which is an OCI layout and can be read by docker load
#[derive(Debug, Args)]
pub(crate) struct Save {
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// File to write [default: stdout]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    flags: PullFlags,
}

impl Save {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        if self.output.is_none() && io::stdout().is_terminal() {
            return Err(Error::Usage(
                "an archive is nothing for a terminal: give --output".to_owned(),
            ));
        }
        let request = SaveRequest {
            images: self.images,
            auth: self.flags.own_credentials()?,
        };
        let failed = |status| Error::rpc("save images".to_owned(), status);
        let mut chunks = session.save(request).await?;
        // Before the file is made: most of what can go wrong has by now.
        let mut first = chunks.message().await.map_err(failed)?;
        let Some(path) = self.output else {
            while let Some(chunk) = first {
                out.write_all(&chunk.data)?;
                first = chunks.message().await.map_err(failed)?;
            }
            return Ok(());
        };
        // Nobody must take half an archive for a whole one.
        let mut half = path.clone().into_os_string();
        half.push(".part");
        let failed_at = |source| Error::Io {
            what: format!("write {}", path.display()),
            source,
        };
        let mut file = File::create(&half).map_err(failed_at)?;
        while let Some(chunk) = first {
            file.write_all(&chunk.data).map_err(failed_at)?;
            first = match chunks.message().await {
                Ok(chunk) => chunk,
                Err(status) => {
                    let _ = std::fs::remove_file(&half);
                    return Err(failed(status));
                }
            };
        }
        file.sync_all().map_err(failed_at)?;
        std::fs::rename(&half, &path).map_err(failed_at)
    }
}
