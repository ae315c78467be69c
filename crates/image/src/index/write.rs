use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, open, readlinkat, statat};
use snapshot::Usage;

use super::sums::{self, Sums};
use super::walk::{self, Attributes};
use super::{Contents, Facts, Leaf, Line, Writer, device, file_type};

/// Writes the index of the tree at `root`, and says what both take on disk. The calling thread's working directory changes, and is
/// its own from then on.
pub(crate) fn write(root: &Path, index: &Path, sums: &Sums) -> io::Result<Usage> {
    walk::own_working_directory()?;
    let file = File::options().write(true).create_new(true).open(index)?;
    let mut scribe = Scribe {
        writer: Writer::new(file.try_clone()?)?,
        sums,
        attributes: Attributes::new(),
        usage: Usage::default(),
        linked: BTreeSet::new(),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    scribe.tree(open(root, flags, Mode::empty())?)?;
    let Scribe {
        writer, mut usage, ..
    } = scribe;
    writer.finish()?;
    usage.bytes += blocks(&fstat(&file)?);
    usage.inodes += 1;
    Ok(usage)
}

struct Scribe<'a> {
    writer: Writer,
    sums: &'a Sums,
    attributes: Attributes,
    usage: Usage,
    /// Inodes with several links that were counted.
    linked: BTreeSet<u64>,
}

/// A directory on the way from the root to where the walk is.
struct Level {
    /// Closed where the walk is far below.
    directory: Option<OwnedFd>,
    /// What it holds that has not been written yet, last first.
    names: Vec<CString>,
}

impl Scribe<'_> {
    fn tree(&mut self, root: OwnedFd) -> io::Result<()> {
        let mut names = self.enter(&root, c"")?;
        let mut current = root;
        let mut levels: Vec<Level> = Vec::new();
        loop {
            while let Some(name) = names.pop() {
                let stat = statat(CWD, &*name, AtFlags::SYMLINK_NOFOLLOW)?;
                if file_type(&stat) != FileType::Directory {
                    self.leaf(&name, &stat)?;
                    continue;
                }
                let child = walk::open_directory(&current, &name)?;
                let below = self.enter(&child, &name)?;
                levels.push(Level {
                    directory: Some(std::mem::replace(&mut current, child)),
                    names: std::mem::replace(&mut names, below),
                });
                if let Some(far) = levels.len().checked_sub(walk::OPEN_LEVELS) {
                    levels[far].directory = None;
                }
            }
            self.writer.line(&Line::Leave)?;
            let Some(level) = levels.pop() else {
                return Ok(());
            };
            current = match level.directory {
                Some(directory) => directory,
                None => walk::open_directory(&current, c"..")?,
            };
            rustix::process::fchdir(&current)?;
            names = level.names;
        }
    }

    fn enter(&mut self, directory: &OwnedFd, name: &CStr) -> io::Result<Vec<CString>> {
        rustix::process::fchdir(directory)?;
        let stat = fstat(directory)?;
        self.count(&stat);
        let xattrs = self.attributes.of_directory(directory.as_fd())?;
        let facts = Facts::new(name.to_bytes(), &stat, xattrs);
        self.writer.line(&Line::Enter(facts))?;
        Ok(walk::names(directory)?)
    }

    fn leaf(&mut self, name: &CStr, stat: &Stat) -> io::Result<()> {
        self.count(stat);
        let xattrs = self.attributes.of(name)?;
        let (major, minor) = device(stat);
        let leaf = match file_type(stat) {
            FileType::RegularFile => self.file(name, stat)?,
            FileType::Symlink => Leaf::Symlink(readlinkat(CWD, name, Vec::new())?.into_bytes()),
            FileType::CharacterDevice => Leaf::Character(major, minor),
            FileType::BlockDevice => Leaf::Block(major, minor),
            FileType::Fifo => Leaf::Fifo,
            FileType::Socket => Leaf::Socket,
            FileType::Directory | FileType::Unknown => {
                return Err(io::Error::other("it is of no known kind"));
            }
        };
        let facts = Facts::new(name.to_bytes(), stat, xattrs);
        self.writer.line(&Line::Leaf(facts, leaf))
    }

    fn file(&self, name: &CStr, stat: &Stat) -> io::Result<Leaf> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let contents = match self.sums.get(stat.st_ino) {
            Some(sum) => Contents::Dense(sum),
            None if blocks(stat) < size => {
                Contents::Sparse(sums::sparse(&walk::open_file(name)?, size)?)
            }
            None => Contents::Dense(sums::dense(walk::open_file(name)?)?),
        };
        Ok(Leaf::File {
            size,
            links: stat.st_nlink as _,
            contents,
        })
    }

    fn count(&mut self, stat: &Stat) {
        let directory = file_type(stat) == FileType::Directory;
        if !directory && stat.st_nlink > 1 && !self.linked.insert(stat.st_ino) {
            return;
        }
        self.usage.bytes += blocks(stat);
        self.usage.inodes += 1;
    }
}

/// Bytes allocated. The unit of st_blocks is 512 bytes, whatever the file system's.
fn blocks(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * 512
}
