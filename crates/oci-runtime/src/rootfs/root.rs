use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::thread::{Gid, Uid};

/// As the kernel's own limit (`path_resolution(7)`).
const SYMLINKS: usize = 40;

/// A directory as `/`: no path, symbolic link or `..` leads out of it, and magic links lead nowhere.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Root<'a>(BorrowedFd<'a>);

/// What the end of a path must be, and is made if nothing is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaf {
    Directory,
    File,
}

impl<'a> Root<'a> {
    pub(crate) fn new(root: BorrowedFd<'a>) -> Self {
        Self(root)
    }

    pub(crate) fn descriptor(self) -> BorrowedFd<'a> {
        self.0
    }

    /// What is at `path`, as an O_PATH descriptor. Symbolic links are followed.
    pub(crate) fn find(self, path: &str) -> Result<OwnedFd, Errno> {
        self.open(path, OFlags::PATH, ResolveFlags::empty())
    }

    /// The same, but a symbolic link anywhere in the path is `ELOOP`.
    pub(crate) fn find_plain(self, path: &str) -> Result<OwnedFd, Errno> {
        self.open(path, OFlags::PATH, ResolveFlags::NO_SYMLINKS)
    }

    pub(crate) fn open(
        self,
        path: &str,
        flags: OFlags,
        more: ResolveFlags,
    ) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | more;
        let mut attempts = 0;
        loop {
            // EAGAIN: something was renamed meanwhile, and the kernel cannot tell whether `..` still is inside.
            match rustix::fs::openat2(
                self.0,
                path,
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                resolve,
            ) {
                Err(Errno::AGAIN) if attempts < 32 => attempts += 1,
                other => return other,
            }
        }
    }

    /// What is at `path`; if nothing is, it is made, with the directories above and what dangling links point to. What is made belongs to
    /// `owner`, or to the caller.
    pub(crate) fn ensure(
        self,
        path: &str,
        leaf: Leaf,
        owner: Option<(u32, u32)>,
    ) -> Result<OwnedFd, Errno> {
        match self.find(path) {
            Err(Errno::NOENT) => self.make(path, leaf, owner),
            found => found,
        }
    }

    /// Whether a descriptor is of this very directory.
    pub(crate) fn is(self, other: BorrowedFd<'_>) -> Result<bool, Errno> {
        let (ours, theirs) = (rustix::fs::fstat(self.0)?, rustix::fs::fstat(other)?);
        Ok((ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino))
    }

    /// One component at a time, links read and followed here: `mkdirat(2)` has no RESOLVE_IN_ROOT.
    fn make(self, path: &str, leaf: Leaf, owner: Option<(u32, u32)>) -> Result<OwnedFd, Errno> {
        let mut ahead: VecDeque<Vec<u8>> = components(path.as_bytes());
        let mut behind: Vec<OwnedFd> = Vec::new();
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            if name == b".." {
                behind.pop();
                continue;
            }
            let directory = behind.last().map_or(self.0, AsFd::as_fd);
            let here = match open_plain(directory, &name) {
                Err(Errno::NOENT) => {
                    let leaf = match ahead.is_empty() {
                        true => leaf,
                        false => Leaf::Directory,
                    };
                    make_one(directory, &name, leaf, owner)?
                }
                other => other?,
            };
            let kind = FileType::from_raw_mode(rustix::fs::fstat(&here)?.st_mode);
            match kind {
                FileType::Symlink => {
                    links += 1;
                    if links > SYMLINKS {
                        return Err(Errno::LOOP);
                    }
                    let target = rustix::fs::readlinkat(&here, "", Vec::new())?;
                    let target = target.to_bytes();
                    if target.first() == Some(&b'/') {
                        behind.clear();
                    }
                    for name in components(target).into_iter().rev() {
                        ahead.push_front(name);
                    }
                }
                FileType::Directory => behind.push(here),
                _ if ahead.is_empty() => return Ok(here),
                _ => return Err(Errno::NOTDIR),
            }
        }
        match behind.pop() {
            Some(here) => Ok(here),
            None => self.0.try_clone_to_owned().map_err(|_| Errno::MFILE),
        }
    }
}

fn components(path: &[u8]) -> VecDeque<Vec<u8>> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .map(<[u8]>::to_vec)
        .collect()
}

fn open_plain(directory: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

fn make_one(
    directory: BorrowedFd<'_>,
    name: &[u8],
    leaf: Leaf,
    owner: Option<(u32, u32)>,
) -> Result<OwnedFd, Errno> {
    let made = match leaf {
        Leaf::Directory => rustix::fs::mkdirat(directory, name, Mode::from_bits_truncate(0o755)),
        Leaf::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(directory, name, flags, Mode::from_bits_truncate(0o644)).map(drop)
        }
    };
    match made {
        // Another container of the volume was quicker.
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    let here = open_plain(directory, name)?;
    if let (Ok(()), Some((uid, gid))) = (made, owner) {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chownat(&here, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
    }
    Ok(here)
}
