use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cgroup::Hierarchies;
use oci_plan::{CONTEXT, ContainerPlan, IdMappings, Mount, MountSource};
use rustix::fs::{AtFlags, FileType, PROC_SUPER_MAGIC, StatxFlags, fstatfs};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use sys::{MountAttributes, set_mount_attributes};

use super::attributes::{attributes, propagation};
use super::cgroup_view::CgroupView;
use super::device::DevPlan;
use super::filesystem::Filesystem;
use super::root::{Leaf, Root};
use crate::error::{Context, Error, Stage};
use crate::host::Host;
use crate::labels;
use crate::pod::PodHandles;
use crate::slots::Slots;

/// Files in `/proc` that may be covered, so that a container sees its own limits (lxcfs and its like).
const COVERABLE: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
];

/// A mount that lacks only its place.
#[derive(Debug)]
pub(crate) struct Prepared<'a> {
    target: &'a str,
    what: What<'a>,
}

#[derive(Debug)]
enum What<'a> {
    /// A detached mount; `words` is what errors call it.
    Detached {
        mount: Detached<'a>,
        leaf: Leaf,
        words: &'static str,
        /// Once later mounts have their places in it.
        late_readonly: bool,
    },
    /// Made by the child: it belongs to the child's namespaces.
    Filesystem {
        filesystem: Filesystem<'a>,
        mount: &'a Mount,
    },
    Cgroup {
        view: CgroupView<'a>,
        mount: &'a Mount,
    },
}

#[derive(Debug)]
enum Detached<'a> {
    Borrowed(BorrowedFd<'a>),
    Owned(OwnedFd),
}

impl Detached<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Borrowed(mount) => *mount,
            Self::Owned(mount) => mount.as_fd(),
        }
    }
}

/// In the caller. `mappings` are those of the user namespace that the container will be in.
pub(crate) fn prepare<'a>(
    host: &'a Host,
    plan: &'a ContainerPlan,
    slots: Slots<'a>,
    pod: &PodHandles,
    mappings: Option<&IdMappings>,
) -> Result<Vec<Prepared<'a>>, Error> {
    let mut prepared = Vec::with_capacity(plan.mounts.len() + 1);
    let dev_at = plan.mounts.iter().position(|mount| is_dev(&mount.target));
    if dev_at.is_none() {
        let dev = DevPlan::default_of(plan, mappings);
        prepared.push(detached("/dev", dev.make()?, "the default tmpfs", false));
    }
    for (index, mount) in plan.mounts.iter().enumerate() {
        let what = match &mount.source {
            MountSource::Filesystem { fs_type, .. }
                if dev_at == Some(index) && fs_type == "tmpfs" =>
            {
                let dev = DevPlan::of(plan, mount, mappings);
                let late = mount.flags.readonly;
                prepared.push(detached(&mount.target, dev.make()?, "tmpfs", late));
                continue;
            }
            MountSource::Filesystem {
                fs_type,
                source,
                data,
            } => What::Filesystem {
                filesystem: Filesystem {
                    fs_type,
                    source,
                    data,
                },
                mount,
            },
            MountSource::Tree(slot) => {
                let tree = slots.get(*slot, &format!("mounts[{index}].source"))?;
                let subject = || format!("a tree on {}", mount.target);
                prepare_tree(host, tree, mount)?;
                let kind = kind(tree).at(Stage::Mount, subject())?;
                What::Detached {
                    mount: Detached::Borrowed(tree),
                    leaf: match kind {
                        FileType::Directory => Leaf::Directory,
                        _ => Leaf::File,
                    },
                    words: "a tree",
                    late_readonly: false,
                }
            }
            MountSource::PodShm => {
                let subject = || format!("the pod's /dev/shm on {}", mount.target);
                let shm = pod.shm.as_ref().ok_or_else(|| {
                    let field = format!("mounts[{index}].source");
                    Error::refused(field, "the pod has no /dev/shm of its own")
                })?;
                let flags = OpenTreeFlags::OPEN_TREE_CLONE
                    | OpenTreeFlags::OPEN_TREE_CLOEXEC
                    | OpenTreeFlags::AT_EMPTY_PATH;
                let tree = open_tree(shm, "", flags).at(Stage::Mount, subject())?;
                shape(tree.as_fd(), mount, None).at(Stage::Mount, subject())?;
                What::Detached {
                    mount: Detached::Owned(tree),
                    leaf: Leaf::Directory,
                    words: "the pod's /dev/shm",
                    late_readonly: false,
                }
            }
            MountSource::Cgroup => What::Cgroup {
                view: view(host.hierarchies()),
                mount,
            },
        };
        prepared.push(Prepared {
            target: &mount.target,
            what,
        });
    }
    Ok(prepared)
}

