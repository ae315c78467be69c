//! The container's file system, from a detached mount to `/`.
//!
//! The caller prepares what needs rights over the host: attributes of detached trees, idmapped mounts, and `/dev`. The child attaches the root
//! over its copy of the caller's `/`, where the old tree stays in sight until the end (a `/proc` in a user namespace needs another one in
//! full view), mounts the rest below by descriptor, and pivots.

mod attributes;
mod cgroup_view;
mod device;
mod filesystem;
mod mask;
mod mounts;
mod root;

pub(crate) use filesystem::Filesystem;
pub use mounts::prepare_tree;
pub(crate) use mounts::{Prepared, attach, prepare};
pub(crate) use root::{Leaf, Root};

use std::os::fd::BorrowedFd;

use oci_plan::ContainerPlan;
use rustix::fs::CWD;
use rustix::mount::{MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags};
use sys::{MountAttributes, set_mount_attributes};

use crate::error::{Context, Error, Stage};
use crate::launch::Pause;

/// In the child: attaches the root and mounts everything. `/` is still the old one afterwards.
pub(crate) fn build<'r>(
    root: BorrowedFd<'r>,
    plan: &ContainerPlan,
    mounts: &[Prepared<'_>],
    pause: Option<Pause<'_>>,
    in_order: bool,
) -> Result<Root<'r>, Error> {
    if let Some(host) = pause.and_then(|pause| pause.host) {
        enter_host(host)?;
    }
    // Unmounting the old tree must not reach the host's.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).at(Stage::AttachRoot, "(private mounts)")?;
    // A tree copied from a shared mount, as every mount is where systemd runs, is the original's peer: what is mounted below would lie on
    // both. Nor can a shared mount be pivoted to.
    let unshared = MountAttributes {
        propagation: MountPropagationFlags::PRIVATE,
        recursive: true,
        ..MountAttributes::none()
    };
    set_mount_attributes(root, unshared).at(Stage::AttachRoot, "(make it private)")?;
    let at = pause.map_or("/", |pause| pause.at);
    rustix::mount::move_mount(root, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .at(Stage::AttachRoot, "(its detached mount)")?;
    let root = Root::new(root);
    let late_readonly = mounts::mount_all(&root, mounts, in_order)?;
    device::make_outside_dev(&root, plan)?;
    mask::mask(&root, &plan.masked_paths)?;
    mask::make_readonly(&root, &plan.readonly_paths)?;
    for (target, mount) in late_readonly {
        set_readonly(mount.as_fd()).at(Stage::ReadOnly, target)?;
    }
    Ok(root)
}

/// Exchanges the caller's bare tree for one in which everything of the host has its path.
fn enter_host(tree: BorrowedFd<'_>) -> Result<(), Error> {
    let at = |subject: &'static str| {
        move |source| Error::Step {
            stage: Stage::AttachRoot,
            subject: subject.to_owned(),
            source,
        }
    };
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).map_err(at("(private mounts)"))?;
    // The copies are peers of what they were copied from: nothing that happens here may reach the host.
    let unshared = MountAttributes {
        propagation: MountPropagationFlags::PRIVATE,
        recursive: true,
        ..MountAttributes::none()
    };
    set_mount_attributes(tree, unshared).map_err(at("(make the host's tree private)"))?;
    rustix::mount::move_mount(tree, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(at("(attach the host's tree)"))?;
    rustix::process::fchdir(tree).map_err(at("(enter the host's tree)"))?;
    rustix::process::pivot_root(".", ".").map_err(at("(pivot to the host's tree)"))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(at("(leave the bare tree)"))?;
    rustix::process::chdir("/").map_err(at("(enter the host's tree)"))
}

/// In the child, last: the root's own attributes, and nothing of the old tree.
pub(crate) fn pivot(root: &Root<'_>, plan: &ContainerPlan, no_pivot: bool) -> Result<(), Error> {
    if plan.rootfs.readonly {
        set_readonly(root.descriptor()).at(Stage::ReadOnly, "/")?;
    }
    rustix::process::fchdir(root.descriptor()).at(Stage::Pivot, "(enter it)")?;
    match no_pivot {
        // It lies on `/` already.
        true => rustix::process::chroot(".").at(Stage::Pivot, "(change the root)")?,
        false => {
            // The old root comes to lie on the new one, where `.` finds it.
            rustix::process::pivot_root(".", ".").at(Stage::Pivot, "(swap)")?;
            rustix::mount::unmount(".", UnmountFlags::DETACH)
                .at(Stage::Pivot, "(leave the old)")?;
        }
    }
    rustix::process::chdir("/").at(Stage::Pivot, "(enter /)")?;
    set_mount_attributes(
        root.descriptor(),
        MountAttributes {
            propagation: attributes::propagation(plan.rootfs.propagation),
            ..MountAttributes::none()
        },
    )
    .at(Stage::AttachRoot, "(propagation)")
}

fn set_readonly(mount: BorrowedFd<'_>) -> Result<(), rustix::io::Errno> {
    set_mount_attributes(
        mount,
        MountAttributes {
            set: MountAttrFlags::MOUNT_ATTR_RDONLY,
            ..MountAttributes::none()
        },
    )
}

use std::os::fd::AsFd;
