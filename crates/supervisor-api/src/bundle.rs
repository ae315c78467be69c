//! What an external OCI runtime reads: the daemon writes it, and the supervisor runs the runtime where it is complete.
//!
//! ```text
//!  BUNDLES/ID/config.json       the specification, whose paths of this node are those below
//!            /rootfs            mount point of the root file system
//!            /mounts/INDEX      mount point of the source of `mounts[INDEX]`, a directory or a file
//!            /namespaces/NAME   a file, mount point of a namespace of the pod's or of another container: ipc, net, pid, user, uts
//!  POD/containers/ID/pid              written by the runtime
//!                   /exec-EXEC.json   the process of an exec
//! ```
//!
//! Nothing is mounted there as the host sees it. Each command of the runtime has a mount namespace of its own, a copy of the host's,
//! and there the supervisor moves the detached mounts of the plan to their places. Bundles are not in the pod's directory because root of a
//! user namespace has to reach them, and must not reach that.

use std::path::{Path, PathBuf};

/// Names in a container's bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle(PathBuf);

impl Bundle {
    /// Of a container, below the directory of all bundles.
    #[must_use]
    pub fn of(bundles: &Path, container: &str) -> Self {
        Self(bundles.join(container))
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.0.join("config.json")
    }

    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.0.join("rootfs")
    }

    /// `index` counts the mounts of the specification, which are those of the plan.
    #[must_use]
    pub fn mount(&self, index: usize) -> PathBuf {
        self.0.join("mounts").join(index.to_string())
    }

    /// `name` is the namespace's in `/proc/PID/ns`.
    #[must_use]
    pub fn namespace(&self, name: &str) -> PathBuf {
        self.0.join("namespaces").join(name)
    }
}

/// Where a runtime writes the pid of a container's init.
#[must_use]
pub fn pid_file(pod: &Path, container: &str) -> PathBuf {
    directory(pod, container).join("pid")
}

/// The process of an exec, as `process` of a specification.
#[must_use]
pub fn process_file(pod: &Path, container: &str, exec: &str) -> PathBuf {
    directory(pod, container).join(format!("exec-{exec}.json"))
}

fn directory(pod: &Path, container: &str) -> PathBuf {
    pod.join("containers").join(container)
}
