use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;

use crate::path::PathError;

/// Why the machine's hierarchies could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("read /proc/self/mountinfo")]
    Mountinfo(#[source] io::Error),
    #[error("no cgroup hierarchy is mounted at or below {0}")]
    NoHierarchy(PathBuf),
    #[error("more than one cgroup v2 root given: {0} and {1}")]
    TwoUnified(PathBuf, PathBuf),
    #[error("open the cgroup hierarchy at {path}")]
    Root {
        path: PathBuf,
        #[source]
        source: Errno,
    },
    #[error("read {path}/cgroup.controllers")]
    Controllers {
        path: PathBuf,
        #[source]
        source: Errno,
    },
}

/// Why something could not be done with a cgroup. `file` and `cgroup` are `HIERARCHY:/PATH`, where `unified` is the v2 tree.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("cgroup {cgroup} exists already")]
    Exists { cgroup: String },
    #[error("cgroup {path} does not exist")]
    NotFound { path: String },
    #[error("create cgroup {cgroup}")]
    Create {
        cgroup: String,
        #[source]
        source: Errno,
    },
    #[error("open cgroup {cgroup}")]
    Open {
        cgroup: String,
        #[source]
        source: Errno,
    },
    #[error("remove cgroup {cgroup}")]
    Remove {
        cgroup: String,
        #[source]
        source: Errno,
    },
    #[error("remove cgroup {cgroup}: still in use after {waited:?}")]
    InUse { cgroup: String, waited: Duration },
    #[error("read {file}")]
    Read {
        file: String,
        #[source]
        source: Errno,
    },
    #[error("read {file}: {text:?} is not what this file should hold")]
    Parse { file: String, text: String },
    #[error("write {value:?} to {file}")]
    Write {
        file: String,
        value: String,
        #[source]
        source: Errno,
    },
    /// A limit that this machine cannot honour.
    #[error("{field} = {value}: {reason}")]
    Unsupported {
        field: &'static str,
        value: String,
        reason: String,
    },
    /// A limit that no machine could honour.
    #[error("{field} = {value} is not valid: {reason}")]
    Invalid {
        field: &'static str,
        value: String,
        reason: &'static str,
    },
    /// A limit that would have the kernel kill what runs, or that it refuses for the same reason.
    #[error(
        "memory_limit_bytes = {limit}: cgroup {cgroup} uses {usage} bytes that the kernel cannot take back; lower its use first"
    )]
    BelowUsage {
        cgroup: String,
        limit: u64,
        usage: u64,
    },
    #[error("limit the devices of cgroup {cgroup}")]
    DeviceProgram {
        cgroup: String,
        #[source]
        source: sys::LoadError,
    },
    #[error("{what} of cgroup {cgroup}")]
    Devices {
        /// `attach the device program`
        what: &'static str,
        cgroup: String,
        #[source]
        source: Errno,
    },
    #[error("{what} cgroup {path}: not done after {waited:?}")]
    Timeout {
        what: &'static str,
        path: String,
        waited: Duration,
    },
    #[error("signal process {pid} of cgroup {path}")]
    Signal {
        path: String,
        pid: i32,
        #[source]
        source: Errno,
    },
    #[error("cgroup {path}: no mounted hierarchy can {what}")]
    NoTracking { path: String, what: &'static str },
}

impl Error {
    /// The kernel's answer, where the failure is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Create { source, .. }
            | Error::Open { source, .. }
            | Error::Remove { source, .. }
            | Error::Read { source, .. }
            | Error::Write { source, .. }
            | Error::Devices { source, .. }
            | Error::Signal { source, .. } => Some(*source),
            Error::DeviceProgram { source, .. } => Some(source.source),
            Error::Path(_)
            | Error::Exists { .. }
            | Error::NotFound { .. }
            | Error::InUse { .. }
            | Error::Parse { .. }
            | Error::Unsupported { .. }
            | Error::Invalid { .. }
            | Error::BelowUsage { .. }
            | Error::Timeout { .. }
            | Error::NoTracking { .. } => None,
        }
    }
}
