use std::io::{self, BufRead, Read};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::Bytes;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::thread::UnshareFlags;
use snapshot::Usage;
use tokio::sync::{mpsc, oneshot};

use super::archive::Archive;
use super::extract::{ExtractError, Extracted, Extractor};
use super::inflate::{CHUNK_BYTES, Chunk, inflate, read_buffered};
use super::ingest::Ingest;
use super::place::Below;
use super::{LayerError, StoreError};
use crate::Digest;
use crate::digest::Hasher;
use crate::index;

/// Chunks between two threads.
const CHUNKS: usize = 2;

/// And in the hands of one each.
const THREADS: usize = 3;

/// What a layer must turn out to be.
#[derive(Debug)]
pub(crate) struct Expected {
    /// Of the compressed layer.
    pub(crate) digest: Digest,
    /// Compressed.
    pub(crate) size: u64,
    /// Of the archive.
    pub(crate) diff_id: Digest,
    /// The most that the archive, and the files in it, may have in bytes.
    pub(crate) limit: u64,
    /// Where the compressed bytes are to be written as well.
    pub(crate) keep: Option<PathBuf>,
}

/// What has become of a layer.
#[derive(Debug)]
pub(crate) enum Unpacked {
    /// It is in its ingest directory, whole and verified.
    Whole {
        ingest: Ingest,
        /// Whether its meaning depends on the layers below.
        depends: bool,
        /// Of the layer and its index.
        usage: Usage,
    },
    /// It depends on the layers below, and was stopped at the first entry that does.
    NeedsBelow,
}

/// Unpacks what comes through `network` into `ingest`, on threads of its own. Dropping the future, or the other end of
/// `network`, stops them; what they have made goes with the ingest directory.
pub(crate) async fn unpack(
    expected: Expected,
    network: mpsc::Receiver<Bytes>,
    ingest: Ingest,
    below: Below,
) -> Result<Unpacked, LayerError> {
    let (full, unhashed) = sync_channel(CHUNKS);
    let (hashed, archive) = sync_channel(CHUNKS);
    let (recycle, empty) = sync_channel(2 * CHUNKS + THREADS);
    let (inflated_sender, inflated) = oneshot::channel();
    let (sums_sender, sums) = oneshot::channel();
    let (extracted_sender, extracted) = oneshot::channel();
    let Expected {
        digest,
        size,
        diff_id,
        limit,
        keep,
    } = expected;
    let hashers = (Hasher::like(&digest), Hasher::like(&diff_id));
    spawn("layer-inflate", move || {
        let _ = inflated_sender.send(inflate(network, full, empty, size, keep));
    })?;
    spawn("layer-hash", move || {
        let _ = sums_sender.send(hash(unhashed, hashed, hashers));
    })?;
    spawn("layer-extract", move || {
        // If nobody waits any more, the answer is dropped, and the ingest directory removed, here.
        let _ = extracted_sender.send(extract(archive, recycle, limit, ingest, below));
    })?;
    // All threads have stopped before this returns, so that the ingest directory is nobody's.
    let inflated = inflated.await.unwrap_or(Err(LayerError::Cut));
    let found = sums.await.ok().flatten();
    let extracted = extracted.await.unwrap_or(Err(LayerError::Cut));
    if let Ok(Unpacked::NeedsBelow) = extracted {
        return Ok(Unpacked::NeedsBelow);
    }
    match (&inflated, &found) {
        // The last thread sees nothing but an early end when the first one fails.
        (Err(LayerError::Cut), _) => {
            extracted?;
            return Err(LayerError::Cut);
        }
        // A damaged stream is nearly always a damaged transfer, and then the digest is the better message.
        (Ok(()) | Err(LayerError::Decompress { .. }), Some(found)) => found.check(&digest)?,
        (_, _) => {}
    }
    inflated?;
    let unpacked = extracted?;
    found.ok_or(LayerError::Cut)?.check_archive(&diff_id)?;
    Ok(unpacked)
}

/// What has come, and what it has unpacked to.
struct Found {
    digest: Digest,
    diff_id: Digest,
}

impl Found {
    fn check(&self, digest: &Digest) -> Result<(), LayerError> {
        match self.digest == *digest {
            true => Ok(()),
            false => Err(LayerError::Digest {
                found: self.digest.to_string(),
            }),
        }
    }

