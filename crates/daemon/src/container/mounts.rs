//! What a container binds from the node.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use crate::{
    container::config::{Mount, MountPropagation},
    paths::{PathError, Paths},
    runtime::Runtime,
};

#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    #[error("mounts: host_path {} does not exist on the node: create it", .0.display())]
    Missing(PathBuf),
    #[error("mounts: host_path {} does not exist on the node, and cannot be made a directory", path.display())]
    Make {
        path: PathBuf,
        #[source]
        source: PathError,
    },
    #[error("mounts: host_path {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: PathError,
    },
    #[error(
        "mounts: host_path {path} is on the mount {mount}, which is {is}: propagation {asked} would carry nothing; make it shared with \
         mount --make-rshared {mount}"
    )]
    Propagation {
        path: String,
        mount: String,
        is: &'static str,
        asked: &'static str,
    },
    #[error("mounts: host_path {}: selinux_relabel: {} is the node's: no pod may have all of it for itself", path.display(), led.display())]
    RelabelNode { path: PathBuf, led: PathBuf },
    #[error("mounts: host_path {}: selinux_relabel", path.display())]
    Relabel {
        path: PathBuf,
        #[source]
        source: PathError,
    },
    #[error("mounts: look at the node's mounts")]
    Mountinfo(#[source] io::Error),
}

/// What to do about a host path that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WhenMissing {
    /// Make a directory of it, as the peers do: manifests rely on it.
    Make,
    Refuse,
}

/// Only what a request mounts is made, and of that not what the node's configuration excepts.
pub(super) fn when_missing(runtime: &Runtime, asked: &[Mount], path: &Path) -> WhenMissing {
    let asked = asked
        .iter()
        .any(|mount| Path::new(&mount.host_path) == path);
    let excepted = runtime.config.reject_missing_mounts.get();
    match asked && !excepted.iter().any(|one| one == path) {
        true => WhenMissing::Make,
        false => WhenMissing::Refuse,
    }
}

/// A detached clone of a host path, with every mount below it if `recursive`.
pub(super) async fn open(
    paths: &Paths,
    path: &Path,
    recursive: bool,
    missing: WhenMissing,
) -> Result<OwnedFd, MountError> {
    let opened = match paths.tree(path, recursive).await {
        Err(PathError::System(error))
            if error.kind() == io::ErrorKind::NotFound && missing == WhenMissing::Make =>
        {
            paths
                .directory(path)
                .await
                .map_err(|source| MountError::Make {
                    path: path.to_owned(),
                    source,
                })?;
            paths.tree(path, recursive).await
        }
        opened => opened,
    };
    opened.map_err(|source| refusal(path, source))
}

pub(super) fn refusal(path: &Path, source: PathError) -> MountError {
    let path = path.to_owned();
    match source {
        PathError::System(error) if error.kind() == io::ErrorKind::NotFound => {
            MountError::Missing(path)
        }
        source => MountError::Open { path, source },
    }
}

/// A mount that shall propagate must come from a mount that does (mount_namespaces(7)); a private one would carry nothing, in silence.
/// Reads the node's mounts only where one asks.
pub(super) async fn check_propagation(paths: &Paths, mounts: &[Mount]) -> Result<(), MountError> {
    let asks = |mount: &&Mount| mount.propagation != MountPropagation::Private;
    for mount in mounts.iter().filter(asks) {
        let path = Path::new(&mount.host_path);
        let led = paths.canonical(path).await;
        let led = led.map_err(|source| refusal(path, source))?;
        let table = std::fs::read_to_string("/proc/self/mountinfo");
        check_one(&table.map_err(MountError::Mountinfo)?, mount, &led)?;
    }
    Ok(())
}

/// `path` is where the mount's host path leads.
fn check_one(table: &str, mount: &Mount, path: &Path) -> Result<(), MountError> {
    let asked = match mount.propagation {
        MountPropagation::Private => return Ok(()),
        MountPropagation::HostToContainer => "HostToContainer",
        MountPropagation::Bidirectional => "Bidirectional",
    };
    let Some((point, shared, slave)) = mount_of(table, path) else {
        return Ok(()); // Opening it says what is wrong.
    };
    let carries = match mount.propagation {
        MountPropagation::Bidirectional => shared,
        MountPropagation::HostToContainer | MountPropagation::Private => shared || slave,
    };
    if carries {
        return Ok(());
    }
    Err(MountError::Propagation {
        path: mount.host_path.clone(),
        mount: point,
        is: if slave { "a slave" } else { "private" },
        asked,
    })
}

/// The mount that a path is on: its mount point, whether it is shared, whether it is a slave. The last of the longest wins, as it lies on
/// top.
fn mount_of(table: &str, path: &Path) -> Option<(String, bool, bool)> {
    let mut found: Option<(String, bool, bool)> = None;
    for line in table.lines() {
        let (head, _) = line.split_once(" - ")?;
        let mut fields = head.split(' ');
        let Some(point) = fields.nth(4) else { continue };
        // Spaces, tabs, newlines and backslashes are octal there.
        let point = ["\\040", "\\011", "\\012", "\\134"]
            .iter()
            .zip([" ", "\t", "\n", "\\"])
            .fold(point.to_owned(), |point, (octal, byte)| {
                point.replace(octal, byte)
            });
        let optional: Vec<&str> = fields.skip(1).collect();
        let longer = found
            .as_ref()
            .is_none_or(|(best, ..)| point.len() >= best.len());
        if longer && path.starts_with(&point) {
            let has = |kind: &str| optional.iter().any(|field| field.starts_with(kind));
            found = Some((point, has("shared:"), has("master:")));
        }
    }
    found
}

/// The pod's shared memory as a specification names it; the supervisor holds it, and the embedded core never opens this path.
pub(super) fn shm_path(pod: &crate::pod::Pod) -> PathBuf {
    if pod.config.namespaces().ipc {
        pod.directory.join("shm")
    } else {
        PathBuf::from("/dev/shm")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:5 / /mnt rw - tmpfs tmpfs rw
23 22 0:6 / /mnt/a\\040b rw master:1 - tmpfs tmpfs rw
";

    fn asks(path: &str, propagation: MountPropagation) -> Result<(), MountError> {
        check_one(
            TABLE,
            &Mount {
                host_path: path.to_owned(),
                propagation,
                ..Mount::default()
            },
            Path::new(path),
        )
    }

    #[test]
    fn what_would_carry_nothing_is_refused_with_its_mount() {
        use MountPropagation::{Bidirectional, HostToContainer, Private};
        asks("/var/lib/none", Bidirectional).unwrap();
        asks("/mnt/x", Private).unwrap();
        let error = asks("/mnt/x", HostToContainer).unwrap_err().to_string();
        assert!(
            error.contains("on the mount /mnt, which is private"),
            "{error}"
        );
        asks("/mnt/a b/c", HostToContainer).unwrap();
        let error = asks("/mnt/a b/c", Bidirectional).unwrap_err().to_string();
        assert!(error.contains("which is a slave"), "{error}");
    }
}
