use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use cri::progress::{LoadOptions, LoadRequest, LoadResponse, load_request::Part};
use tokio::sync::mpsc;

use super::each::Quiet;
use super::pieces::{PIECE_BYTES, Pieces};
use crate::error::Error;
use crate::output::Output;
use crate::session::Session;

/// Load images from an OCI layout or an archive of docker save
#[derive(Debug, Args)]
pub(crate) struct Load {
    /// Archive, plain or compressed, or the directory of an OCI layout [default: stdin]
    #[arg(long, short, value_name = "PATH")]
    input: Option<PathBuf>,
    /// Name of the image, or a repository where the archive has the tag alone
    #[arg(long, short, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    quiet: Quiet,
}

impl Load {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let options = LoadOptions {
            name: self.name.unwrap_or_default(),
            ..LoadOptions::default()
        };
        let loaded = send(session, options, self.input).await?;
        for image in loaded.images {
            match &*image.names {
                _ if self.quiet.quiet => writeln!(out, "{}", image.id)?,
                [] => writeln!(out, "{}", image.id)?,
                names => writeln!(out, "{} {}", image.id, names.join(" "))?,
            }
        }
        Ok(())
    }
}

/// Sends what is at `input`.
pub(super) async fn send(
    session: &Session,
    options: LoadOptions,
    input: Option<PathBuf>,
) -> Result<LoadResponse, Error> {
    let (sender, messages) = mpsc::channel(4);
    let what = match &input {
        Some(path) => format!("read {}", path.display()),
        None => "read stdin".to_owned(),
    };
    let reading = tokio::task::spawn_blocking(move || {
        let first = LoadRequest {
            part: Some(Part::Options(options)),
        };
        // A service that wants no more says why itself.
        let _ = sender.blocking_send(first);
        let mut pieces = Pieces {
            sender,
            message: |bytes| LoadRequest {
                part: Some(Part::Chunk(bytes)),
            },
        };
        match input {
            Some(path) if path.is_dir() => archive(&path, &mut pieces),
            Some(path) if path != Path::new("-") => pieces.copy(&mut File::open(path)?),
            _ => pieces.copy(&mut io::stdin().lock()),
        }
    });
    let loading = session.load(messages);
    tokio::pin!(loading);
    tokio::select! {
        loaded = &mut loading => loaded,
        read = reading => {
            match read.unwrap_or_else(|panicked| Err(io::Error::other(panicked))) {
                Ok(()) => loading.await,
                // The service wants no more, and says why.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => loading.await,
                Err(source) => Err(Error::Io { what, source }),
            }
        }
    }
}

/// The directory of a layout, as an archive of it would be.
fn archive(directory: &Path, pieces: &mut Pieces<LoadRequest>) -> io::Result<()> {
    let buffered = io::BufWriter::with_capacity(PIECE_BYTES, pieces);
    let mut archive = tar::Builder::new(buffered);
    archive.append_dir_all(".", directory)?;
    archive.into_inner()?.flush()
}
