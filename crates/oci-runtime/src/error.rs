use std::fmt;

use rustix::io::Errno;

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
    /// The plan names a container that is not there.
    #[error("{field}: there is no container {id:?}")]
    NoSuchContainer { field: String, id: String },
    /// A step failed, in the caller or in the child.
    #[error("{stage} {subject}")]
    Step {
        stage: Stage,
        /// The path, name or number that the step was about.
        subject: String,
        #[source]
        source: Errno,
    },
    /// The child ended before it said why.
    #[error("the process ended while it was to {during}: {status}")]
    Died {
        during: &'static str,
        /// `exit status 1`, `signal 9`, …
        status: String,
    },
    /// The child sent what is not in the handshake's language.
    #[error("the process sent a handshake message of {0} bytes that makes no sense")]
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
    pub(crate) fn refused(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Refused {
            field: field.into(),
            reason: reason.into(),
        }
    }

    /// What a caller may do about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Refused { .. } => Kind::InvalidArgument,
            Self::NoSuchContainer { .. } => Kind::NotFound,
            Self::Step { stage, source, .. } => stage.kind(*source),
            Self::Died { .. } | Self::Handshake(_) => Kind::Internal,
        }
    }
}

/// Names the step that a system call's failure belongs to.
pub(crate) trait Context<T> {
    fn at(self, stage: Stage, subject: impl fmt::Display) -> Result<T, Error>;
}

impl<T> Context<T> for Result<T, Errno> {
    fn at(self, stage: Stage, subject: impl fmt::Display) -> Result<T, Error> {
        self.map_err(|source| Error::Step {
            stage,
            subject: subject.to_string(),
            source,
        })
    }
}

macro_rules! stages {
    ($($(#[$doc:meta])* $name:ident = $words:literal,)*) => {
        /// The step that failed, worded so that its subject follows.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Stage {
            $($(#[$doc])* $name,)*
        }

        impl Stage {
            const ALL: &'static [Self] = &[$(Self::$name),*];
        }

        impl fmt::Display for Stage {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$name => $words,)*
                })
            }
        }
    };
}

stages! {
    /// What the caller needs of the host.
    OpenHost = "open the host's",
    /// Something else that is made ready before there is a child.
    Prepare = "prepare",
    Clone = "clone the process",
    EnterCgroup = "enter the cgroup of hierarchy",
    JoinNamespace = "join the namespace",
    MakeNamespace = "make the namespace",
    MapIds = "write the mappings",
    Hostname = "set the host name",
    Sysctl = "write sysctl",
    AttachRoot = "attach the root file system",
    MountPoint = "make the mount point",
    Mount = "mount",
    Device = "make the device",
    Mask = "mask",
    ReadOnly = "make read-only",
    Pivot = "pivot to the root file system",
    Terminal = "open a terminal",
    Stdio = "set up",
    Limit = "set the resource limit",
    OomScore = "set the OOM score",
    Credentials = "set",
    Seccomp = "load the seccomp filter",
    MakeWorkingDirectory = "make the working directory",
    WorkingDirectory = "enter the working directory",
    Execute = "execute",
    Handshake = "talk to the process about",
    Label = "take the",
}

impl Stage {
    pub(crate) fn code(self) -> u8 {
        self as u8
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    fn kind(self, source: Errno) -> Kind {
        if [
            Errno::NOMEM,
            Errno::AGAIN,
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOSPC,
            Errno::DQUOT,
        ]
        .contains(&source)
        {
            return Kind::ResourceExhausted;
        }
        match self {
            Self::Execute => Kind::CannotExecute,
            // Their subjects come from the plan: a path that cannot be a mount point, a directory that is not there.
            Self::Hostname
            | Self::Sysctl
            | Self::MountPoint
            | Self::Mount
            | Self::Device
            | Self::Mask
            | Self::ReadOnly
            | Self::Limit
            | Self::MakeWorkingDirectory
            | Self::WorkingDirectory
            | Self::Seccomp => Kind::InvalidArgument,
            // The profile is not loaded, or the module is off.
            Self::Label => Kind::FailedPrecondition,
            // The container has just ended.
            Self::JoinNamespace if [Errno::SRCH, Errno::NOENT].contains(&source) => {
                Kind::FailedPrecondition
            }
            Self::OpenHost
            | Self::Prepare
            | Self::Clone
            | Self::EnterCgroup
            | Self::JoinNamespace
            | Self::MakeNamespace
            | Self::MapIds
            | Self::AttachRoot
            | Self::Pivot
            | Self::Terminal
            | Self::Stdio
            | Self::OomScore
            | Self::Credentials
            | Self::Handshake => Kind::Internal,
        }
    }
}
