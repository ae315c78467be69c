//! What the daemon asks of a process that looks at a path of a user's, and may hang there.
//!
//! `longshore-pod --path` has a `SOCK_SEQPACKET` socket for its standard input, answers the one [`PathRequest`] that comes with one
//! [`PathAnswer`], and ends. Whoever waits for it may kill it at any time: it changes nothing but the log that it makes, and labels.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The argument that makes `longshore-pod` such a process.
pub const PATH_ARGUMENT: &str = "--path";

/// The argument that makes `longshore-pod` run the program that follows in a PID namespace of its own, and end as it does.
pub const ENCLOSED_ARGUMENT: &str = "--enclosed";

/// The argument that makes `longshore-pod` sleep until it gets SIGTERM: the process of a sandbox container.
pub const PAUSE_ARGUMENT: &str = "--pause";

/// Paths are absolute, and followed through links as the node sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathRequest {
    /// A detached clone of the mount at a path, with every mount below it if `recursive`; its file system has answered.
    Tree { path: PathBuf, recursive: bool },
    /// A descriptor that only names what is at a path (`O_PATH`).
    Name { path: PathBuf },
    /// A log, opened for appending; it and its directory are made where they are missing.
    Log { path: PathBuf },
    /// What is in a regular file of at most `most` bytes.
    Text { path: PathBuf, most: u64 },
    /// The device node at each path, or below the directory there.
    Nodes { paths: Vec<PathBuf> },
    /// A directory, made with those above where it is missing (`O_PATH`).
    Directory { path: PathBuf },
    /// Gives what is at a path, where no link may lead, and everything below it a label of SELinux. May take its time.
    Relabel { path: PathBuf, label: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathAnswer {
    /// The descriptor of the answer is it. `local`: the device number of its file system, if that one waits for no server.
    Opened { local: Option<u64> },
    /// For [`PathRequest::Text`].
    Text(Vec<u8>),
    /// For [`PathRequest::Nodes`]: for each path what is there.
    Nodes(Vec<Vec<DeviceNode>>),
    /// The number of the system's error.
    Failed(i32),
    /// For [`PathRequest::Text`]: no regular file, or too long.
    NotAText,
    /// For [`PathRequest::Nodes`].
    NoNodes { path: PathBuf, why: NoNodes },
    /// For [`PathRequest::Relabel`]: all of it has the label.
    Relabelled,
    /// For [`PathRequest::Relabel`]: where it failed, and the number of the system's error. What comes before has its new label.
    NotRelabelled { path: PathBuf, errno: i32 },
}

/// A device node of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Below the path of the request; empty for that path itself.
    pub below: String,
    pub block: bool,
    pub major: u32,
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// Why a path of a user's gives no device nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoNodes {
    /// The number of the system's error.
    Failed(i32),
    /// Neither a device node nor a directory.
    NotADevice,
    /// More than [`MOST_NODES`].
    TooMany,
    /// Deeper than [`DEEPEST_NODE`].
    TooDeep,
}

/// More nodes than any `/dev` was seen to have.
pub const MOST_NODES: usize = 8192;

/// Directories below directories that are followed.
pub const DEEPEST_NODE: usize = 8;
