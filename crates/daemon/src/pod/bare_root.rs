//! The root file system of a container of ours, which has no image.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
        fsopen,
    },
};

/// A file system that holds the places of mounts, and of the program, and nothing else. It is mounted nowhere yet.
pub(super) fn make(directories: &[&str], program: &str) -> Result<OwnedFd, Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "mode", "755")?;
    fsconfig_set_string(context.as_fd(), "size", "64k")?;
    fsconfig_create(context.as_fd())?;
    let mount = fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV,
    )?;
    for directory in directories {
        rustix::fs::mkdirat(&mount, *directory, Mode::from_raw_mode(0o755))?;
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    let program = program.trim_start_matches('/');
    rustix::fs::openat(&mount, program, flags, Mode::from_raw_mode(0o755))?;
    Ok(mount)
}
