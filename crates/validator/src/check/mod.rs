//! Whether a runtime does what the Container Runtime Interface says: cases of a few lines each, against any endpoint.
//!
//! A [`Case`] belongs to a suite and has a name. It makes what it needs by a scene, which removes it all again and finds the case wanting
//! where something stays. Images are made from a busybox and served by a registry of the run's own, so that no network is needed. [`run()`] runs
//! the chosen cases, several at a time where they allow it; a [`Report`] writes itself as text, JSON, JUnit, TestGrid's files and HTML.

mod bed;
mod calls;
mod case;
mod events;
mod report;
mod run;
mod scene;
mod suites;

use std::{path::PathBuf, time::Duration};

use cri::client::{ConnectError, Endpoint};

pub use case::{Case, cases};
pub use report::{CaseReport, Report, Verdict, html, json, junit, testgrid, text};
pub use run::{Told, run};

/// What is checked, and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the runtime listens.
    pub endpoint: Endpoint,
    /// Where its image service does.
    pub image_endpoint: Endpoint,
    /// Which cases; [`cases`] has all.
    pub cases: Vec<&'static Case>,
    /// How many at a time, of those that do not need the runtime to themselves.
    pub parallel: usize,
    /// How often all of them.
    pub rounds: u32,
    /// No further round, and no further case, once one has failed.
    pub until_failure: bool,
    /// How long a case may take; removing what it made has as long again.
    pub timeout: Duration,
    /// Makes the order; the same seed makes the same.
    pub seed: u64,
    /// What the runtime does not implement is a failure, in place of a case left out.
    pub strict: bool,
    /// The static busybox that images are made of; where there is none, the node's.
    pub busybox: Option<PathBuf>,
    /// Where logs and volumes are made, on the runtime's file system. Removed at the end.
    pub directory: PathBuf,
    /// RuntimeClass handler of every pod; empty for the runtime's own.
    pub handler: String,
    /// Cgroup parent of every pod, as the runtime's cgroup driver writes it; empty for the runtime's own.
    pub cgroup_parent: String,
    /// A shell command that kills the runtime at once, as a crash would.
    pub kill_command: Option<String>,
    /// A shell command that starts it again.
    pub restart_command: Option<String>,
    /// A directory on the file system of the runtime's storage, which may be filled to its last byte.
    pub fill_directory: Option<PathBuf>,
    /// Where the runtime looks for seccomp profiles of the node's.
    pub seccomp_directory: PathBuf,
    /// Where plugins of the Node Resource Interface connect.
    pub nri_socket: Option<PathBuf>,
}

/// Why a run has no verdict.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The endpoint is not there.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The runtime does not even do what every case begins with.
    #[error("{operation}: {:?}: {}", .status.code(), .status.message())]
    Rpc {
        /// What was asked.
        operation: String,
        /// The runtime's answer.
        status: Box<tonic::Status>,
    },
    /// There is nothing to make images of.
    #[error(transparent)]
    Busybox(#[from] registry::image::BusyboxError),
    /// Something of this side.
    #[error("{operation}")]
    Io {
        /// What was being done.
        operation: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}
