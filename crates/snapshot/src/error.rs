use std::path::PathBuf;

use rustix::io::Errno;

use crate::NoLimits;

/// Why the store of layers and containers could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A directory of the layout could not be made or read.
    #[error("cannot use {path} as the root of layers and containers", path = .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// Others could change layers of another store.
    #[error("{path} does not belong to root, or others may write there", path = .path.display())]
    Writable {
        /// Where the layers are.
        path: PathBuf,
    },
    /// The kernel mounts no overlay there.
    #[error(
        "overlayfs does not work on {path}: is the module loaded, and is the file system ext4, xfs, btrfs or tmpfs?",
        path = .path.display()
    )]
    Overlay {
        /// The root.
        path: PathBuf,
        /// How the trial mount failed.
        #[source]
        source: MountError,
    },
}

/// Why an operation on one container's directories failed.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// The id cannot be a directory's name.
    #[error("container id {id:?} cannot name a directory")]
    Id {
        /// The refused id.
        id: String,
    },
    /// Its writable layer was to be limited.
    #[error("the writable layer of container {id} cannot be limited")]
    NoLimits {
        /// The container.
        id: String,
        /// Why.
        #[source]
        source: NoLimits,
    },
    /// A layer is not on disk.
    #[error("layer {key} of container {id} is missing")]
    MissingLayer {
        /// The container.
        id: String,
        /// The layer's key.
        key: String,
    },
    /// A system call failed.
    #[error("cannot {action} of container {id} at {path}", path = .path.display())]
    System {
        /// What was being done.
        action: &'static str,
        /// The container.
        id: String,
        /// To which path.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// The root file system could not be mounted.
    #[error("cannot mount the root file system of container {id}")]
    Mount {
        /// The container.
        id: String,
        /// Why.
        #[source]
        source: MountError,
    },
}

/// Why an overlay could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A volume's sub path leads to no directory.
    #[error("no directory {path:?} is in the image")]
    SubPath {
        /// As given.
        path: String,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// A system call failed.
    #[error("{call} failed for {subject}")]
    System {
        /// The system call.
        call: &'static str,
        /// What it was asked to do.
        subject: String,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// The kernel refused the file system, and said why in the context's log.
    #[error("the kernel refused the overlay: {said}")]
    Refused {
        /// The kernel's own words, or an empty text.
        said: String,
        /// Its error.
        #[source]
        source: Errno,
    },
    /// The kernel maps no owners of layers: before Linux 5.19 for no overlay, and later not on each file system.
    #[error(
        "the kernel shows no layers through a user namespace here: that takes Linux 5.19, and a file system whose owners it maps"
    )]
    Unmapped(#[source] Box<MountError>),
    /// The thread with the private mount namespace could not be run.
    #[error("cannot run a thread with a mount namespace of its own")]
    Thread(#[source] std::io::Error),
    /// Overlay takes at most 500 lower layers.
    #[error("{count} layers are more than the {limit} that overlayfs can stack")]
    TooManyLayers {
        /// How many were asked for.
        count: usize,
        /// How many it takes.
        limit: usize,
    },
}

impl MountError {
    pub(crate) fn system(
        call: &'static str,
        subject: impl Into<String>,
    ) -> impl FnOnce(Errno) -> Self {
        let subject = subject.into();
        move |source| Self::System {
            call,
            subject,
            source,
        }
    }

    /// The kernel knows what is asked for, and does not do it.
    pub(crate) fn is_invalid(&self) -> bool {
        match self {
            Self::System { source, .. } | Self::Refused { source, .. } => *source == Errno::INVAL,
            Self::Thread(_)
            | Self::TooManyLayers { .. }
            | Self::SubPath { .. }
            | Self::Unmapped(_) => false,
        }
    }

    /// Whether the reason is that there is no space, no inode or no memory left.
    pub fn is_exhausted(&self) -> bool {
        match self {
            Self::System { source, .. } | Self::Refused { source, .. } => exhausted(*source),
            Self::Thread(_) => true,
            Self::TooManyLayers { .. } | Self::SubPath { .. } | Self::Unmapped(_) => false,
        }
    }
}

impl ContainerError {
    /// Whether the reason is that there is no space, no inode or no memory left.
    pub fn is_exhausted(&self) -> bool {
        match self {
            Self::Id { .. } | Self::MissingLayer { .. } | Self::NoLimits { .. } => false,
            Self::System { source, .. } => exhausted(*source),
            Self::Mount { source, .. } => source.is_exhausted(),
        }
    }
}

fn exhausted(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NOSPC | Errno::DQUOT | Errno::NOMEM | Errno::MFILE | Errno::NFILE
    )
}
