use http::StatusCode;

use crate::PullErrorKind;

/// Why a registry did not give what it was asked for.
#[derive(Debug, thiserror::Error)]
#[error("{request} of {repository} at {host}{}", before(tried))]
pub struct RegistryError {
    /// Scheme, host and port.
    pub host: String,
    /// The repository there.
    pub repository: String,
    /// What was tried: `GET manifest 1.36`.
    pub request: String,
    /// What came of it at the hosts that were asked before, in order.
    pub tried: Vec<Tried>,
    /// What came of it.
    #[source]
    pub failure: RegistryFailure,
}

/// A host that did not give what it was asked for, after which another was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// Scheme, host and port.
    pub host: String,
    /// What came of it, with its causes.
    pub outcome: String,
}

fn before(tried: &[Tried]) -> String {
    let mut text = String::new();
    for Tried { host, outcome } in tried {
        text.push_str(if text.is_empty() { " (before: " } else { "; " });
        text.push_str(&format!("{host}: {outcome}"));
    }
    if !text.is_empty() {
        text.push(')');
    }
    text
}

/// What came of a request.
#[derive(Debug, thiserror::Error)]
pub enum RegistryFailure {
    /// An answer that says no.
    #[error("the server answered {status}{said}")]
    Status {
        /// The status.
        status: StatusCode,
        /// The server's words, at most 1 KiB, after `: `; or empty.
        said: String,
    },
    /// The server wants credentials, and those there are (if any) did not do.
    #[error("the server wants other credentials than {given}{said}")]
    Unauthenticated {
        /// The kind of what was given and where it is from, or `none` and why; never what they are.
        given: String,
        /// The server's words, at most 1 KiB, after `: `; or empty.
        said: String,
    },
    /// The server's demand for credentials cannot be met.
    #[error("the server's demand for credentials cannot be met: {reason}")]
    Challenge {
        /// Why.
        reason: String,
    },
    /// No connection, or one that broke.
    #[error("the connection failed")]
    Transport(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The server kept us waiting.
    #[error("{what} took longer than {seconds} s")]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// The bound.
        seconds: u64,
    },
    /// Less than the minimum rate.
    #[error("the body came at {found} bytes a second, less than the {least} that are required")]
    TooSlow {
        /// The rate.
        found: u64,
        /// The bound.
        least: u64,
    },
    /// A mirror's answer to a digest has another one.
    #[error("what it sent has the digest {found}")]
    Digest {
        /// The digest.
        found: String,
    },
    /// No host is configured to be asked this.
    #[error("hosts.toml has no host with the capability {capability:?}")]
    Incapable {
        /// Such as `resolve`.
        capability: &'static str,
    },
    /// More than was promised or than is allowed.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// The bound.
        limit: u64,
    },
    /// The body ended early.
    #[error("the body ended after {found} of {expected} bytes")]
    Truncated {
        /// Bytes that came.
        found: u64,
        /// Bytes promised.
        expected: u64,
    },
    /// The server announces another size than the manifest does.
    #[error("the body would have {found} bytes instead of {expected}")]
    Mismatch {
        /// Bytes announced.
        found: u64,
        /// Bytes promised by the manifest.
        expected: u64,
    },
    /// A redirect that is not followed.
    #[error("the redirect is not followed: {reason}")]
    Redirect {
        /// Why.
        reason: String,
    },
    /// The system's certificates could not be read, or the address is none.
    #[error("the request could not be made: {reason}")]
    Request {
        /// Why.
        reason: String,
    },
}

impl RegistryError {
    /// What a caller may do about it.
    pub fn kind(&self) -> PullErrorKind {
        match &self.failure {
            RegistryFailure::Status { status, .. } => match *status {
                StatusCode::NOT_FOUND | StatusCode::GONE => PullErrorKind::NotFound,
                StatusCode::UNAUTHORIZED => PullErrorKind::Unauthenticated,
                StatusCode::FORBIDDEN => PullErrorKind::PermissionDenied,
                StatusCode::TOO_MANY_REQUESTS => PullErrorKind::ResourceExhausted,
                status if status.is_client_error() => PullErrorKind::InvalidArgument,
                _ => PullErrorKind::Unavailable,
            },
            RegistryFailure::Unauthenticated { .. } | RegistryFailure::Challenge { .. } => {
                PullErrorKind::Unauthenticated
            }
            RegistryFailure::Transport(_)
            | RegistryFailure::TimedOut { .. }
            | RegistryFailure::TooSlow { .. }
            | RegistryFailure::Redirect { .. } => PullErrorKind::Unavailable,
            RegistryFailure::Incapable { .. } => PullErrorKind::Misconfigured,
            RegistryFailure::TooLarge { .. }
            | RegistryFailure::Digest { .. }
            | RegistryFailure::Truncated { .. }
            | RegistryFailure::Mismatch { .. } => PullErrorKind::DataLoss,
            RegistryFailure::Request { .. } => PullErrorKind::InvalidArgument,
        }
    }
}

impl RegistryFailure {
    /// Whether the same request may succeed later.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Status { status, .. } => {
                status.is_server_error()
                    || *status == StatusCode::TOO_MANY_REQUESTS
                    || *status == StatusCode::REQUEST_TIMEOUT
            }
            Self::Transport(_)
            | Self::TimedOut { .. }
            | Self::TooSlow { .. }
            | Self::Truncated { .. } => true,
            Self::Unauthenticated { .. }
            | Self::Challenge { .. }
            | Self::TooLarge { .. }
            | Self::Digest { .. }
            | Self::Incapable { .. }
            | Self::Mismatch { .. }
            | Self::Redirect { .. }
            | Self::Request { .. } => false,
        }
    }

    /// No connection could be had.
    pub(super) fn is_unreachable(&self) -> bool {
        match self {
            Self::Transport(error) => error
                .downcast_ref::<hyper_util::client::legacy::Error>()
                .is_some_and(hyper_util::client::legacy::Error::is_connect),
            _ => false,
        }
    }

    /// Whether it tells of what was asked for, not of the host: the host may well have other things.
    pub(super) fn is_of_the_object(&self) -> bool {
        match self {
            Self::Status { status, .. } => {
                *status == StatusCode::NOT_FOUND || *status == StatusCode::GONE
            }
            Self::Digest { .. }
            | Self::TooLarge { .. }
            | Self::Truncated { .. }
            | Self::Mismatch { .. } => true,
            Self::Unauthenticated { .. }
            | Self::Challenge { .. }
            | Self::Transport(_)
            | Self::TimedOut { .. }
            | Self::TooSlow { .. }
            | Self::Redirect { .. }
            | Self::Incapable { .. }
            | Self::Request { .. } => false,
        }
    }
}
