//! Checkpoints: what runs in a container, written into an archive, by CRIU.
//!
//! ```text
//!  refused? ─▶ Freeze ─▶ criu dump ─▶ the writable layer's changes ─▶ Thaw ─▶ the archive ─▶ rename
//!                │ everything is read of a container that stands still: one cut      │
//!                └── any failure, the time is over, the daemon dies ──▶ Thaw ◀─────┘
//! ```
//!
//! A pod's checkpoint ([`pod`]) is the same of several containers, all of which are frozen before the first is written down, in a directory of
//! the client's instead of an archive.
//!
//! The archive is the one that the field knows: what CRI-O, containerd and podman write and `checkpointctl` shows. The processes
//! are the supervisor's affair (`supervisor/src/checkpoint.rs`), which lets them go on whatever becomes of the daemon; files are ours. What
//! CRIU writes lies in `ROOT/checkpoints/ID` meanwhile, swept when the daemon starts.

mod archive;
mod audit;
mod container;
mod criu;
mod journal;
mod layer;
mod manifest;
mod metadata;
mod mounts;
mod opened;
mod pod;
mod restore;
mod restore_pod;
mod work;

use std::{
    collections::BTreeSet,
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

pub(crate) use container::checkpoint;
pub(crate) use criu::CriuError;
pub(crate) use journal::settle;
pub(crate) use opened::OpenError;
pub(crate) use pod::{PodCheckpointError, checkpoint_pod};
pub(crate) use restore::{RestoreError, Restoring, forget, make};
pub(crate) use restore_pod::{PodRestore, PodRestoreError, restore_pod};

use crate::{
    flight::Crashed,
    id::ContainerId,
    runtime::{BlockingError, Runtime},
    state::RecordError,
    supervisor::CallError,
};

/// Why there is no checkpoint. The container goes on, and there is no archive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckpointError {
    #[error(
        "checkpoint container {id}: it is {state}; only a running container can be checkpointed"
    )]
    State {
        id: ContainerId,
        state: &'static str,
    },
    #[error("checkpoint container {id}: {why}")]
    Unsupported { id: ContainerId, why: String },
    #[error("checkpoint container {0}: another checkpoint of it is under way")]
    Busy(ContainerId),
    #[error("checkpoint container {0}")]
    Criu(ContainerId, #[source] CriuError),
    #[error("checkpoint container {id}: write {}", path.display())]
    Location {
        id: ContainerId,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("checkpoint container {id}: {action}")]
    Files {
        id: ContainerId,
        action: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("checkpoint container {0}: read its specification")]
    Record(ContainerId, #[source] RecordError),
    #[error("checkpoint container {0}: hold it still")]
    Freeze(ContainerId, #[source] CallError),
    #[error("checkpoint container {id}: criu dump failed: {said}")]
    Dump {
        id: ContainerId,
        /// The errors of its log, or how it ended where it wrote none.
        said: String,
    },
    #[error("checkpoint container {0}")]
    Supervisor(ContainerId, #[source] CallError),
    #[error("checkpoint container {id}: it was not done within {} s", bound.as_secs())]
    Late { id: ContainerId, bound: Duration },
    #[error("checkpoint container {0}")]
    Blocking(ContainerId, #[source] BlockingError),
    #[error(transparent)]
    Crashed(#[from] Crashed),
}

/// What is known of CRIU, and whose checkpoint is under way.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints {
    criu: criu::Known,
    restores: restore_pod::Flights,
    busy: Mutex<BTreeSet<ContainerId>>,
}

impl Checkpoints {
    /// `None`: another one is under way.
    fn begin<'a>(&'a self, id: &ContainerId) -> Option<Busy<'a>> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.insert(id.clone()).then(|| Busy {
            checkpoints: self,
            id: id.clone(),
        })
    }
}

/// A checkpoint that is under way.
#[derive(Debug)]
struct Busy<'a> {
    checkpoints: &'a Checkpoints,
    id: ContainerId,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut busy = self
            .checkpoints
            .busy
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        busy.remove(&self.id);
    }
}

/// Where the work of all checkpoints lies.
fn root(runtime: &Runtime) -> PathBuf {
    runtime.config.root.join("checkpoints")
}

/// Removes what a daemon that died has left here, and makes the directory of all that is to come; [`settle`] does the rest. Deleting needs no
/// room; whatever goes wrong shows itself where it matters.
pub(crate) fn sweep(root: &Path) {
    let directory = root.join("checkpoints");
    let swept = match std::fs::read_dir(&directory) {
        Ok(entries) => entries.flatten().try_for_each(|entry| {
            let path = entry.path();
            match path.is_dir() {
                true => std::fs::remove_dir_all(path),
                false if journal::is_journal(&path) => Ok(()),
                false => std::fs::remove_file(path),
            }
        }),
        Err(_never_made) => DirBuilder::new().mode(0o700).create(&directory),
    };
    if let Err(error) = swept {
        tracing::warn!(%error, directory = %directory.display(), "unfinished checkpoints stay on the disk");
    }
}
