use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Mode, OFlags, fsync, openat, renameat, unlinkat};
use rustix::io::Errno;

/// Against what a replaced file is safe once [`replace_file`] has returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The death of this process.
    Process,
    /// The loss of power: file and directory are flushed to the disk.
    Power,
}

/// Writes `bytes` into a new file beside `name` in `directory` and renames it over `name`: a reader sees the old content or the new.
///
/// The temporary name is `.NAME.new`; a leftover of an earlier attempt is replaced. Two writers of one name must take turns.
pub fn replace_file(
    directory: BorrowedFd<'_>,
    name: &str,
    bytes: &[u8],
    mode: u32,
    durability: Durability,
) -> Result<(), Errno> {
    let temporary = format!(".{name}.new");
    match unlinkat(directory, &temporary, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error),
    }
    let written = write_new(directory, &temporary, bytes, mode, durability)
        .and_then(|()| renameat(directory, &temporary, directory, name));
    if let Err(error) = written {
        // The first error is what matters; a leftover is replaced next time.
        let _ = unlinkat(directory, &temporary, AtFlags::empty());
        return Err(error);
    }
    match durability {
        Durability::Process => Ok(()),
        Durability::Power => fsync(directory),
    }
}

fn write_new(
    directory: BorrowedFd<'_>,
    name: &str,
    bytes: &[u8],
    mode: u32,
    durability: Durability,
) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = openat(directory, name, flags, Mode::from_bits_truncate(mode))?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let count = rustix::io::retry_on_intr(|| rustix::io::write(&file, rest))?;
        rest = &rest[count..];
    }
    match durability {
        Durability::Process => Ok(()),
        Durability::Power => fsync(file.as_fd()),
    }
}
