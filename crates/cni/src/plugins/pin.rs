//! Network namespaces, pinned where other tools look for them.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::error::PinError;

/// Makes a file that keeps the namespace, and its directory if need be.
pub fn pin(netns: BorrowedFd<'_>, path: &Path) -> Result<(), PinError> {
    let failed = |source| PinError {
        doing: "make",
        path: path.to_owned(),
        source,
    };
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(|error| failed(errno(&error)))?;
    }
    File::create(path).map_err(|error| failed(errno(&error)))?;
    let source = format!("/proc/self/fd/{}", netns.as_raw_fd());
    mount(source, path, "", MountFlags::BIND, None).map_err(|error| {
        // The empty file is all there is to undo.
        let _gone = fs::remove_file(path);
        failed(error)
    })
}

/// Removes the pin; succeeds where there is none.
pub fn unpin(path: &Path) -> Result<(), PinError> {
    let failed = |source| PinError {
        doing: "remove",
        path: path.to_owned(),
        source,
    };
    match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // EINVAL: the file is there and nothing is mounted on it.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(source) => return Err(failed(source)),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(errno(&error))),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn errno(error: &io::Error) -> Errno {
    error
        .raw_os_error()
        .map_or(Errno::IO, Errno::from_raw_os_error)
}
