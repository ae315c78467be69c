//! Reading and writing a cgroup's files, relative to the root of their hierarchy.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::Error;
use crate::hierarchy::Hierarchy;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Whole text of a file; cgroup files are made anew at each read from offset 0, so it is read in as few calls as possible.
pub(crate) fn read_at(dir: BorrowedFd<'_>, file: &str) -> Result<String, Errno> {
    let file = open_for_reading(dir, file)?;
    read_all(file.as_fd())
}

pub(crate) fn open_for_reading(dir: BorrowedFd<'_>, file: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(dir, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

fn read_all(file: BorrowedFd<'_>) -> Result<String, Errno> {
    let mut text = Vec::with_capacity(4096);
    loop {
        if text.capacity() - text.len() < 1024 {
            text.reserve(8192);
        }
        match rustix::io::read(file, rustix::buffer::spare_capacity(&mut text)) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    String::from_utf8(text).map_err(|_| Errno::ILSEQ)
}

/// One write of the whole value: the kernel takes each write as one request.
pub(crate) fn write_at(dir: BorrowedFd<'_>, file: &str, value: &str) -> Result<(), Errno> {
    let file = open_for_writing(dir, file)?;
    write_fd(file.as_fd(), value)
}

pub(crate) fn open_for_writing(dir: BorrowedFd<'_>, file: &str) -> Result<OwnedFd, Errno> {
    // Truncation means nothing to a cgroup file and keeps plain files, in tests, honest.
    rustix::fs::openat(
        dir,
        file,
        OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

pub(crate) fn write_fd(file: BorrowedFd<'_>, value: &str) -> Result<(), Errno> {
    rustix::io::retry_on_intr(|| rustix::io::write(file, value.as_bytes())).map(|_| ())
}

pub(crate) fn read(hierarchy: &Hierarchy, path: &str, file: &str) -> Result<String, Error> {
    let relative = join(path, file);
    read_at(hierarchy.dir(), &relative).map_err(|source| Error::Read {
        file: hierarchy.label(&relative),
        source,
    })
}

/// `None` where the file (or the cgroup) does not exist.
pub(crate) fn read_if_exists(
    hierarchy: &Hierarchy,
    path: &str,
    file: &str,
) -> Result<Option<String>, Error> {
    match read(hierarchy, path, file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::NODEV)) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn write(
    hierarchy: &Hierarchy,
    path: &str,
    file: &str,
    value: &str,
) -> Result<(), Error> {
    let relative = join(path, file);
    write_at(hierarchy.dir(), &relative, value).map_err(|source| Error::Write {
        file: hierarchy.label(&relative),
        value: value.to_owned(),
        source,
    })
}

pub(crate) fn exists(hierarchy: &Hierarchy, relative: &str) -> bool {
    rustix::fs::statat(hierarchy.dir(), relative, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

pub(crate) fn has_file(hierarchy: &Hierarchy, path: &str, file: &str) -> bool {
    exists(hierarchy, &join(path, file))
}

pub(crate) fn open_dir(hierarchy: &Hierarchy, path: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(hierarchy.dir(), path, DIRECTORY, Mode::empty())
}

/// `path` may be empty: the hierarchy's root.
pub(crate) fn join(path: &str, file: &str) -> String {
    match path {
        "" => file.to_owned(),
        _ => format!("{path}/{file}"),
    }
}

/// Names of the child cgroups of an open directory. A container may have made ones that are not UTF-8.
pub(crate) fn children(dir: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type() == FileType::Directory && name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

pub(crate) fn open_child(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(dir, name, DIRECTORY, Mode::empty())
}
