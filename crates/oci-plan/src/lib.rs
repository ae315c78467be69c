//! The plan: what a pod process needs to know to make a container, and nothing else.
//!
//! The daemon translates CRI to an OCI runtime specification (which operators can read in the
//! verbose status, and which external OCI commands get as a file), and that to a [`ContainerPlan`]:
//! names resolved to numbers, host paths resolved to descriptors, the seccomp profile compiled. The
//! OCI core executes a plan without looking at the host's file system.
//!
//! Descriptors travel beside the plan; an [`FdSlot`] is an index into that list.
//!
//! Vocabulary is that of the OCI runtime specification 1.2 (<https://specs.opencontainers.org/runtime-spec/>).

mod alone;
mod mounts;
mod process;
mod resources;
#[cfg(feature = "spec")]
pub mod spec;

pub use alone::{Alone, ClockOffset, Habits, MemoryPolicy};
pub use mounts::{
    CONTEXT, DeviceNode, Mount, MountFlags, MountSource, NodeType, Propagation, Rootfs,
};
pub use process::{
    Capabilities, Labels, OomScoreAdj, Process, Rlimit, Seccomp, TerminalSize, User,
};
pub use resources::{BlockIoWeight, DeviceRule, FurtherLimit, HugepageLimit, Resources};

use serde::{Deserialize, Serialize};

/// Index of a descriptor in the list that accompanies a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdSlot(pub u16);

/// What makes one pod: the namespaces that its containers share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxPlan {
    pub id: String,
    /// Set in the pod's own UTS namespace; ignored when `namespaces.uts` is false.
    pub hostname: String,
    pub namespaces: PodNamespaces,
    /// The pod's user namespace, if it has one.
    pub user: Option<IdMappings>,
    /// `(dotted name, value)`, written inside the pod's namespaces.
    pub sysctls: Vec<(String, String)>,
    /// The pod's cgroup, relative to each hierarchy's root, created if missing. The supervisor removes it only if
    /// it created it.
    pub cgroup: String,
    pub resources: Resources,
    /// Size of the pod's shared `/dev/shm`, bytes; `None` where the pod uses the host's IPC namespace.
    pub shm_bytes: Option<u64>,
    /// SELinux label of that `/dev/shm`.
    pub shm_label: Option<String>,
}

/// Which namespaces the pod owns; the others are the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodNamespaces {
    pub net: bool,
    pub ipc: bool,
    pub uts: bool,
    /// One PID namespace for all containers, with an init of the supervisor's own.
    pub pid: bool,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerPlan {
    pub id: String,
    pub namespaces: Namespaces,
    /// Set only in a UTS namespace of the container's own.
    pub hostname: Option<String>,
    pub rootfs: Rootfs,
    /// In order; a later mount may sit on an earlier one.
    pub mounts: Vec<Mount>,
    /// Device nodes to make in `/dev`, beside the default ones of the runtime specification (null, zero, full, random, urandom, tty,
    /// console, ptmx, and the links fd, stdin, stdout, stderr, core), which are always made.
    pub devices: Vec<DeviceNode>,
    /// Absolute paths inside the container, hidden behind `/dev/null` or an empty read-only tmpfs.
    pub masked_paths: Vec<String>,
    /// Absolute paths inside the container, remounted read-only.
    pub readonly_paths: Vec<String>,
    /// `(dotted name, value)`, only for namespaces of the container's own.
    pub sysctls: Vec<(String, String)>,
    /// Relative to each hierarchy's root; must not exist yet.
    pub cgroup: String,
    pub resources: Resources,
    pub process: Process,
    /// Only of a plan that is executed where it was made.
    #[serde(skip)]
    pub alone: Alone,
}

/// Where each namespace of a container comes from. The mount namespace is always its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    pub pid: NamespaceSource,
    pub net: NamespaceSource,
    pub ipc: NamespaceSource,
    pub uts: NamespaceSource,
    pub user: NamespaceSource,
    pub cgroup: NamespaceSource,
    /// For `user: New`, and where they are known for `Fd`.
    pub mappings: Option<IdMappings>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceSource {
    /// The supervisor's own, that is the host's.
    Host,
    /// A new one for this container.
    New,
    /// The one that the pod's supervisor holds.
    Pod,
    /// That of another container of the pod, by id (CRI's `TARGET`).
    Container(String),
    /// A descriptor of a namespace.
    Fd(FdSlot),
}

/// `uid_map` and `gid_map` of a user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMappings {
    pub uids: Vec<IdMap>,
    pub gids: Vec<IdMap>,
}

/// `length` ids from `container_id` inside map to those from `host_id` outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    pub container_id: u32,
    pub host_id: u32,
    pub length: u32,
}
