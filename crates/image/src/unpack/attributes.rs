//! Extended attributes, whiteouts and opaque directories.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;

use rustix::fs::{
    FileType, Stat, XattrFlags, fgetxattr, flistxattr, fsetxattr, lsetxattr, major, minor,
};
use rustix::io::Errno;

const OPAQUE: &CStr = c"trusted.overlay.opaque";

/// XATTR_SIZE_MAX and XATTR_LIST_MAX of the kernel.
const XATTR_BYTES: usize = 64 * 1024;

/// Overlayfs's form of a deleted file: a character device 0:0.
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && (major(stat.st_rdev), minor(stat.st_rdev)) == (0, 0)
}

pub(super) fn is_opaque(directory: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut value = [0_u8; 1];
    match fgetxattr(directory, OPAQUE, &mut value) {
        Ok(_) => Ok(value == *b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(errno) => Err(errno),
    }
}

pub(super) fn set_opaque(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    fsetxattr(directory, OPAQUE, b"y", XattrFlags::empty())
}

/// Whether an attribute may come from an image. Overlayfs's own would let a layer point into others; labels are this machine's
/// business.
fn is_wanted(name: &[u8]) -> bool {
    let ours = name.starts_with(b"trusted.overlay.") || name.starts_with(b"trusted.longshore.");
    match name.split(|&byte| byte == b'.').next() {
        Some(b"user") => !name.starts_with(b"user.overlay."),
        Some(b"trusted") => !ours,
        Some(b"security") => matches!(name, b"security.capability" | b"security.ima"),
        Some(b"system") => name.starts_with(b"system.posix_acl_"),
        _ => false,
    }
}

/// What bears the attributes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Bearer<'a> {
    /// A file or directory.
    Open(BorrowedFd<'a>),
    /// A link or a special file, which cannot be opened: its directory and its name.
    Named(BorrowedFd<'a>, &'a [u8]),
}

pub(super) fn set_xattrs(bearer: Bearer<'_>, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<(), Errno> {
    for (name, value) in xattrs.iter().filter(|(name, _)| is_wanted(name)) {
        let result = match bearer {
            Bearer::Open(file) => fsetxattr(file, &**name, value, XattrFlags::empty()),
            Bearer::Named(parent, leaf) => lsetxattr(
                &*by_descriptor(parent, leaf)?,
                &**name,
                value,
                XattrFlags::empty(),
            ),
        };
        match (result, bearer) {
            (Ok(()), _) => {}
            // Links and special files take no attributes of users.
            (Err(Errno::PERM | Errno::OPNOTSUPP), Bearer::Named(..)) => {}
            (Err(errno), _) => return Err(errno),
        }
    }
    Ok(())
}

pub(super) fn copy_xattrs(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut names = Vec::with_capacity(XATTR_BYTES);
    match flistxattr(from, rustix::buffer::spare_capacity(&mut names)) {
        Ok(_) => {}
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(errno),
    }
    let mut value = Vec::new();
    for name in names
        .split(|&byte| byte == 0)
        .filter(|name| is_wanted(name))
    {
        value.clear();
        value.reserve(XATTR_BYTES);
        match fgetxattr(from, name, rustix::buffer::spare_capacity(&mut value)) {
            Ok(_) => fsetxattr(to, name, &value, XattrFlags::empty())?,
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// There is no `setxattrat(2)` before Linux 6.13; the directory's own descriptor leads to it as safely.
fn by_descriptor(parent: BorrowedFd<'_>, leaf: &[u8]) -> Result<CString, Errno> {
    use std::os::fd::AsRawFd;
    let mut path = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
    path.extend_from_slice(leaf);
    CString::new(path).map_err(|_| Errno::INVAL)
}
