//! The supervisor's own, nearly empty root.
//!
//! A private copy of the host's mounts would keep alive whatever the host unmounts later (other pods' volumes above all), and cost each
//! new container's mount namespace a copy of a thousand mounts. So there are only a small tmpfs, `/proc`, `/sys` and a place for
//! the pod's `/dev/shm`.
//!
//! `/proc` and `/sys` must be there, and bare: a user namespace may mount its own procfs or sysfs only in a mount namespace that
//! shows one in full already (`mount_too_revealing` in the kernel).

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
};

/// Where the pod's `/dev/shm` is mounted.
pub(crate) const SHM: &str = "/shm";

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Leaves the host's mount namespace. `borrowed` is any directory of the host, by its path, which names another mount in each
/// namespace; the new root is made on it, unseen by others. Returns the directory [`SHM`].
pub(crate) fn enter(borrowed: &Path) -> Result<OwnedFd, (&'static str, Errno)> {
    let at = |step: &'static str| move |error: Errno| (step, error);
    sys::unshare(sys::CloneFlags::NEWNS).map_err(at("unshare the mount namespace"))?;
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(at("make the mounts private"))?;

    let root = file_system("tmpfs", &[("size", "64k"), ("mode", "0755")])
        .map_err(at("make a tmpfs for the root"))?;
    rustix::mount::move_mount(
        &root,
        "",
        rustix::fs::CWD,
        borrowed,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .map_err(at("mount the root"))?;
    for name in ["proc", "sys", "shm"] {
        rustix::fs::mkdirat(&root, name, Mode::from_raw_mode(0o755))
            .map_err(at("make a directory of the root"))?;
    }
    for (file_system_type, name) in [("proc", "proc"), ("sysfs", "sys")] {
        let mount = file_system(file_system_type, &[]).map_err(at("make procfs and sysfs"))?;
        rustix::mount::move_mount(
            &mount,
            "",
            &root,
            name,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .map_err(at("mount procfs and sysfs"))?;
    }
    rustix::process::fchdir(&root).map_err(at("enter the root"))?;
    // The old root comes to lie on the new one and is taken off there: no directory is needed for it.
    rustix::process::pivot_root(".", ".").map_err(at("pivot the root"))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(at("detach the host's root"))?;
    rustix::process::chdir("/").map_err(at("enter the root"))?;
    rustix::fs::open(SHM, DIRECTORY, Mode::empty()).map_err(at("open the mount point for /dev/shm"))
}

/// Takes the pod's `/dev/shm` away, if it is there.
pub(crate) fn unmount_shm() {
    // EINVAL where nothing is mounted.
    let _ = rustix::mount::unmount(SHM, UnmountFlags::DETACH);
}

fn file_system(name: &str, options: &[(&str, &str)]) -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        rustix::mount::fsconfig_set_string(context.as_fd(), *key, *value)?;
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )
}
