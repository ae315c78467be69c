use serde::{Deserialize, Serialize};

use crate::{FdSlot, IdMappings};

/// The parameter of a file system that is the SELinux label of all its files (`mount(8)`).
pub const CONTEXT: &str = "context";

/// The container's root file system: a detached mount (`fsmount(2)` or `open_tree(2)`) whose root becomes `/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rootfs {
    pub mount: FdSlot,
    pub readonly: bool,
    /// Propagation of `/` inside the container; `Private` unless a mount asks for more.
    pub propagation: Propagation,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path inside the container, resolved with RESOLVE_IN_ROOT and created if missing.
    pub target: String,
    pub source: MountSource,
    pub flags: MountFlags,
    /// `None` leaves what the source has.
    pub propagation: Option<Propagation>,
    /// Ids of this mount are mapped (`mount_setattr(2)`, MOUNT_ATTR_IDMAP).
    pub idmap: Option<IdMappings>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A file system instance made inside the container's namespaces, as by `fsopen(2)`:
    /// proc, sysfs, tmpfs, mqueue, devpts. `data` are its own parameters (`size`, `mode`, …).
    Filesystem {
        fs_type: String,
        source: String,
        data: Vec<(String, Option<String>)>,
    },
    /// A detached tree (`open_tree(2)` with OPEN_TREE_CLONE) of a host path, whole or one file.
    Tree(FdSlot),
    /// The pod's shared `/dev/shm`, which the supervisor holds.
    PodShm,
    /// The container's view of its cgroups: cgroup2, or a tmpfs with the v1 hierarchies.
    Cgroup,
}

/// Mount attributes (`mount_setattr(2)`); `false` leaves what the source has: no restriction of the host's is lifted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountFlags {
    pub readonly: bool,
    /// The read-only attribute covers every mount below as well (CRI's `recursive_read_only`).
    pub recursive_readonly: bool,
    pub nosuid: bool,
    pub nodev: bool,
    pub noexec: bool,
    pub noatime: bool,
    pub nodiratime: bool,
    pub relatime: bool,
    pub strictatime: bool,
    pub nosymfollow: bool,
}

/// Mount propagation, recursive over the mounts below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    Private,
    Slave,
    Shared,
    Unbindable,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Absolute path inside the container.
    pub path: String,
    pub node_type: NodeType,
    pub major: u32,
    pub minor: u32,
    /// Permission bits, such as `0o666`.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeType {
    Char,
    Block,
    Fifo,
}
