use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::registry::{FetchError, Session};
use crate::spool::Spool;

/// How much is read at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Where the bytes of layers come from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Registry(Arc<Session>),
    /// An archive that has been taken in.
    Spool(Arc<Spool>),
    /// The compressed form of one layer.
    Kept(PathBuf),
}

impl Source {
    /// Streams a blob of `size` bytes to `sink`; `progress` is told how many have come.
    pub(crate) async fn blob(
        &self,
        digest: &str,
        size: u64,
        sink: mpsc::Sender<Bytes>,
        progress: impl Fn(u64),
    ) -> Result<(), FetchError> {
        let path = match self {
            Self::Registry(session) => return session.blob(digest, size, sink, progress).await,
            Self::Spool(spool) => match spool.blob(digest) {
                Some(file) => file.path.clone(),
                None => return Err(FetchError::Disk(io::ErrorKind::NotFound.into())),
            },
            Self::Kept(path) => path.clone(),
        };
        let read = tokio::task::spawn_blocking(move || {
            read(&mut File::open(path)?, |piece| {
                sink.blocking_send(piece).is_ok()
            })
        });
        let read = read
            .await
            .map_err(|error| FetchError::Disk(io::Error::other(error)))?;
        read.map_err(FetchError::Disk)
    }

    /// Whether there is somebody else to ask for a blob whose bytes were wrong.
    pub(crate) fn distrust(&self, digest: &str) -> bool {
        match self {
            Self::Registry(session) => session.distrust(digest),
            Self::Spool(_) | Self::Kept(_) => false,
        }
    }
}

/// Hands a file over piece by piece, until `take` says that nobody wants more.
pub(crate) fn read(file: &mut File, take: impl Fn(Bytes) -> bool) -> io::Result<()> {
    loop {
        let mut piece = vec![0; PIECE_BYTES];
        let length = file.read(&mut piece)?;
        piece.truncate(length);
        if length == 0 || !take(piece.into()) {
            return Ok(());
        }
    }
}
