//! The mark on directories of our making: an extended attribute, which cgroup file systems keep as long as the directory lives.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, XattrFlags};
use rustix::io::Errno;

use crate::files;
use crate::hierarchy::Hierarchy;

/// `trusted` attributes take CAP_SYS_ADMIN to set and to see, so a container cannot make us remove what is not ours.
const ATTRIBUTE: &str = "trusted.longshore";

/// Why a directory was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Somebody asked for it, and will remove it.
    Asked,
    /// Something below it was asked for: it goes with the last of those.
    Implied,
}

impl Mark {
    fn value(self) -> &'static [u8] {
        match self {
            Mark::Asked => b"asked",
            Mark::Implied => b"implied",
        }
    }
}

/// Without the capability there are no marks: then only what this process itself made is known to be ours.
pub(crate) fn set(hierarchy: &Hierarchy, path: &str, mark: Mark) {
    if let Ok(dir) = files::open_dir(hierarchy, path) {
        let _ = rustix::fs::fsetxattr(dir, ATTRIBUTE, mark.value(), XattrFlags::empty());
    }
}

pub(crate) fn get(hierarchy: &Hierarchy, path: &str) -> Option<Mark> {
    let dir = files::open_dir(hierarchy, path).ok()?;
    let mut buffer = [0u8; 16];
    let length = rustix::fs::fgetxattr(dir.as_fd(), ATTRIBUTE, &mut buffer).ok()?;
    let value = &buffer[..length];
    [Mark::Asked, Mark::Implied]
        .into_iter()
        .find(|mark| mark.value() == value)
}

/// Removes the ancestors of `path` that were only implied and are empty, nearest first.
pub(crate) fn remove_implied_parents(hierarchy: &Hierarchy, path: &str) {
    let mut path = path;
    while let Some((parent, _)) = path.rsplit_once('/') {
        path = parent;
        if files::exists(hierarchy, path) && get(hierarchy, path) != Some(Mark::Implied) {
            return;
        }
        match rustix::fs::unlinkat(hierarchy.dir(), path, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(_) => return,
        }
    }
}
