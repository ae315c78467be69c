use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::ReferenceError;
use crate::registry::RegistryError;
use crate::signature::SignatureError;
use crate::unpack::LayerError;

/// Why an image could not be looked up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// The name is neither a reference nor an id.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// Several ids begin so.
    #[error("image id prefix {prefix:?} fits {count} images")]
    Ambiguous {
        /// The prefix.
        prefix: String,
        /// How many images it fits.
        count: usize,
    },
}

/// Why an image could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// The name names nothing that could exist.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The removal could not be recorded.
    #[error("cannot remove image {id}")]
    Store {
        /// The image.
        id: String,
        /// Why.
        #[source]
        source: StoreError,
    },
}

/// Why a pin could not be set or read.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// No such image (any more).
    #[error("cannot pin image {id} for container {container_id}: there is no such image")]
    UnknownImage {
        /// The image.
        id: String,
        /// The container.
        container_id: String,
    },
    /// The pin could not be recorded.
    #[error("cannot record that container {container_id} uses an image at {path}", path = .path.display())]
    Record {
        /// The container.
        container_id: String,
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
}

/// Why the store of images cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or directory.
    #[error("cannot {action} {path}", path = .path.display())]
    Path {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The metadata.
    #[error("cannot {action} the metadata")]
    Metadata {
        /// What was being done.
        action: &'static str,
        /// Why not.
        #[source]
        source: Box<redb::Error>,
    },
    /// A record that does not read back.
    #[error("the record of {subject} does not decode")]
    Record {
        /// Whose record.
        subject: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A task of ours was cut short.
    #[error("the task that was to {action} did not finish")]
    Task {
        /// What it was to do.
        action: &'static str,
        /// How it ended.
        #[source]
        source: tokio::task::JoinError,
    },
    /// The store is being closed, or a test has asked for a failure here.
    #[error("the store stops at {step}")]
    Stopped {
        /// The step.
        step: &'static str,
    },
}

impl StoreError {
    pub(crate) fn path(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Path {
            action,
            path,
            source,
        }
    }

    pub(crate) fn metadata<E: Into<redb::Error>>(action: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::Metadata {
            action,
            source: Box::new(error.into()),
        }
    }

    /// Whether the reason is a full disk.
    pub fn is_exhausted(&self) -> bool {
        match self {
            Self::Path { source, .. } => exhausted(source),
            Self::Metadata { source, .. } => {
                matches!(&**source, redb::Error::Io(error) if exhausted(error))
            }
            Self::Record { .. } | Self::Task { .. } | Self::Stopped { .. } => false,
        }
    }
}

pub(crate) fn exhausted(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::StorageFull
            | std::io::ErrorKind::QuotaExceeded
            | std::io::ErrorKind::OutOfMemory
    )
}

/// Why an image could not be pulled. Everybody who waited for the pull gets the same.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot pull {reference}")]
pub struct PullError {
    /// The image, as it was asked for.
    pub reference: String,
    /// Why.
    #[source]
    pub cause: Arc<PullCause>,
}

/// What a caller may do about a failed pull; each has its gRPC code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullErrorKind {
    /// The registry knows no such repository, tag, digest, or platform.
    NotFound,
    /// The registry wants credentials, or other ones.
    Unauthenticated,
    /// The registry knows who asks, and refuses.
    PermissionDenied,
    /// Not reachable, failing, or too slow: worth another try.
    Unavailable,
    /// The pull took longer than it may.
    DeadlineExceeded,
    /// No space left, a bound exceeded, or too many requests.
    ResourceExhausted,
    /// The reference, or the request, is wrong.
    InvalidArgument,
    /// What arrived is not what was promised.
    DataLoss,
    /// A kind of manifest or layer that is not for running containers.
    Unsupported,
    /// Nobody waited for it any more, or the store is being closed.
    Cancelled,
    /// Our own fault.
    Internal,
    /// The node's configuration of registries, credentials or signatures has a mistake.
    Misconfigured,
    /// The policy for signatures.
    Untrusted,
}

