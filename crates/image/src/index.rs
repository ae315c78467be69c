//! What each unpacked layer is made of, file by file, so that damage can be told from what the image had.
//!
//! ```text
//! indexes/KEY   "longshore index 1\n", then a zstd stream of frames: length (u32, little-endian), postcard of a [`Line`]
//! ```
//!
//! Lines are in the order of a walk: a directory, then what it holds by name (bytewise), then [`Line::Leave`]. The reader and the writer
//! hold some names of the directories that they are in and nothing else, however large the layer. The last line counts the others: an index
//! that was cut off is no index.
//!
//! Contents are hashed with BLAKE3, while they are written, on the thread that writes them: a third of what SHA-256 costs
//! (docs/decisions/2026-11-21-layer-index.md).

mod damage;
mod sums;
#[cfg(test)]
mod tests;
mod verify;
mod walk;
mod write;

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};

use rustix::fs::{FileType, Stat, major, minor};
use serde::{Deserialize, Serialize};

pub use damage::{Damage, DamageKind};
pub(crate) use sums::{Sum, SumHasher, Sums};
pub(crate) use verify::verify;
pub(crate) use write::write;

const MAGIC: &[u8] = b"longshore index 1\n";

/// Names have at most 255 bytes, links 4,095.
const MAX_FRAME_BYTES: u32 = 16 << 10;

const COMPRESSION_LEVEL: i32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Line {
    /// A directory; what follows is in it. The first one is the layer's root, without a name.
    Enter(Facts),
    /// The end of a directory.
    Leave,
    /// Anything else.
    Leaf(Facts, Leaf),
    /// The end: how many lines were before it.
    End(u64),
}

/// What everything has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Facts {
    name: Vec<u8>,
    /// Permission, set-id and sticky bits.
    mode: u32,
    uid: u32,
    gid: u32,
    /// Seconds since the epoch, and nanoseconds.
    mtime: (i64, u32),
    /// None where it has no extended attributes.
    xattrs: Option<Sum>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Leaf {
    File {
        size: u64,
        links: u64,
        contents: Contents,
    },
    Symlink(Vec<u8>),
    Character(u32, u32),
    Block(u32, u32),
    Fifo,
    Socket,
}

/// How a file's contents were hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Contents {
    /// Byte by byte.
    Dense(Sum),
    /// Blocks of zeros left out, so that a hole of any size costs nothing.
    Sparse(Sum),
}

impl Facts {
    fn new(name: &[u8], stat: &Stat, xattrs: Option<Sum>) -> Self {
        Self {
            name: name.to_owned(),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: (
                stat.st_mtime as _,
                u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            ),
            xattrs,
        }
    }
}

impl Leaf {
    fn is_whiteout(&self) -> bool {
        *self == Self::Character(0, 0)
    }
}

fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn device(stat: &Stat) -> (u32, u32) {
    (major(stat.st_rdev), minor(stat.st_rdev))
}

struct Writer {
    sink: zstd::stream::write::Encoder<'static, BufWriter<File>>,
    lines: u64,
}

impl Writer {
    fn new(file: File) -> io::Result<Self> {
        let mut file = BufWriter::new(file);
        file.write_all(MAGIC)?;
        let mut sink = zstd::stream::write::Encoder::new(file, COMPRESSION_LEVEL)?;
        sink.include_checksum(true)?;
        Ok(Self { sink, lines: 0 })
    }

    fn line(&mut self, line: &Line) -> io::Result<()> {
        let frame = postcard::to_allocvec(line).map_err(io::Error::other)?;
        let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
        self.sink.write_all(&length.to_le_bytes())?;
        self.sink.write_all(&frame)?;
        self.lines += 1;
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        self.line(&Line::End(self.lines))?;
        self.sink.finish()?.flush()
    }
}

struct Reader {
    source: zstd::stream::read::Decoder<'static, BufReader<File>>,
    lines: u64,
}

impl Reader {
    fn new(mut file: File) -> io::Result<Self> {
        let mut magic = [0; MAGIC.len()];
        file.read_exact(&mut magic)?;
        if magic != MAGIC {
            return Err(malformed("it does not begin as an index does"));
        }
        Ok(Self {
            source: zstd::stream::read::Decoder::new(file)?,
            lines: 0,
        })
    }

    /// The next line, but for the last one: `None` is the proper end.
    fn next(&mut self) -> io::Result<Option<Line>> {
        let mut length = [0; 4];
        self.source.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length);
        if length > MAX_FRAME_BYTES {
            return Err(malformed("a line is longer than names can make it"));
        }
        let mut frame = vec![0; length as usize];
        self.source.read_exact(&mut frame)?;
        let line = postcard::from_bytes(&frame).map_err(|_| malformed("a line does not decode"))?;
        match line {
            Line::End(lines) if lines == self.lines => Ok(None),
            Line::End(_) => Err(malformed("lines are missing")),
            line => {
                self.lines += 1;
                Ok(Some(line))
            }
        }
    }

    /// After the end, so that the stream's checksum is looked at.
    fn finish(mut self) -> io::Result<()> {
        match self.source.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(malformed("something follows its end")),
        }
    }
}

fn malformed(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
