//! The ways into a tree that the writer and the verifier share.

use std::collections::BinaryHeap;
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

/// Names of one directory that are in memory at a time.
const WINDOW: usize = if cfg!(test) { 3 } else { 32 << 10 };

/// What a directory holds, by name (bytewise). Some of it is in memory, and the rest is looked up when its turn comes: a directory of millions
/// takes no more room than one of thousands, and one entry is read once for each window that is before it.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Last first.
    window: Vec<CString>,
    /// What is up to this is in no later window.
    end: Option<CString>,
    /// Something comes after the window.
    more: bool,
}

impl Names {
    pub(super) fn of(directory: &OwnedFd) -> Result<Self, Errno> {
        let mut names = Self::default();
        names.look(directory)?;
        Ok(names)
    }

    /// Takes the next out, if it is what `wanted` says. `directory` is that of [`Names::of`].
    pub(super) fn pop_if(
        &mut self,
        directory: &OwnedFd,
        wanted: impl FnOnce(&CStr) -> bool,
    ) -> Result<Option<CString>, Errno> {
        if self.window.is_empty() && self.more {
            self.look(directory)?;
        }
        Ok(self.window.pop_if(|next| wanted(next)))
    }

    /// Leaves the memory to others while the walk is far below, in the directory `entered`, the last that was taken out.
    pub(super) fn put_off(&mut self, entered: &CStr) {
        if !self.window.is_empty() {
            self.window = Vec::new();
            self.end = Some(entered.to_owned());
            self.more = true;
        }
    }

    fn look(&mut self, directory: &OwnedFd) -> Result<(), Errno> {
        let mut first = Vec::new();
        // Of more than the window holds, the first by name, with the last of them on top.
        let mut heap = BinaryHeap::new();
        self.more = false;
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let known = self.end.as_deref().is_some_and(|end| name <= end);
            if known || name == c"." || name == c".." {
                continue;
            }
            if first.len() < WINDOW && heap.is_empty() {
                first.push(name.to_owned());
                continue;
            }
            if heap.is_empty() {
                heap = BinaryHeap::from(std::mem::take(&mut first));
            }
            self.more = true;
            if let Some(mut last) = heap.peek_mut()
                && name < last.as_c_str()
            {
                *last = name.to_owned();
            }
        }
        first.append(&mut heap.into_vec());
        first.sort_unstable_by(|one, other| other.cmp(one));
        if self.more {
            self.end = first.first().cloned();
        }
        self.window = first;
        Ok(())
    }
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
