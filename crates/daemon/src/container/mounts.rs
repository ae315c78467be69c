//! Opening what a container binds from the node. A volume may hang (a dead NFS server), so each is opened on a thread of its own
//! with a deadline: only the container that asked for it waits.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{fs::CWD, mount::OpenTreeFlags};

use crate::runtime::{BlockingError, blocking};

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
    #[error("mounts: host_path {} hangs", path.display())]
    Hung {
        path: PathBuf,
        #[source]
        source: BlockingError,
    },
}

/// A detached clone of a host path, with every mount below it if `recursive`.
pub(super) async fn open(path: &Path, recursive: bool) -> Result<OwnedFd, MountError> {
    let owned = path.to_owned();
    let opened = blocking(VOLUME_WITHIN, move || {
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        if recursive {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
        rustix::mount::open_tree(CWD, &owned, flags)
    });
    match opened.await {
        Ok(Ok(tree)) => Ok(tree),
        Ok(Err(rustix::io::Errno::NOENT)) => Err(MountError::Missing(path.to_owned())),
        Ok(Err(source)) => Err(MountError::Open {
            path: path.to_owned(),
            source: source.into(),
        }),
        Err(source) => Err(MountError::Hung {
            path: path.to_owned(),
            source,
        }),
    }
}
