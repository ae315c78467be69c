use std::io;

/// Why a container or an exec could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The plan asks for something that cannot be honoured.
    #[error("{field}: {reason}")]
    Refused {
        /// The plan's field, as in `process.capabilities.ambient`.
        field: String,
        reason: String,
    },
    /// A step failed, in the caller or in the child.
    #[error("{stage} {subject}")]
    Step {
        stage: Stage,
        /// The path, name or number that the step was about.
        subject: String,
        #[source]
        source: io::Error,
    },
    /// The child ended before it said that it was ready.
    #[error("the process ended during {stage}: {status}")]
    Died {
        /// What it was last known to do.
        stage: &'static str,
        /// `exit status 1`, `signal 9`, …
        status: String,
    },
    /// The child sent what is not in the handshake's language.
    #[error("the process answered the handshake with {0} bytes that make no sense")]
    Handshake(usize),
}

/// What a caller may do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The plan names a container that is not there.
    NotFound,
    /// The plan is wrong.
    InvalidArgument,
    /// The container's state does not allow it.
    FailedPrecondition,
    /// The program is missing, not executable, or not for this machine.
    CannotExecute,
    /// Out of memory, pids, descriptors or space.
    ResourceExhausted,
    /// Anything else.
    Internal,
}

impl Error {
    /// What a caller may do about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Refused { .. } => Kind::InvalidArgument,
            Self::Step { .. } | Self::Died { .. } | Self::Handshake(_) => Kind::Internal,
        }
    }
}

/// The step that failed, worded so that its subject follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Making the child.
    Clone,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Clone => "clone",
        })
    }
}
