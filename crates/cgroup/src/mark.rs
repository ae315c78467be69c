//! The mark on directories of our making: an extended attribute, which cgroup file systems keep as long as the directory lives.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, XattrFlags};
use rustix::io::Errno;

use crate::files;
use crate::hierarchy::Hierarchy;

/// `trusted` attributes take CAP_SYS_ADMIN to set and to see, so a container cannot make us remove what is not ours.
const ATTRIBUTE: &str = "trusted.longshore";

/// Without the capability there are no marks: then only what this process itself made is known to be ours.
pub(crate) fn mark(hierarchy: &Hierarchy, path: &str) {
    if let Ok(dir) = files::open_dir(hierarchy, path) {
        let _ = rustix::fs::fsetxattr(dir, ATTRIBUTE, b"1", XattrFlags::empty());
    }
}

pub(crate) fn is_marked(hierarchy: &Hierarchy, path: &str) -> bool {
    let Ok(dir) = files::open_dir(hierarchy, path) else {
        return false;
    };
    let mut value = [0u8; 8];
    rustix::fs::fgetxattr(dir.as_fd(), ATTRIBUTE, &mut value).is_ok()
}

/// Removes the ancestors of `path` that are ours and empty, nearest first. One still in use is left to its last user.
pub(crate) fn remove_marked_parents(hierarchy: &Hierarchy, path: &str) {
    let mut path = path;
    while let Some((parent, _)) = path.rsplit_once('/') {
        path = parent;
        if files::exists(hierarchy, path) && !is_marked(hierarchy, path) {
            return;
        }
        match rustix::fs::unlinkat(hierarchy.dir(), path, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(_) => return,
        }
    }
}
