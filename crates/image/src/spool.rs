//! An archive of images on its way in: its files wait on disk, since what tells of them may come last.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use crate::digest::Hasher;
use crate::unpack::{Archive, Kind, read_buffered};
use crate::{Digest, LoadError};

/// Files of one archive; more are no images.
const MAX_FILES: usize = 100_000;

const MAX_NAME_BYTES: usize = 4096;

/// Links among them that are followed: old archives name a layer that occurs twice so.
const MAX_LINKS: usize = 8;

#[derive(Debug)]
pub(crate) struct Spool {
    /// Gone with the spool.
    directory: PathBuf,
    files: BTreeMap<String, Spooled>,
    links: BTreeMap<String, String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Spooled {
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
    /// SHA-256.
    pub(crate) digest: Digest,
}

impl Spooled {
    /// Its digest by the algorithm of another. Blocks.
    pub(crate) fn digest_like(&self, other: &Digest) -> io::Result<Digest> {
        if other.algorithm() == self.digest.algorithm() {
            return Ok(self.digest.clone());
        }
        let mut hasher = Hasher::like(other);
        let mut file = File::open(&self.path)?;
        let mut piece = vec![0; 128 << 10];
        loop {
            match file.read(&mut piece)? {
                0 => return Ok(hasher.finish()),
                length => hasher.update(&piece[..length]),
            }
        }
    }
}

impl Spool {
    /// An empty one, in `parent`.
    pub(crate) fn new(parent: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = parent.join(format!("load-{}-{number}", std::process::id()));
        fs::create_dir(&directory)?;
        Ok(Self {
            directory,
            files: BTreeMap::new(),
            links: BTreeMap::new(),
        })
    }

    /// Takes an archive in, plain or compressed, of at most `limit` bytes. Blocks.
    pub(crate) fn fill(
        &mut self,
        chunks: mpsc::Receiver<Bytes>,
        limit: u64,
    ) -> Result<(), LoadError> {
        let mut archive = Archive::new(io::BufReader::new(decompressed(Chunks::new(chunks))?));
        let mut left = limit;
        while let Some(member) = archive.next().map_err(LoadError::Archive)? {
            if member.path.len() > MAX_NAME_BYTES {
                return Err(LoadError::Malformed(
                    "it has a name that is too long".into(),
                ));
            }
            let name = normal(&member.path);
            match member.kind {
                Kind::File { size, regions } => {
                    left = left
                        .checked_sub(size)
                        .ok_or(LoadError::TooLarge { limit })?;
                    if self.files.len() == MAX_FILES {
                        return Err(LoadError::Malformed("it has too many files".into()));
                    }
                    let path = self.directory.join(self.files.len().to_string());
                    let mut sink = Sink::new(&path).map_err(LoadError::Spool)?;
                    for region in regions {
                        // Holes are no blobs', but belong to what is hashed.
                        sink.zeros(region.offset).map_err(LoadError::Spool)?;
                        archive.contents(region.length, |piece| {
                            sink.write(piece).map_err(LoadError::Spool)
                        })?;
                    }
                    sink.zeros(size).map_err(LoadError::Spool)?;
                    let spooled = sink.finish(path);
                    self.files.insert(name, spooled);
                }
                Kind::Symlink(target) | Kind::HardLink(target) if self.links.len() < MAX_FILES => {
                    let target = String::from_utf8_lossy(&target).into_owned();
                    self.links.insert(name, target);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes one file in, whatever it is. Blocks.
    pub(crate) fn fill_raw(
        &mut self,
        chunks: mpsc::Receiver<Bytes>,
        limit: u64,
    ) -> Result<Spooled, LoadError> {
        let mut chunks = Chunks::new(chunks);
        let path = self.directory.join("raw");
        let mut sink = Sink::new(&path).map_err(LoadError::Spool)?;
        loop {
            let piece = chunks.fill_buf().map_err(LoadError::Archive)?;
            let length = piece.len();
            if length == 0 {
                break;
            }
            sink.write(piece).map_err(LoadError::Spool)?;
            if sink.size > limit {
                return Err(LoadError::TooLarge { limit });
            }
            chunks.consume(length);
        }
        let spooled = sink.finish(path);
        self.files.insert("raw".to_owned(), spooled.clone());
        Ok(spooled)
    }

    /// A file by its name in the archive.
    pub(crate) fn file(&self, name: &str) -> Option<&Spooled> {
        let mut name = normal(name.as_bytes());
        for _ in 0..MAX_LINKS {
            if let Some(file) = self.files.get(&name) {
                return Some(file);
            }
            let target = self.links.get(&name)?;
            let beside = match name.rsplit_once('/') {
                Some((directory, _)) if !target.starts_with('/') => format!("{directory}/{target}"),
                _ => target.clone(),
            };
            name = match self.files.contains_key(&normal(target.as_bytes())) {
                // A hard link's target is from the root.
                true => normal(target.as_bytes()),
                false => normal(beside.as_bytes()),
            };
        }
        None
    }

    /// A file by its digest.
    pub(crate) fn blob(&self, digest: &str) -> Option<&Spooled> {
        let (algorithm, hex) = digest.split_once(':')?;
        let named = self.file(&format!("blobs/{algorithm}/{hex}"));
        named.or_else(|| {
            let mut files = self.files.values();
            files.find(|file| file.digest.as_str() == digest)
        })
    }

    /// A small file, whole.
    pub(crate) fn document(&self, file: &Spooled, limit: u64) -> Result<Vec<u8>, LoadError> {
        if file.size > limit {
            return Err(LoadError::TooLarge { limit });
        }
        fs::read(&file.path).map_err(LoadError::Spool)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Err(errno) = snapshot::remove_tree(&self.directory) {
            tracing::warn!(path = %self.directory.display(), %errno, "cannot remove a loaded archive; the next start will");
        }
    }
}

struct Sink {
    file: File,
    hasher: Hasher,
    size: u64,
}

impl Sink {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: File::options().write(true).create_new(true).open(path)?,
            hasher: Hasher::sha256(),
            size: 0,
        })
    }

    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.hasher.update(piece);
        self.file.write_all(piece)?;
        self.size += piece.len() as u64;
        Ok(())
    }

    fn zeros(&mut self, until: u64) -> io::Result<()> {
        while self.size < until {
            let length = (until - self.size).min(64 << 10);
            self.write(&vec![0; usize::try_from(length).unwrap_or(0)])?;
        }
        Ok(())
    }

    fn finish(self, path: PathBuf) -> Spooled {
        Spooled {
            path,
            size: self.size,
            digest: self.hasher.finish(),
        }
    }
}

/// Without `./` before and slashes between.
fn normal(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// By its first bytes: gzip, zstd or as it is.
pub(crate) fn decompressed<'a>(
    mut source: impl BufRead + 'a,
) -> Result<Box<dyn Read + 'a>, LoadError> {
    Ok(match *source.fill_buf().map_err(LoadError::Archive)? {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            Box::new(zstd::stream::read::Decoder::with_buffer(source).map_err(LoadError::Archive)?)
        }
        _ => Box::new(source),
    })
}

/// Whoever sends them may stop at any time: that is an end, and what is cut off does not parse.
struct Chunks {
    source: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Chunks {
    fn new(source: mpsc::Receiver<Bytes>) -> Self {
        Self {
            source,
            current: Bytes::new(),
        }
    }
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() {
            match self.source.blocking_recv() {
                Some(chunk) => self.current = chunk,
                None => break,
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, amount: usize) {
        self.current.advance(amount);
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, buffer)
    }
}
