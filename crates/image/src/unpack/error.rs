use std::io;

use crate::registry::RegistryError;
use crate::{PullErrorKind, StoreError};

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// It did not arrive.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Its compressed bytes are not those that the manifest promises.
    #[error("its bytes have the digest {found}")]
    Digest {
        /// The digest they have.
        found: String,
    },
    /// Its unpacked bytes are not those that the configuration promises.
    #[error("its archive has the diffID {found} instead of {expected}")]
    DiffId {
        /// The digest of the archive.
        found: String,
        /// The digest in the configuration.
        expected: String,
    },
    /// It does not decompress.
    #[error("its {compression} stream is damaged")]
    Decompress {
        /// `gzip`, `zstd` or `plain`.
        compression: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no archive.
    #[error("its archive is damaged")]
    Archive(#[source] io::Error),
    /// An entry that has no place in a layer.
    #[error("entry {path:?} of its archive {reason}")]
    Entry {
        /// The entry, bounded.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An entry could not be made on disk.
    #[error("cannot {action} for entry {path:?} of its archive")]
    Extract {
        /// What was being done.
        action: &'static str,
        /// The entry, bounded.
        path: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It unpacks to more than it may.
    #[error("it unpacks to more than {limit} bytes")]
    TooLarge {
        /// The bound.
        limit: u64,
    },
    /// The layers below could not be looked at.
    #[error("cannot look at the layers below it")]
    Below(#[source] snapshot::MountError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No thread could be had.
    #[error("cannot start a thread to unpack it")]
    Thread {
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A stage before has failed, and says why.
    #[error("its pipeline was cut short")]
    Cut,
    /// The layer's kind.
    #[error("it is {media_type}, which cannot be unpacked")]
    Kind {
        /// The media type.
        media_type: String,
    },
}

impl LayerError {
    /// Whether another server's bytes may do better: these are not those of the digest, or did not get so far as to show it.
    pub(crate) fn is_of_bytes(&self) -> bool {
        match self {
            Self::Digest { .. } | Self::Decompress { .. } | Self::Archive(_) => true,
            Self::Registry(_)
            | Self::DiffId { .. }
            | Self::Entry { .. }
            | Self::Extract { .. }
            | Self::TooLarge { .. }
            | Self::Below(_)
            | Self::Store(_)
            | Self::Thread { .. }
            | Self::Cut
            | Self::Kind { .. } => false,
        }
    }

    /// What a caller may do about it.
    pub fn kind(&self) -> PullErrorKind {
        match self {
            Self::Registry(error) => error.kind(),
            Self::Digest { .. }
            | Self::DiffId { .. }
            | Self::Decompress { .. }
            | Self::Archive(_)
            | Self::Entry { .. } => PullErrorKind::DataLoss,
            Self::Extract { source, .. } if crate::error::exhausted(source) => {
                PullErrorKind::ResourceExhausted
            }
            // A name that the file system cannot hold.
            Self::Extract { source, .. }
                if matches!(
                    source.kind(),
                    io::ErrorKind::InvalidFilename | io::ErrorKind::InvalidInput
                ) =>
            {
                PullErrorKind::DataLoss
            }
            Self::Extract { .. } | Self::Cut => PullErrorKind::Internal,
            Self::TooLarge { .. } | Self::Thread { .. } => PullErrorKind::ResourceExhausted,
            Self::Below(error) if error.is_exhausted() => PullErrorKind::ResourceExhausted,
            Self::Below(_) => PullErrorKind::Internal,
            Self::Store(StoreError::Stopped { .. }) => PullErrorKind::Cancelled,
            Self::Store(error) if error.is_exhausted() => PullErrorKind::ResourceExhausted,
            Self::Store(_) => PullErrorKind::Internal,
            Self::Kind { .. } => PullErrorKind::Unsupported,
        }
    }
}
