//! The first thread of a layer's pipeline: hash what comes from the network, and decompress it.

use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use super::LayerError;
use crate::digest::Hasher;
use crate::{Digest, StoreError};

/// A piece of the archive on its way to the second thread.
pub(super) const CHUNK_BYTES: usize = 128 * 1024;

/// Reads the whole compressed layer, and fails unless it is `size` bytes with that digest.
pub(super) fn inflate(
    network: mpsc::Receiver<Bytes>,
    archive: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
    digest: &Digest,
    size: u64,
    keep: Option<PathBuf>,
) -> Result<(), LayerError> {
    let kept = match keep {
        Some(path) => {
            let file = File::options().write(true).create_new(true).open(&path);
            Some(file.map_err(StoreError::path("make", path))?)
        }
        None => None,
    };
    let mut compressed = Compressed {
        network,
        current: Bytes::new(),
        hasher: Hasher::like(digest),
        left: size,
        cut: false,
        kept,
        unkept: None,
    };
    let magic = compressed.magic();
    let (compression, result) = match magic {
        [0x1f, 0x8b, ..] => (
            "gzip",
            pump(
                flate2::bufread::MultiGzDecoder::new(&mut compressed),
                &archive,
                &empty,
            ),
        ),
        // A zstd frame, or a skippable one before it.
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => (
            "zstd",
            zstd::stream::read::Decoder::with_buffer(&mut compressed)
                .map_err(Pump::Read)
                .and_then(|decoder| pump(decoder, &archive, &empty)),
        ),
        _ => ("plain", pump(&mut compressed, &archive, &empty)),
    };
    match result {
        Ok(()) => {}
        Err(Pump::Closed) => return Err(LayerError::Cut),
        Err(Pump::Read(_)) if compressed.cut => return Err(LayerError::Cut),
        Err(Pump::Read(source)) => {
            // A damaged stream is nearly always a damaged transfer, and then the digest is the better message.
            return match compressed.finish(digest) {
                Err(error @ LayerError::Digest { .. }) => Err(error),
                _ => Err(LayerError::Decompress {
                    compression,
                    source,
                }),
            };
        }
    }
    compressed.finish(digest)
}

enum Pump {
    Read(io::Error),
    /// The second thread has stopped, and says why.
    Closed,
}

fn pump(
    mut decoder: impl Read,
    archive: &SyncSender<Vec<u8>>,
    empty: &Receiver<Vec<u8>>,
) -> Result<(), Pump> {
    loop {
        let mut chunk = empty.try_recv().unwrap_or_default();
        chunk.resize(CHUNK_BYTES, 0);
        let mut filled = 0;
        while filled < chunk.len() {
            match decoder.read(&mut chunk[filled..]) {
                Ok(0) => break,
                Ok(length) => filled += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Pump::Read(error)),
            }
        }
        if filled == 0 {
            return Ok(());
        }
        chunk.truncate(filled);
        archive.send(chunk).map_err(|_| Pump::Closed)?;
    }
}

/// What comes from the network, hashed on the way.
struct Compressed {
    network: mpsc::Receiver<Bytes>,
    current: Bytes,
    hasher: Hasher,
    /// Bytes that are still to come.
    left: u64,
    /// It ended before it was whole.
    cut: bool,
    /// Gets everything as well.
    kept: Option<File>,
    /// Why it did not.
    unkept: Option<io::Error>,
}

impl Compressed {
    /// The first bytes, or zeros where there are fewer.
    fn magic(&mut self) -> [u8; 4] {
        let mut start = Vec::new();
        while start.len() < 4 {
            match self.receive() {
                Some(piece) if start.is_empty() && piece.len() >= 4 => {
                    self.current = piece;
                    return [0, 1, 2, 3].map(|index| self.current[index]);
                }
                Some(piece) => start.extend_from_slice(&piece),
                None => break,
            }
        }
        let magic = [0, 1, 2, 3].map(|index| start.get(index).copied().unwrap_or(0));
        self.current = start.into();
        magic
    }

    fn receive(&mut self) -> Option<Bytes> {
        let piece = self.network.blocking_recv()?;
        self.hasher.update(&piece);
        if let Some(kept) = &mut self.kept
            && let Err(error) = kept.write_all(&piece)
        {
            (self.kept, self.unkept) = (None, Some(error));
        }
        self.left = self.left.saturating_sub(piece.len() as u64);
        Some(piece)
    }

    fn finish(mut self, digest: &Digest) -> Result<(), LayerError> {
        while self.receive().is_some() {}
        if self.left > 0 {
            return Err(LayerError::Cut);
        }
        if let Some(error) = self.unkept {
            return Err(StoreError::path("keep the blob", digest.as_str())(error).into());
        }
        let found = self.hasher.finish();
        if found != *digest {
            return Err(LayerError::Digest {
                found: found.to_string(),
            });
        }
        Ok(())
    }
}

impl BufRead for Compressed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() {
            match self.receive() {
                Some(piece) => self.current = piece,
                None if self.left > 0 => {
                    self.cut = true;
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                None => break,
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, amount: usize) {
        self.current.advance(amount);
    }
}

impl Read for Compressed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, buffer)
    }
}

/// [`Read::read`] of a reader that is a buffer already.
pub(crate) fn read_buffered(source: &mut impl BufRead, buffer: &mut [u8]) -> io::Result<usize> {
    let mut available = source.fill_buf()?;
    let length = available.read(buffer)?;
    source.consume(length);
    Ok(length)
}
