//! The ways into a tree that the writer and the verifier share.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Dir, Mode, OFlags, fgetxattr, flistxattr, lgetxattr, llistxattr, openat};
use rustix::io::Errno;
use rustix::thread::UnshareFlags;

use super::sums::{Sum, SumHasher};

/// XATTR_SIZE_MAX and XATTR_LIST_MAX of the kernel.
const XATTR_BYTES: usize = 64 << 10;

/// A directory deeper than this is closed while the walk is below it, and found again by `..`.
pub(super) const OPEN_LEVELS: usize = 32;

/// Labels that the machine gives by itself, and takes again.
const LABELS: [&[u8]; 4] = [
    b"security.selinux",
    b"security.SMACK64",
    b"security.apparmor",
    b"security.evm",
];

/// Makes the working directory the calling thread's own: names are then looked up in it, which is the cheapest way there is to ask for
/// attributes of what cannot be opened.
pub(super) fn own_working_directory() -> io::Result<()> {
    // It is deprecated for the sake of UnshareFlags::FILES.
    #[allow(deprecated)]
    Ok(rustix::thread::unshare(UnshareFlags::FS)?)
}

pub(super) fn open_directory(parent: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    openat(
        parent,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// In the working directory.
pub(super) fn open_file(name: &CStr) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    // Reading is no use of the image.
    match openat(CWD, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => openat(CWD, name, flags, Mode::empty()),
        opened => opened,
    }
    .map(File::from)
}

/// What a directory holds, by name, last first.
pub(super) fn names(directory: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable_by(|one, other| other.cmp(one));
    Ok(names)
}

/// Room for attributes; one for a whole walk.
#[derive(Debug)]
pub(super) struct Attributes {
    names: Vec<u8>,
    value: Vec<u8>,
}

impl Attributes {
    pub(super) fn new() -> Self {
        Self {
            names: Vec::with_capacity(XATTR_BYTES),
            value: Vec::with_capacity(XATTR_BYTES),
        }
    }

    pub(super) fn of_directory(&mut self, directory: BorrowedFd<'_>) -> Result<Option<Sum>, Errno> {
        self.sum(
            |names| flistxattr(directory, rustix::buffer::spare_capacity(names)),
            |name, value| fgetxattr(directory, name, rustix::buffer::spare_capacity(value)),
        )
    }

    /// Of something in the working directory.
    pub(super) fn of(&mut self, leaf: &CStr) -> Result<Option<Sum>, Errno> {
        self.sum(
            |names| llistxattr(leaf, rustix::buffer::spare_capacity(names)),
            |name, value| lgetxattr(leaf, name, rustix::buffer::spare_capacity(value)),
        )
    }

    fn sum(
        &mut self,
        list: impl FnOnce(&mut Vec<u8>) -> Result<usize, Errno>,
        get: impl Fn(&[u8], &mut Vec<u8>) -> Result<usize, Errno>,
    ) -> Result<Option<Sum>, Errno> {
        self.names.clear();
        match list(&mut self.names) {
            Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(None),
            Ok(_) => {}
            Err(errno) => return Err(errno),
        }
        let mut names: Vec<&[u8]> = (self.names.split(|&byte| byte == 0))
            .filter(|name| !name.is_empty() && !LABELS.contains(name))
            .collect();
        names.sort_unstable();
        if names.is_empty() {
            return Ok(None);
        }
        let mut hasher = SumHasher::default();
        for name in names {
            self.value.clear();
            get(name, &mut self.value)?;
            for part in [name, &self.value] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
        }
        Ok(Some(hasher.finish()))
    }
}
