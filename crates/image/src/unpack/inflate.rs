//! The first thread of a layer's pipeline: decompress what comes from the network.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use super::LayerError;
use crate::StoreError;

/// A piece of the archive on its way to the other threads.
pub(super) const CHUNK_BYTES: usize = 128 * 1024;

/// Compressed bytes that wait for a piece of the archive, to be hashed beside it, at most.
const UNHASHED_BYTES: usize = 256 * 1024;

/// What the second thread hashes.
#[derive(Debug)]
pub(super) struct Chunk {
    /// A piece of the archive; empty where much was read for nothing.
    pub(super) archive: Vec<u8>,
    /// What was read since the chunk before.
    pub(super) compressed: Vec<Bytes>,
}

/// Reads the whole compressed layer, and fails unless it is `size` bytes.
pub(super) fn inflate(
    network: mpsc::Receiver<Bytes>,
    chunks: SyncSender<Chunk>,
    empty: Receiver<Vec<u8>>,
    size: u64,
    keep: Option<PathBuf>,
) -> Result<(), LayerError> {
    let kept = match keep {
        Some(path) => {
            let file = File::options().write(true).create_new(true).open(&path);
            Some((file.map_err(StoreError::path("make", &path))?, path))
        }
        None => None,
    };
    let outlet = Outlet {
        chunks,
        unhashed: RefCell::default(),
    };
    let mut compressed = Compressed {
        network,
        outlet: &outlet,
        current: Bytes::new(),
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
                &outlet,
                &empty,
            ),
        ),
        // A zstd frame, or a skippable one before it.
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => (
            "zstd",
            zstd::stream::read::Decoder::with_buffer(&mut compressed)
                .map_err(Pump::Read)
                .and_then(|decoder| pump(decoder, &outlet, &empty)),
        ),
        _ => ("plain", pump(&mut compressed, &outlet, &empty)),
    };
    let result = match result {
        Ok(()) => Ok(()),
        Err(Pump::Closed) => return Err(LayerError::Cut),
        Err(Pump::Read(_)) if compressed.cut => return Err(LayerError::Cut),
        Err(Pump::Read(source)) => Err(LayerError::Decompress {
            compression,
            source,
        }),
    };
    // Also of a damaged stream: its digest says whether it was damaged on the way.
    compressed.finish().and(result)
}

enum Pump {
    Read(io::Error),
    /// The other threads have stopped, and say why.
    Closed,
}

/// The way to the second thread.
struct Outlet {
    chunks: SyncSender<Chunk>,
    unhashed: RefCell<Vec<Bytes>>,
}

impl Outlet {
    fn send(&self, archive: Vec<u8>) -> Result<(), Pump> {
        let compressed = self.unhashed.take();
        let chunk = Chunk {
            archive,
            compressed,
        };
        self.chunks.send(chunk).map_err(|_| Pump::Closed)
    }

    fn read(&self, piece: Bytes) -> Result<(), Pump> {
        let mut unhashed = self.unhashed.borrow_mut();
        unhashed.push(piece);
        if unhashed.iter().map(Bytes::len).sum::<usize>() < UNHASHED_BYTES {
            return Ok(());
        }
        drop(unhashed);
        self.send(Vec::new())
    }
}

fn pump(mut decoder: impl Read, outlet: &Outlet, empty: &Receiver<Vec<u8>>) -> Result<(), Pump> {
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
        outlet.send(chunk)?;
    }
}

/// What comes from the network; all of it goes to the second thread as well.
struct Compressed<'a> {
    network: mpsc::Receiver<Bytes>,
    outlet: &'a Outlet,
    current: Bytes,
    /// Bytes that are still to come.
    left: u64,
    /// It ended before it was whole.
    cut: bool,
    /// Gets everything as well.
    kept: Option<(File, PathBuf)>,
    /// Why it did not.
    unkept: Option<StoreError>,
}

impl Compressed<'_> {
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
        self.outlet.read(piece.clone()).ok()?;
        if let Some((kept, path)) = &mut self.kept
            && let Err(error) = kept.write_all(&piece)
        {
            self.unkept = Some(StoreError::path("keep the blob at", &*path)(error));
            self.kept = None;
        }
        self.left = self.left.saturating_sub(piece.len() as u64);
        Some(piece)
    }

    fn finish(mut self) -> Result<(), LayerError> {
        while self.receive().is_some() {}
        if self.left > 0 {
            return Err(LayerError::Cut);
        }
        if let Some(error) = self.unkept {
            return Err(error.into());
        }
        self.outlet.send(Vec::new()).map_err(|_| LayerError::Cut)
    }
}

impl BufRead for Compressed<'_> {
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

impl Read for Compressed<'_> {
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
