use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_plan::{ContainerPlan, DeviceNode, IdMappings, Mount, MountSource, NodeType};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, mkdirat, mknodat, openat, symlinkat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::thread::{Gid, Uid};

use super::attributes::attributes;
use super::filesystem::Filesystem;
use super::mounts::is_dev;
use super::root::{Leaf, Root};
use crate::error::{Context, Error, Stage};
use crate::user_namespace::outside;

/// Name, major and minor number of the devices that every container has (runtime-spec 1.2, config-linux, *Default Devices*).
const DEFAULTS: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Name and target (runtime-spec 1.2, runtime-linux, *Dev symbolic links*).
const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// A container's `/dev`, which the caller makes: nodes on a file system that belongs to a user namespace do not open, and a container in one
/// could not make them either. On the caller's own they serve both.
#[derive(Debug)]
pub(crate) struct DevPlan<'a> {
    filesystem: Filesystem<'a>,
    attributes: MountAttrFlags,
    devices: &'a [DeviceNode],
    mappings: Option<&'a IdMappings>,
}

impl<'a> DevPlan<'a> {
    /// As a mount of the plan has it.
    pub(crate) fn of(
        plan: &'a ContainerPlan,
        mount: &'a Mount,
        mappings: Option<&'a IdMappings>,
    ) -> Self {
        let mut this = Self::default_of(plan, mappings);
        if let MountSource::Filesystem { source, data, .. } = &mount.source {
            this.filesystem.source = source;
            this.filesystem.data = data;
            this.attributes = attributes(mount.flags).0;
        }
        this
    }

    /// For a plan that mounts nothing there.
    pub(crate) fn default_of(plan: &'a ContainerPlan, mappings: Option<&'a IdMappings>) -> Self {
        Self {
            filesystem: Filesystem {
                fs_type: "tmpfs",
                source: "tmpfs",
                data: &[],
            },
            attributes: MountAttrFlags::MOUNT_ATTR_NOSUID,
            devices: &plan.devices,
            mappings,
        }
    }

    /// A detached tmpfs with all of it.
    pub(crate) fn make(&self) -> Result<OwnedFd, Error> {
        let dev = self.filesystem.mount(
            self.attributes - MountAttrFlags::MOUNT_ATTR_RDONLY,
            "tmpfs on /dev",
        )?;
        // Modes are meant as they are written.
        let umask = rustix::process::umask(Mode::empty());
        let filled = self.fill(dev.as_fd());
        rustix::process::umask(umask);
        filled.map(|()| dev)
    }

    fn fill(&self, dev: BorrowedFd<'_>) -> Result<(), Error> {
        self.own(dev, 0, 0, "/dev")?;
        if self.filesystem.data.iter().all(|(key, _)| key != "mode") {
            // A detached mount's descriptor is an O_PATH one.
            let mode = Mode::from_bits_truncate(0o755);
            rustix::fs::chmodat(dev, ".", mode, AtFlags::empty()).at(Stage::Device, "/dev")?;
        }
        for (index, node) in self.devices.iter().enumerate() {
            if let Some(name) = below_dev(&node.path) {
                self.node(dev, name, node, index)?;
            }
        }
        for (name, major, minor) in DEFAULTS {
            let device = rustix::fs::makedev(major, minor);
            let mode = Mode::from_bits_truncate(0o666);
            match mknodat(dev, name, FileType::CharacterDevice, mode, device) {
                Ok(()) => {
                    if self.mappings.is_some() {
                        self.own(at(dev, name)?.as_fd(), 0, 0, name)?;
                    }
                }
                // The plan's own comes first.
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error).at(Stage::Device, format_args!("/dev/{name}")),
            }
        }
        for (name, target) in LINKS {
            match symlinkat(target, dev, name) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error).at(Stage::Device, format_args!("/dev/{name}")),
            }
        }
        Ok(())
    }

    fn node(
        &self,
        dev: BorrowedFd<'_>,
        name: &str,
        node: &DeviceNode,
        index: usize,
    ) -> Result<(), Error> {
        // Always the link into the container's own devpts.
        if name == "ptmx" {
            return Ok(());
        }
        if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
            let field = format!("devices[{index}].path");
            return Err(Error::refused(field, format!("{} is not plain", node.path)));
        }
        for (end, _) in name.match_indices('/') {
            match mkdirat(dev, &name[..end], Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error).at(Stage::Device, &node.path),
            }
        }
        make_node(dev, name, node).at(Stage::Device, &node.path)?;
        self.own(at(dev, name)?.as_fd(), node.uid, node.gid, &node.path)
    }

    /// Gives what is made to the container's ids.
    fn own(&self, what: BorrowedFd<'_>, uid: u32, gid: u32, name: &str) -> Result<(), Error> {
        let (uid, gid) = match self.mappings {
            None if (uid, gid) == (0, 0) => return Ok(()),
            None => (uid, gid),
            Some(mappings) => {
                let unmapped =
                    |id| Error::refused("devices", format!("id {id} of {name} is not mapped"));
                (
                    outside(&mappings.uids, uid).ok_or_else(|| unmapped(uid))?,
                    outside(&mappings.gids, gid).ok_or_else(|| unmapped(gid))?,
                )
            }
        };
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chownat(what, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
            .at(Stage::Device, name)
    }
}

/// In the child: nodes that the plan wants elsewhere than in `/dev`. Where `/dev` is a tree of the host's, its nodes are the host's, too.
pub(super) fn make_outside_dev(root: &Root<'_>, plan: &ContainerPlan) -> Result<(), Error> {
    for node in plan
        .devices
        .iter()
        .filter(|node| below_dev(&node.path).is_none() && !is_dev(&node.path))
    {
        let (parent, name) = node.path.rsplit_once('/').unwrap_or(("", &node.path));
        let parent = match parent {
            "" => "/",
            parent => parent,
        };
        let made = root
            .ensure(parent, Leaf::Directory, None)
            .and_then(|parent| {
                make_node(parent.as_fd(), name, node)?;
                let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
                rustix::fs::chownat(
                    &parent,
                    name,
                    Some(uid),
                    Some(gid),
                    AtFlags::SYMLINK_NOFOLLOW,
                )
            });
        made.at(Stage::Device, &node.path)?;
    }
    Ok(())
}

fn make_node(directory: BorrowedFd<'_>, name: &str, node: &DeviceNode) -> Result<(), Errno> {
    let kind = match node.node_type {
        NodeType::Char => FileType::CharacterDevice,
        NodeType::Block => FileType::BlockDevice,
        NodeType::Fifo => FileType::Fifo,
    };
    let device = match node.node_type {
        NodeType::Fifo => 0,
        NodeType::Char | NodeType::Block => rustix::fs::makedev(node.major, node.minor),
    };
    let mode = Mode::from_bits_truncate(node.mode & 0o7777);
    mknodat(directory, name, kind, mode, device)
}

fn below_dev(path: &str) -> Option<&str> {
    path.strip_prefix("/dev/")
}

fn at(directory: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::empty()).at(Stage::Device, format_args!("/dev/{name}"))
}
