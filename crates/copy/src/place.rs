//! Where a path leads, with a directory for `/`.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, readlinkat, statat};
use rustix::io::Errno;

use crate::Error;

/// As many links as the kernel follows.
const MOST_LINKS: usize = 40;

/// A name in an open directory.
pub(crate) struct Place {
    pub(crate) directory: OwnedFd,
    /// `.`, where the path is the root or ends in `..`.
    pub(crate) name: OsString,
}

/// What a path names; with `follow`, what a link there leads to.
pub(crate) fn find(root: BorrowedFd<'_>, path: &Path, follow: bool) -> Result<Place, Error> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let place = named(root, &path)?;
        if !follow {
            return Ok(place);
        }
        let failed = || Error::at("look at", &path);
        let stat = statat(&place.directory, &place.name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| failed()(error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            return Ok(place);
        }
        let target = readlinkat(&place.directory, &place.name, Vec::new())
            .map_err(|error| failed()(error))?;
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        // A relative one counts from the link's directory; an absolute one replaces the whole.
        path = path.parent().unwrap_or(Path::new("/")).join(target);
    }
    Err(Error::at("follow the links at", &path)(Errno::LOOP))
}

fn named(root: BorrowedFd<'_>, path: &Path) -> Result<Place, Error> {
    let (parent, name) = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => (parent, name),
        // The root, or a path that ends in `..`.
        _ => (path, OsStr::new(".")),
    };
    let directory = directory(root, parent).map_err(Error::at("open", parent))?;
    Ok(Place {
        directory,
        name: name.to_owned(),
    })
}

/// Opens a directory, links followed as far as the root goes.
pub(crate) fn directory(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let path = match path.as_os_str().as_bytes() {
        b"" => Path::new("."),
        _ => path,
    };
    loop {
        let opened = rustix::fs::openat2(
            root,
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        );
        match opened {
            // Something was renamed while `..` was resolved; the kernel does not try again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

/// As [`directory`], made with those above where they are missing.
pub(crate) fn made(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    match directory(root, path) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::NOENT);
    };
    let above = made(root, parent)?;
    match rustix::fs::mkdirat(above.as_fd(), name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => directory(root, path),
        Err(error) => Err(error),
    }
}
