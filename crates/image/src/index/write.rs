use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, open, readlinkat, statat};
use snapshot::Usage;

use super::sums::{self, Sums};
use super::walk::{self, Attributes, Names};
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
        linked: BTreeMap::new(),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    scribe.tree(open(root, flags, Mode::empty())?)?;
    let Scribe {
        writer,
        mut usage,
        linked,
        ..
    } = scribe;
    writer.finish()?;
    for (links, sum) in linked {
        usage.bytes += sum.bytes / links;
        usage.inodes += sum.inodes / links;
    }
    usage.bytes += blocks(&fstat(&file)?);
    usage.inodes += 1;
    Ok(usage)
}

struct Scribe<'a> {
    writer: Writer,
    sums: &'a Sums,
    attributes: Attributes,
    usage: Usage,
    /// Inodes that have several links, by how many: the walk comes by each of these, and counts it. To remember which inodes there were would take
    /// memory for each.
    linked: BTreeMap<u64, Usage>,
}

/// A directory on the way from the root to where the walk is.
struct Level {
    /// Closed where the walk is far below.
    directory: Option<OwnedFd>,
    /// What it holds that has not been written yet.
    names: Names,
    /// What of it the walk is in.
    entered: CString,
}

impl Scribe<'_> {
    fn tree(&mut self, root: OwnedFd) -> io::Result<()> {
        let mut names = self.enter(&root, c"")?;
        let mut current = root;
        let mut levels: Vec<Level> = Vec::new();
        loop {
            while let Some(name) = names.pop_if(&current, |_| true)? {
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
                    entered: name,
                });
                if let Some(far) = levels.len().checked_sub(walk::OPEN_LEVELS) {
                    let far = &mut levels[far];
                    far.directory = None;
                    far.names.put_off(&far.entered);
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

    fn enter(&mut self, directory: &OwnedFd, name: &CStr) -> io::Result<Names> {
        rustix::process::fchdir(directory)?;
        let stat = fstat(directory)?;
        self.count(&stat);
        let xattrs = self.attributes.of_directory(directory.as_fd())?;
        let facts = Facts::new(name.to_bytes(), &stat, xattrs);
        self.writer.line(&Line::Enter(facts))?;
        Ok(Names::of(directory)?)
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
        let sum = match directory || stat.st_nlink == 1 {
            true => &mut self.usage,
            false => self.linked.entry(stat.st_nlink as _).or_default(),
        };
        sum.bytes += blocks(stat);
        sum.inodes += 1;
    }
}

/// Bytes allocated. The unit of st_blocks is 512 bytes, whatever the file system's.
fn blocks(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * 512
}