/// Gives a detached tree of the host what its mount says: attributes, propagation and mapped ids.
///
/// # Errors
/// The kernel's, and `Refused` for what does not belong on `/proc`.
pub fn prepare_tree(host: &Host, tree: BorrowedFd<'_>, mount: &Mount) -> Result<(), Error> {
    let idmap = match &mount.idmap {
        Some(wanted) => Some(host.idmap(wanted)?),
        None => None,
    };
    let idmap = idmap.as_ref().map(|namespace| namespace.as_fd());
    check_proc(tree, &mount.target)?;
    shape(tree, mount, idmap).at(Stage::Mount, format_args!("a tree on {}", mount.target))
}

/// What a file is never changes; the caller must not wait for a file server to say it again.
fn kind(file: BorrowedFd<'_>) -> Result<FileType, Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(file, "", flags, StatxFlags::TYPE)?;
    Ok(FileType::from_raw_mode(stat.stx_mode.into()))
}

/// In place of the container's `/proc` there may only be another proc: programs believe what they read there, and masks look for it.
fn check_proc(tree: BorrowedFd<'_>, target: &str) -> Result<(), Error> {
    if target.trim_end_matches('/') != "/proc" {
        return Ok(());
    }
    let kind = fstatfs(tree).at(Stage::Mount, format_args!("a tree on {target}"))?;
    match kind.f_type == PROC_SUPER_MAGIC {
        true => Ok(()),
        false => Err(Error::refused(
            "mounts",
            format!("{target} lies in the container's /proc"),
        )),
    }
}

fn view(hierarchies: &Hierarchies) -> CgroupView<'_> {
    CgroupView::of(hierarchies)
}

fn detached<'a>(
    target: &'a str,
    mount: OwnedFd,
    words: &'static str,
    late_readonly: bool,
) -> Prepared<'a> {
    Prepared {
        target,
        what: What::Detached {
            mount: Detached::Owned(mount),
            leaf: Leaf::Directory,
            words,
            late_readonly,
        },
    }
}

pub(super) fn is_dev(target: &str) -> bool {
    target.trim_end_matches('/') == "/dev"
}

/// Gives a detached tree the attributes of its mount.
fn shape(tree: BorrowedFd<'_>, mount: &Mount, idmap: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let (set, clear) = attributes(mount.flags);
    if !set.is_empty() || idmap.is_some() {
        let own = MountAttributes {
            set,
            clear,
            idmap,
            ..MountAttributes::none()
        };
        set_mount_attributes(tree, own)?;
    }
    if mount.flags.recursive_readonly {
        let below = MountAttributes {
            set: rustix::mount::MountAttrFlags::MOUNT_ATTR_RDONLY,
            recursive: true,
            ..MountAttributes::none()
        };
        set_mount_attributes(tree, below)?;
    }
    if let Some(wanted) = mount.propagation {
        let recursive = MountAttributes {
            propagation: propagation(wanted),
            recursive: true,
            ..MountAttributes::none()
        };
        set_mount_attributes(tree, recursive)?;
    }
    Ok(())
}

