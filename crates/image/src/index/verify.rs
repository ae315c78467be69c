use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, open, readlinkat, statat};
use rustix::io::Errno;

use super::walk::{self, Attributes, Names};
use super::{
    Contents, Damage, DamageKind, Facts, Leaf, Line, Reader, device, file_type, malformed, sums,
};

/// Compares the tree at `root` with its index, and hands every difference to `found`, which says whether to go on. The calling thread's
/// working directory changes, and is its own from then on.
///
/// # Errors
/// The index cannot be read: there is none ([`io::ErrorKind::NotFound`]), or it is damaged. What had been found until then counts.
pub(crate) fn verify(
    root: &Path,
    index: &Path,
    found: &mut dyn FnMut(Damage) -> bool,
) -> io::Result<()> {
    walk::own_working_directory()?;
    let reader = Reader::new(File::open(index)?)?;
    let mut auditor = Auditor {
        reader,
        attributes: Attributes::new(),
        path: Vec::new(),
        found,
        stopped: false,
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Some(Line::Enter(facts)) = auditor.reader.next()? else {
        return Err(malformed("it does not begin with the root"));
    };
    match open(root, flags, Mode::empty()) {
        Ok(root) => auditor.tree(root, &facts)?,
        Err(Errno::NOENT) => {
            auditor.tell(b"", DamageKind::Missing);
            return Ok(());
        }
        Err(errno) => {
            auditor.tell(b"", unreadable(errno));
            return Ok(());
        }
    }
    match auditor.stopped {
        true => Ok(()),
        false => match auditor.reader.next()? {
            None => auditor.reader.finish(),
            Some(_) => Err(malformed("something follows the root")),
        },
    }
}

struct Auditor<'a> {
    reader: Reader,
    attributes: Attributes,
    /// Of the directory that the walk is in.
    path: Vec<u8>,
    found: &'a mut dyn FnMut(Damage) -> bool,
    /// Whoever asked wants to hear no more.
    stopped: bool,
}

/// A directory on the way from the root to where the walk is.
struct Level {
    directory: Option<OwnedFd>,
    /// What it holds that has not been compared yet.
    names: Names,
    /// What of it the walk is in.
    entered: CString,
    path_length: usize,
}

