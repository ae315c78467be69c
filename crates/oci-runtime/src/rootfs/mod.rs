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
mod old_tree;
mod root;

pub(crate) use filesystem::Filesystem;
pub use mounts::prepare_tree;
pub(crate) use mounts::{Prepared, attach, prepare};
pub(crate) use root::{Leaf, Root};

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use oci_plan::ContainerPlan;
use rustix::fs::CWD;
use rustix::mount::{MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags};
use sys::{MountAttributes, set_mount_attributes};

use crate::error::{Context, Error, Stage};
use crate::host::Host;
use crate::launch::Pause;

/// A root in which everything has its place, and whose mounts that are to be read-only at last are not so yet.
pub(crate) struct Built<'r, 'm> {
    pub(crate) root: Root<'r>,
    late_readonly: Vec<(&'m str, OwnedFd)>,
}

impl Built<'_, '_> {
    /// Once nothing more needs a place in them.
    pub(crate) fn make_readonly(self) -> Result<(), Error> {
        for (target, mount) in self.late_readonly {
            set_readonly(mount.as_fd()).at(Stage::ReadOnly, target)?;
        }
        Ok(())
    }
}

/// In the child: attaches the root and mounts everything. `/` is still the old one afterwards.
pub(crate) fn build<'r, 'm>(
    root: BorrowedFd<'r>,
    plan: &ContainerPlan,
    mounts: &'m [Prepared<'_>],
    pause: Option<Pause<'_>>,
    in_order: bool,
) -> Result<Built<'r, 'm>, Error> {
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
    Ok(Built {
        root,
        late_readonly,
    })
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

/// How a child comes to have its root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entrance {
    Pivot,
    /// Where the caller's `/` cannot be pivoted away. `elsewhere`: the root was not attached to it.
    Change {
        elsewhere: bool,
    },
}

/// In the child, last: the root's own attributes, and nothing of the old tree.
pub(crate) fn pivot(
    host: &Host,
    root: &Root<'_>,
    plan: &ContainerPlan,
    entrance: Entrance,
) -> Result<(), Error> {
    if plan.rootfs.readonly {
        set_readonly(root.descriptor()).at(Stage::ReadOnly, "/")?;
    }
    rustix::process::fchdir(root.descriptor()).at(Stage::Pivot, "(enter it)")?;
    match entrance {
        Entrance::Change { elsewhere } => change_root(host, root, elsewhere)?,
        Entrance::Pivot => {
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

/// In place of a pivot: the new root on the old one, where no `..` and nobody who enters the mount namespace goes below it.
fn change_root(host: &Host, root: &Root<'_>, elsewhere: bool) -> Result<(), Error> {
    if elsewhere {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(root.descriptor(), "", CWD, "/", flags)
            .at(Stage::AttachRoot, "(on the old)")?;
    }
    old_tree::hide(host, root.descriptor())?;
    rustix::process::chroot(".").at(Stage::Pivot, "(change the root)")
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