/// In the child. Returns those that become read-only once everything is in place: later mounts need their places made in them.
pub(super) fn mount_all<'m>(
    root: &Root<'_>,
    mounts: &'m [Prepared<'_>],
    in_order: bool,
) -> Result<Vec<(&'m str, OwnedFd)>, Error> {
    let mut late_readonly = Vec::new();
    for prepared in mounts {
        let target = prepared.target;
        match &prepared.what {
            What::Detached {
                mount,
                leaf,
                words,
                late_readonly: late,
            } => {
                let place = place(root, target, *leaf)?;
                let younger = match in_order {
                    true => younger(mount.as_fd()),
                    false => None,
                };
                let mount = younger.as_ref().map_or(mount.as_fd(), AsFd::as_fd);
                attach(mount, place.as_fd())
                    .at(Stage::Mount, format_args!("{words} on {target}"))?;
                if *late {
                    let kept =
                        rustix::io::fcntl_dupfd_cloexec(mount, 0).at(Stage::Mount, target)?;
                    late_readonly.push((target, kept));
                }
            }
            What::Filesystem { filesystem, mount } => {
                let late = mount.flags.readonly && filesystem.fs_type == "tmpfs";
                let made = mount_filesystem(root, *filesystem, mount, late)?;
                if late {
                    late_readonly.push((target, made));
                }
            }
            What::Cgroup { view, mount } => {
                let place = place(root, target, Leaf::Directory)?;
                view.mount(place.as_fd(), mount)?;
            }
        }
    }
    Ok(late_readonly)
}

/// A copy of a detached tree. Since Linux 6.8 `mountinfo` has mounts by their age, and these are older than what is mounted below them. Before
/// 6.15 no detached tree could be copied, nor can one of another user namespace: then they come first, and nothing else differs.
fn younger(tree: BorrowedFd<'_>) -> Option<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(tree, "", flags).ok()
}

fn mount_filesystem(
    root: &Root<'_>,
    filesystem: Filesystem<'_>,
    mount: &Mount,
    late_readonly: bool,
) -> Result<OwnedFd, Error> {
    let target = mount.target.as_str();
    let fs_type = filesystem.fs_type;
    let place = match fs_type {
        // Whoever makes these lead elsewhere defeats the masks below them.
        "proc" | "sysfs" => plain_directory(root, target)?,
        _ => place(root, target, Leaf::Directory)?,
    };
    let mut flags = mount.flags;
    flags.readonly &= !late_readonly;
    let (set, _) = attributes(flags);
    // A namespace of IPC has one mqueue, which is older than the mount: a label by its parameters comes too late.
    let (label, data): (Vec<_>, Vec<_>) = (filesystem.data.iter().cloned())
        .partition(|(key, _)| fs_type == "mqueue" && key == CONTEXT);
    let filesystem = Filesystem {
        data: &data,
        ..filesystem
    };
    let made = filesystem.mount(set, format_args!("{fs_type} on {target}"))?;
    if let Some((_, Some(label))) = label.first() {
        let subject = format_args!("SELinux label {label} on {target}");
        labels::label(made.as_fd(), label).at(Stage::Label, subject)?;
    }
    if let Some(wanted) = mount.propagation {
        let attributes = MountAttributes {
            propagation: propagation(wanted),
            ..MountAttributes::none()
        };
        set_mount_attributes(made.as_fd(), attributes).at(
            Stage::Mount,
            format_args!("{fs_type} on {target} (propagation)"),
        )?;
    }
    attach(made.as_fd(), place.as_fd()).at(Stage::Mount, format_args!("{fs_type} on {target}"))?;
    Ok(made)
}

/// The place for a mount, made if it is not there.
fn place(root: &Root<'_>, target: &str, leaf: Leaf) -> Result<OwnedFd, Error> {
    let place = root
        .ensure(target, leaf, None)
        .at(Stage::MountPoint, target)?;
    if root.is(place.as_fd()).at(Stage::MountPoint, target)? {
        return Err(Error::refused(
            "mounts",
            format!("{target} is the container's root"),
        ));
    }
    let in_proc = fstatfs(&place).at(Stage::MountPoint, target)?.f_type == PROC_SUPER_MAGIC;
    if in_proc && !(COVERABLE.contains(&target) && root.find_plain(target).is_ok()) {
        return Err(Error::refused(
            "mounts",
            format!("{target} lies in the container's /proc"),
        ));
    }
    Ok(place)
}

fn plain_directory(root: &Root<'_>, target: &str) -> Result<OwnedFd, Error> {
    let subject = format_args!("{target} (no symbolic link may lead there)");
    match root.find_plain(target) {
        Err(Errno::NOENT) => {
            root.ensure(target, Leaf::Directory, None)
                .at(Stage::MountPoint, target)?;
            root.find_plain(target).at(Stage::MountPoint, subject)
        }
        found => found.at(Stage::MountPoint, subject),
    }
}

/// `move_mount(2)` by descriptors alone.
pub(crate) fn attach(mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", place, "", flags)
}