impl Auditor<'_> {
    fn tree(&mut self, root: OwnedFd, facts: &Facts) -> io::Result<()> {
        let mut names = self.enter(&root, facts)?;
        let mut current = root;
        let mut levels: Vec<Level> = Vec::new();
        while !self.stopped {
            match self.line()? {
                Line::Leave => {
                    while let Some(name) = self.next(&mut names, &current, |_| true) {
                        self.tell(name.to_bytes(), DamageKind::Extra);
                    }
                    let Some(level) = levels.pop() else {
                        return Ok(());
                    };
                    self.path.truncate(level.path_length);
                    current = match level.directory {
                        Some(directory) => directory,
                        None => walk::open_directory(&current, c"..")?,
                    };
                    rustix::process::fchdir(&current)?;
                    names = level.names;
                }
                Line::Leaf(facts, leaf) => match self.present(&mut names, &current, &facts.name) {
                    Some((name, stat)) => self.leaf(&name, &stat, &facts, &leaf),
                    None if leaf.is_whiteout() => self.tell(&facts.name, DamageKind::Whiteout),
                    None => self.tell(&facts.name, DamageKind::Missing),
                },
                Line::Enter(facts) => {
                    let present = self.present(&mut names, &current, &facts.name);
                    let Some((name, stat)) = present else {
                        self.tell(&facts.name, DamageKind::Missing);
                        self.skip()?;
                        continue;
                    };
                    if file_type(&stat) != FileType::Directory {
                        self.tell(&facts.name, DamageKind::Kind);
                        self.skip()?;
                        continue;
                    }
                    let child = match walk::open_directory(&current, &name) {
                        Ok(child) => child,
                        Err(errno) => {
                            self.tell(&facts.name, unreadable(errno));
                            self.skip()?;
                            continue;
                        }
                    };
                    let path_length = self.path.len();
                    self.path.push(b'/');
                    self.path.extend_from_slice(&facts.name);
                    let below = self.enter(&child, &facts)?;
                    levels.push(Level {
                        directory: Some(std::mem::replace(&mut current, child)),
                        names: std::mem::replace(&mut names, below),
                        entered: name,
                        path_length,
                    });
                    if let Some(far) = levels.len().checked_sub(walk::OPEN_LEVELS) {
                        let far = &mut levels[far];
                        far.directory = None;
                        far.names.put_off(&far.entered);
                    }
                }
                Line::End(_) => return Err(malformed("a directory has no end")),
            }
        }
        Ok(())
    }

    fn line(&mut self) -> io::Result<Line> {
        (self.reader.next()?).ok_or_else(|| malformed("a directory has no end"))
    }

    /// Compares a directory itself, and makes it the working directory.
    fn enter(&mut self, directory: &OwnedFd, facts: &Facts) -> io::Result<Names> {
        rustix::process::fchdir(directory)?;
        let looked = fstat(directory).and_then(|stat| {
            let xattrs = self.attributes.of_directory(directory.as_fd())?;
            Ok((stat, xattrs, Names::of(directory)?))
        });
        match looked {
            Ok((stat, xattrs, names)) => {
                let found = Facts::new(&facts.name, &stat, xattrs);
                self.compare(b"", facts, &found);
                Ok(names)
            }
            Err(errno) => {
                self.tell(b"", unreadable(errno));
                Ok(Names::default())
            }
        }
    }

    /// Goes on to `name` among those that are there; what comes before it is not in the index.
    fn present(
        &mut self,
        names: &mut Names,
        directory: &OwnedFd,
        name: &[u8],
    ) -> Option<(CString, Stat)> {
        let not_after = |next: &CStr| next.to_bytes() <= name;
        while let Some(next) = self.next(names, directory, not_after) {
            if next.to_bytes() != name {
                self.tell(next.to_bytes(), DamageKind::Extra);
                continue;
            }
            return match statat(CWD, &*next, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => Some((next, stat)),
                Err(_) => None,
            };
        }
        None
    }

    /// The next name of the directory that the walk is in. If it cannot be read any more, that is told, and it has no more names.
    fn next(
        &mut self,
        names: &mut Names,
        directory: &OwnedFd,
        wanted: impl FnOnce(&CStr) -> bool,
    ) -> Option<CString> {
        match names.pop_if(directory, wanted) {
            Ok(next) => next,
            Err(errno) => {
                self.tell(b"", unreadable(errno));
                *names = Names::default();
                None
            }
        }
    }

    /// Passes over what the index has of a directory that is not there.
    fn skip(&mut self) -> io::Result<()> {
        let mut depth = 1_u64;
        while depth > 0 {
            match self.line()? {
                Line::Enter(_) => depth += 1,
                Line::Leave => depth -= 1,
                Line::Leaf(..) | Line::End(_) => {}
            }
        }
        Ok(())
    }

    fn leaf(&mut self, name: &CStr, stat: &Stat, facts: &Facts, leaf: &Leaf) {
        match self.attributes.of(name) {
            Ok(xattrs) => {
                let found = Facts::new(&facts.name, stat, xattrs);
                self.compare(&facts.name, facts, &found);
            }
            Err(errno) => self.tell(&facts.name, unreadable(errno)),
        }
        let same = |same: bool| match same {
            true => Ok(()),
            false => Err(DamageKind::Contents),
        };
        let (major, minor) = device(stat);
        let verdict = match (leaf, file_type(stat)) {
            (
                Leaf::File {
                    size,
                    links,
                    contents,
                },
                FileType::RegularFile,
            ) => {
                let counted: u64 = stat.st_nlink as _;
                if counted != *links {
                    self.tell(&facts.name, DamageKind::Links);
                }
                match u64::try_from(stat.st_size).ok() == Some(*size) {
                    true => contents_are(name, *size, *contents),
                    false => Err(DamageKind::Contents),
                }
            }
            (Leaf::Symlink(target), FileType::Symlink) => match readlinkat(CWD, name, Vec::new()) {
                Ok(found) => same(found.as_bytes() == target),
                Err(errno) => Err(unreadable(errno)),
            },
            (Leaf::Character(0, 0), FileType::CharacterDevice) if (major, minor) != (0, 0) => {
                Err(DamageKind::Whiteout)
            }
            (Leaf::Character(wanted_major, wanted_minor), FileType::CharacterDevice)
            | (Leaf::Block(wanted_major, wanted_minor), FileType::BlockDevice) => {
                same((*wanted_major, *wanted_minor) == (major, minor))
            }
            (Leaf::Fifo, FileType::Fifo) | (Leaf::Socket, FileType::Socket) => Ok(()),
            (Leaf::Character(0, 0), _) => Err(DamageKind::Whiteout),
            (
                Leaf::File { .. }
                | Leaf::Symlink(_)
                | Leaf::Character(..)
                | Leaf::Block(..)
                | Leaf::Fifo
                | Leaf::Socket,
                _,
            ) => Err(DamageKind::Kind),
        };
        if let Err(kind) = verdict {
            self.tell(&facts.name, kind);
        }
    }

    fn compare(&mut self, name: &[u8], expected: &Facts, found: &Facts) {
        if expected.mode != found.mode {
            let (expected, found) = (expected.mode, found.mode);
            self.tell(name, DamageKind::Mode { expected, found });
        }
        let owner = |facts: &Facts| (facts.uid, facts.gid);
        if owner(expected) != owner(found) {
            let (expected, found) = (owner(expected), owner(found));
            self.tell(name, DamageKind::Owner { expected, found });
        }
        if expected.mtime != found.mtime {
            self.tell(name, DamageKind::Time);
        }
        if expected.xattrs != found.xattrs {
            self.tell(name, DamageKind::Attributes);
        }
    }

    /// `name` is in the directory that the walk is in; empty, it is that itself.
    fn tell(&mut self, name: &[u8], kind: DamageKind) {
        if self.stopped {
            return;
        }
        let mut path = self.path.clone();
        if !name.is_empty() || path.is_empty() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        let path = String::from_utf8_lossy(&path).into_owned();
        self.stopped = !(self.found)(Damage { path, kind });
    }
}

fn contents_are(name: &CStr, size: u64, expected: Contents) -> Result<(), DamageKind> {
    let file = walk::open_file(name).map_err(unreadable)?;
    let found = match expected {
        Contents::Dense(_) => sums::dense(file).map(Contents::Dense),
        Contents::Sparse(_) => sums::sparse(&file, size).map(Contents::Sparse),
    };
    match found {
        Ok(found) if found == expected => Ok(()),
        Ok(_) => Err(DamageKind::Contents),
        Err(error) => Err(DamageKind::Unreadable(error.to_string())),
    }
}

fn unreadable(errno: Errno) -> DamageKind {
    DamageKind::Unreadable(io::Error::from(errno).to_string())
}