/// The stage at which a pull failed.
#[derive(Debug, thiserror::Error)]
pub enum PullCause {
    /// The name.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The credentials of the request.
    #[error("the request's credentials are malformed: {reason}")]
    Credentials {
        /// What is wrong; never what they are.
        reason: &'static str,
    },
    /// The node's configuration of registries and credentials.
    #[error("the configuration of registries has a mistake")]
    Configuration(#[from] crate::ConfigurationError),
    /// The conversation with the registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The manifest, index or configuration.
    #[error("{document} of {origin} {problem}")]
    Document {
        /// Such as `manifest sha256:…`.
        document: String,
        /// The registry and repository.
        origin: String,
        /// What is wrong with it.
        problem: DocumentProblem,
    },
    /// One layer.
    #[error("layer {digest} of {origin}")]
    Layer {
        /// The compressed layer's digest.
        digest: String,
        /// The registry and repository.
        origin: String,
        /// What went wrong.
        #[source]
        source: LayerError,
    },
    /// The policy for signatures.
    #[error(transparent)]
    Signature(SignatureError),
    /// The registry could not be asked for signatures that the policy wants.
    #[error("the policy for signatures wants one, which could not be looked for")]
    Unasked(#[source] RegistryError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The whole took too long.
    #[error("it was not complete after {seconds} s")]
    TimedOut {
        /// The bound.
        seconds: u64,
    },
    /// Nobody waited any more.
    #[error("nobody waited for it any more")]
    Abandoned,
}

/// What can be wrong with a manifest, an index or a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DocumentProblem {
    /// Its bytes have another digest than was asked for.
    Digest {
        /// The digest it has.
        found: String,
    },
    /// Its size differs from its descriptor's.
    Size {
        /// Bytes promised.
        expected: u64,
        /// Bytes that came.
        found: u64,
    },
    /// It does not parse, or misses what it must have.
    Malformed(String),
    /// It is of a kind that holds no container image.
    Kind(String),
    /// It has more layers than can be joined.
    Layers {
        /// How many it has.
        count: usize,
        /// How many can be joined.
        limit: usize,
    },
    /// An index has nothing for this platform.
    Platform {
        /// `linux/amd64`.
        wanted: String,
        /// What it has, bounded.
        offered: String,
    },
}

impl fmt::Display for DocumentProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest { found } => {
                write!(
                    formatter,
                    "has the digest {found} instead of the promised one"
                )
            }
            Self::Size { expected, found } => {
                write!(formatter, "has {found} bytes instead of {expected}")
            }
            Self::Malformed(reason) => write!(formatter, "is malformed: {reason}"),
            Self::Kind(reason) => write!(formatter, "is no container image: {reason}"),
            Self::Layers { count, limit } => write!(
                formatter,
                "has {count} layers, more than the {limit} that overlayfs can stack"
            ),
            Self::Platform { wanted, offered } => {
                write!(formatter, "has nothing for {wanted}, only for {offered}")
            }
        }
    }
}

impl PullError {
    /// What a caller may do about it.
    pub fn kind(&self) -> PullErrorKind {
        self.cause.kind()
    }
}

impl PullCause {
    /// What a caller may do about it.
    pub fn kind(&self) -> PullErrorKind {
        match self {
            Self::Reference(_) | Self::Credentials { .. } => PullErrorKind::InvalidArgument,
            Self::Configuration(_) => PullErrorKind::Misconfigured,
            Self::Registry(error) | Self::Unasked(error) => error.kind(),
            Self::Signature(SignatureError::Policy(_)) => PullErrorKind::Misconfigured,
            Self::Signature(SignatureError::Store(_)) => PullErrorKind::Internal,
            Self::Signature(
                SignatureError::Rejected { .. }
                | SignatureError::Missing { .. }
                | SignatureError::Refused { .. }
                | SignatureError::NotKept { .. },
            ) => PullErrorKind::Untrusted,
            Self::Document { problem, .. } => match problem {
                DocumentProblem::Digest { .. } | DocumentProblem::Size { .. } => {
                    PullErrorKind::DataLoss
                }
                DocumentProblem::Malformed(_) => PullErrorKind::DataLoss,
                DocumentProblem::Kind(_) | DocumentProblem::Layers { .. } => {
                    PullErrorKind::Unsupported
                }
                DocumentProblem::Platform { .. } => PullErrorKind::NotFound,
            },
            Self::Layer { source, .. } => source.kind(),
            Self::Store(StoreError::Stopped { .. }) => PullErrorKind::Cancelled,
            Self::Store(error) if error.is_exhausted() => PullErrorKind::ResourceExhausted,
            Self::Store(_) => PullErrorKind::Internal,
            Self::TimedOut { .. } => PullErrorKind::DeadlineExceeded,
            Self::Abandoned => PullErrorKind::Cancelled,
        }
    }
}

/// An error with its causes, on one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
