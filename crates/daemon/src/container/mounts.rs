//! Opening what a container binds from the node. A volume may hang (a dead NFS server), so each is opened on a thread of its own
//! with a deadline: only the container that asked for it waits.

use std::{
    collections::HashSet,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::{fs::CWD, mount::OpenTreeFlags};

use crate::{
    container::config::{Mount, MountPropagation},
    runtime::Runtime,
};

/// A volume that does not answer in this time is reported, and the kubelet tries again.
const VOLUME_WITHIN: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    #[error(
        "mounts: host_path {} does not exist on the node: create it, or let the kubelet do so (hostPath type DirectoryOrCreate)",
        .0.display()
    )]
    Missing(PathBuf),
    #[error("mounts: host_path {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
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
    #[error("mounts: look at the node's mounts")]
    Mountinfo(#[source] io::Error),
    #[error("mounts: host_path {} hangs: its file system did not answer within {} s", .0.display(), VOLUME_WITHIN.as_secs())]
    Hung(PathBuf),
    #[error("mounts: host_path {} hangs, and has since an earlier request", .0.display())]
    StillHung(PathBuf),
}

/// Paths of the node whose opening hangs. A request for one of them fails at once: retries of a kubelet must not add a stuck thread each.
#[derive(Debug, Default)]
pub(crate) struct HungPaths {
    paths: Arc<Mutex<HashSet<PathBuf>>>,
}

impl HungPaths {
    fn lock(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A detached clone of a host path, with every mount below it if `recursive`.
pub(super) async fn open(
    runtime: &Runtime,
    path: &Path,
    recursive: bool,
) -> Result<OwnedFd, MountError> {
    if runtime.hung_paths.lock().contains(path) {
        return Err(MountError::StillHung(path.to_owned()));
    }
    let owned = path.to_owned();
    let mut opening = tokio::task::spawn_blocking(move || {
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        if recursive {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
        rustix::mount::open_tree(CWD, &owned, flags)
    });
    match tokio::time::timeout(VOLUME_WITHIN, &mut opening).await {
        Ok(Ok(Ok(tree))) => Ok(tree),
        Ok(Ok(Err(rustix::io::Errno::NOENT))) => Err(MountError::Missing(path.to_owned())),
        Ok(Ok(Err(source))) => Err(MountError::Open {
            path: path.to_owned(),
            source: source.into(),
        }),
        Ok(Err(panicked)) => Err(MountError::Open {
            path: path.to_owned(),
            source: io::Error::other(panicked),
        }),
        Err(_elapsed) => {
            runtime.hung_paths.lock().insert(path.to_owned());
            let (hung, path_again) = (Arc::clone(&runtime.hung_paths.paths), path.to_owned());
            tokio::spawn(async move {
                // However it ends, the path answers again.
                let _opened_or_panicked = opening.await;
                hung.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(&path_again);
            });
            Err(MountError::Hung(path.to_owned()))
        }
    }
}

/// A mount that shall propagate must come from a mount that does (mount_namespaces(7)); a private one would carry nothing, in silence.
/// Reads the node's mounts only where one asks.
pub(super) fn check_propagation(mounts: &[Mount]) -> Result<(), MountError> {
    if mounts
        .iter()
        .all(|mount| mount.propagation == MountPropagation::Private)
    {
        return Ok(());
    }
    let table = std::fs::read_to_string("/proc/self/mountinfo").map_err(MountError::Mountinfo)?;
    mounts.iter().try_for_each(|mount| check_one(&table, mount))
}

fn check_one(table: &str, mount: &Mount) -> Result<(), MountError> {
    let asked = match mount.propagation {
        MountPropagation::Private => return Ok(()),
        MountPropagation::HostToContainer => "HostToContainer",
        MountPropagation::Bidirectional => "Bidirectional",
    };
    let path = Path::new(&mount.host_path);
    // The kernel resolves links; so does this, where it can.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let Some((point, shared, slave)) = mount_of(table, &path) else {
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