    fn check_archive(&self, diff_id: &Digest) -> Result<(), LayerError> {
        match self.diff_id == *diff_id {
            true => Ok(()),
            false => Err(LayerError::DiffId {
                found: self.diff_id.to_string(),
                expected: diff_id.to_string(),
            }),
        }
    }
}

/// The second thread: both digests, of all that the first one has had; none where the last one wants no more.
fn hash(
    chunks: Receiver<Chunk>,
    hashed: SyncSender<Vec<u8>>,
    (mut digest, mut diff_id): (Hasher, Hasher),
) -> Option<Found> {
    for chunk in chunks {
        diff_id.update_both(&chunk.archive, &mut digest, &chunk.compressed);
        if !chunk.archive.is_empty() {
            hashed.send(chunk.archive).ok()?;
        }
    }
    Some(Found {
        digest: digest.finish(),
        diff_id: diff_id.finish(),
    })
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), LayerError> {
    std::thread::Builder::new()
        .name(name.into())
        .stack_size(512 * 1024)
        .spawn(body)
        .map(drop)
        .map_err(|source| LayerError::Thread { source })
}

fn extract(
    chunks: Receiver<Vec<u8>>,
    recycle: SyncSender<Vec<u8>>,
    limit: u64,
    ingest: Ingest,
    below: Below,
) -> Result<Unpacked, LayerError> {
    // The working directory and the umask become this thread's own, so that new files get the modes that are asked for. It is
    // deprecated for the sake of UnshareFlags::FILES.
    #[allow(deprecated)]
    let own_umask = rustix::thread::unshare(UnshareFlags::FS).is_ok();
    if own_umask {
        rustix::process::umask(Mode::empty());
    }
    let path = ingest.path();
    let root = rustix::fs::openat(
        CWD,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|errno| StoreError::path("open", path)(errno.into()))?;
    let mut archive = Archive::new(Plain {
        chunks,
        recycle,
        current: Vec::new(),
        position: 0,
        left: limit,
        exceeded: false,
    });
    let result = Extractor::new(root, below, limit, own_umask).run(&mut archive);
    let mut plain = archive.into_reader();
    let Extracted { depends, sums } = match result {
        Ok(extracted) => extracted,
        Err(ExtractError::NeedsBelow) => return Ok(Unpacked::NeedsBelow),
        Err(ExtractError::Layer(_)) if plain.exceeded => {
            return Err(LayerError::TooLarge { limit });
        }
        Err(ExtractError::Layer(error)) => return Err(error),
    };
    plain.drain().map_err(|error| match plain.exceeded {
        true => LayerError::TooLarge { limit },
        false => LayerError::Archive(error),
    })?;
    let usage = index::write(path, &ingest.index_path(), &sums)
        .map_err(StoreError::path("write the index of", path))?;
    Ok(Unpacked::Whole {
        ingest,
        depends,
        usage,
    })
}

/// The archive, hashed already.
struct Plain {
    chunks: Receiver<Vec<u8>>,
    recycle: SyncSender<Vec<u8>>,
    current: Vec<u8>,
    position: usize,
    left: u64,
    exceeded: bool,
}

impl Plain {
    /// What follows the archive's end belongs to the diffID, and counts against the limit, as well.
    fn drain(&mut self) -> io::Result<()> {
        loop {
            let rest = self.fill_buf()?.len();
            if rest == 0 {
                return Ok(());
            }
            self.consume(rest);
        }
    }
}

impl BufRead for Plain {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position == self.current.len() {
            let used = std::mem::take(&mut self.current);
            if used.capacity() >= CHUNK_BYTES {
                // A full channel or a finished first thread: the chunk is freed instead.
                let _ = self.recycle.try_send(used);
            }
            self.position = 0;
            if let Ok(chunk) = self.chunks.recv() {
                let left = self.left.checked_sub(chunk.len() as u64);
                self.left = left.ok_or_else(|| {
                    self.exceeded = true;
                    io::Error::from(io::ErrorKind::FileTooLarge)
                })?;
                self.current = chunk;
            }
        }
        Ok(&self.current[self.position..])
    }

    fn consume(&mut self, amount: usize) {
        self.position += amount;
    }
}

impl Read for Plain {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, buffer)
    }
}
