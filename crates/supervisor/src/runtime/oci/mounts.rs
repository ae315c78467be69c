//! What a runtime finds in its bundle, which only its own mount namespace shows.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_plan::{ContainerPlan, FdSlot, MountSource, NamespaceSource};
use rustix::fs::{Mode, OFlags};
use rustix::mount::OpenTreeFlags;
use supervisor_api::{Bundle, WireError};

use crate::runtime::{Embedded, core, failed_precondition, internal};
use crate::supervisor::take_slot;

/// A detached mount, and its place.
#[derive(Debug)]
pub(in crate::runtime) struct Place {
    pub(super) mount: OwnedFd,
    pub(super) target: PathBuf,
}

/// `bundles` is the directory of all of them.
pub(in crate::runtime) fn places<'a>(
    embedded: &Embedded,
    plan: &ContainerPlan,
    descriptors: &[OwnedFd],
    targets: &dyn Fn(&str) -> Option<BorrowedFd<'a>>,
    bundles: &Path,
) -> Result<Vec<Place>, WireError> {
    let bundle = Bundle::of(bundles, &plan.id);
    let mut places = vec![Place {
        mount: take_slot(descriptors, plan.rootfs.mount)?,
        target: bundle.rootfs(),
    }];
    for (index, mount) in plan.mounts.iter().enumerate() {
        let tree = match &mount.source {
            MountSource::Tree(slot) => take_slot(descriptors, *slot)?,
            MountSource::PodShm => {
                let shm = embedded.pod()?.shm.as_ref().ok_or_else(|| {
                    failed_precondition("the pod has no /dev/shm of its own".to_owned())
                })?;
                clone(shm.as_fd(), "the pod's /dev/shm")?
            }
            MountSource::Filesystem { .. } | MountSource::Cgroup => continue,
        };
        // What it is like is the plan's affair, and the same whatever the runtime can do.
        oci_runtime::prepare_tree(embedded.host(), tree.as_fd(), mount)
            .map_err(|error| core(&error))?;
        places.push(Place {
            mount: tree,
            target: bundle.mount(index),
        });
    }
    places.extend(namespaces(embedded, plan, descriptors, targets, &bundle)?);
    Ok(places)
}

fn namespaces<'a>(
    embedded: &Embedded,
    plan: &ContainerPlan,
    descriptors: &[OwnedFd],
    targets: &dyn Fn(&str) -> Option<BorrowedFd<'a>>,
    bundle: &Bundle,
) -> Result<Vec<Place>, WireError> {
    let pod = embedded.pod()?;
    let mut places = Vec::new();
    for (name, source, pods) in [
        ("ipc", &plan.namespaces.ipc, pod.ipc.as_ref()),
        ("net", &plan.namespaces.net, pod.net.as_ref()),
        ("pid", &plan.namespaces.pid, pod.pid.as_ref()),
        ("user", &plan.namespaces.user, pod.user.as_ref()),
        ("uts", &plan.namespaces.uts, pod.uts.as_ref()),
    ] {
        let namespace = match source {
            NamespaceSource::Host | NamespaceSource::New => continue,
            NamespaceSource::Pod => {
                let pods = pods.ok_or_else(|| {
                    failed_precondition(format!("the pod has no {name} namespace of its own"))
                })?;
                clone(pods.as_fd(), name)?
            }
            NamespaceSource::Fd(FdSlot(slot)) => {
                clone(take_slot(descriptors, FdSlot(*slot))?.as_fd(), name)?
            }
            NamespaceSource::Container(id) => {
                let gone = || failed_precondition(format!("container {id} does not run"));
                let init = targets(id).ok_or_else(gone)?;
                let pid = embedded.host().pid_of(init).map_err(|_| gone())?;
                let file = rustix::fs::openat(
                    embedded.host().proc(),
                    format!("{pid}/ns/{name}"),
                    OFlags::RDONLY | OFlags::CLOEXEC,
                    Mode::empty(),
                )
                .map_err(|_| gone())?;
                clone(file.as_fd(), name)?
            }
        };
        places.push(Place {
            mount: namespace,
            target: bundle.namespace(name),
        });
    }
    Ok(places)
}

fn clone(file: BorrowedFd<'_>, what: &str) -> Result<OwnedFd, WireError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    rustix::mount::open_tree(file, "", flags)
        .map_err(|error| internal(format!("clone the mount of {what}: {error}")))
}
