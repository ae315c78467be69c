use std::io::{self, Write};

use tonic::{Code, Status};

/// What a command can end with. The text names the operation and the thing; causes follow as sources.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Connect(#[from] cri::client::ConnectError),
    #[error("{what} endpoint")]
    Endpoint {
        what: &'static str,
        #[source]
        source: cri::client::EndpointError,
    },
    #[error("{operation}: {}", status_text(.status))]
    Rpc {
        operation: String,
        status: Box<Status>,
    },
    /// A file, or a field in it, that cannot be honoured.
    #[error("{0}")]
    Input(String),
    /// Something the user asked for that is not there, or not unique.
    #[error("{0}")]
    Refused(String),
    /// What to act on was not named.
    #[error("{0}")]
    Missing(String),
    /// The filters that were to find what to act on find nothing.
    #[error("{0}")]
    NoMatch(String),
    /// Wrong flags or arguments, beyond what the parser sees.
    #[error("{0}")]
    Usage(String),
    #[error("{what}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Bench(validator::bench::BenchError),
    #[error(transparent)]
    Check(validator::check::CheckError),
    #[error(transparent)]
    Copy(copy::Error),
    #[error("{operation}")]
    Streaming {
        operation: String,
        #[source]
        source: Box<streaming::client::ClientError>,
    },
    #[error("write to stdout")]
    Output(#[source] io::Error),
    /// Each failure has been reported already.
    #[error("some operations failed")]
    Reported,
    /// The exit code of a command that ran in a container.
    #[error("exit code {0}")]
    Exit(u8),
}

/// Writing to an [`Output`](crate::output::Output) is the only place where a bare io error appears.
impl From<io::Error> for Error {
    fn from(source: io::Error) -> Self {
        Self::Output(source)
    }
}

impl Error {
    pub(crate) fn rpc(operation: impl Into<String>, status: Status) -> Self {
        Self::Rpc {
            operation: operation.into(),
            status: Box::new(status),
        }
    }

    /// Of a service that only Longshore has.
    pub(crate) fn own_rpc(operation: impl Into<String>, status: Status) -> Self {
        let operation = operation.into();
        match status.code() {
            Code::Unimplemented => Self::Refused(format!(
                "{operation}: this runtime cannot; it takes a longshored of this version ({})",
                status_text(&status)
            )),
            _ => Self::rpc(operation, status),
        }
    }

    pub(crate) fn not_found(&self) -> bool {
        matches!(self, Self::Rpc { status, .. } if status.code() == Code::NotFound)
    }

    /// There is nothing to act on: crictl shows the command's help then.
    pub(crate) fn names_nothing(&self) -> bool {
        matches!(self, Self::Missing(_) | Self::NoMatch(_))
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Missing(_) => 2,
            Self::Exit(code) => *code,
            // `longshore ps | head -1` has done what was asked.
            Self::Output(source) if source.kind() == io::ErrorKind::BrokenPipe => 0,
            _ => 1,
        }
    }

    /// Nothing is left to say.
    pub(crate) fn is_quiet(&self) -> bool {
        match self {
            Self::Reported | Self::Exit(_) => true,
            Self::Output(source) => source.kind() == io::ErrorKind::BrokenPipe,
            _ => false,
        }
    }
}

/// One line on stderr: the program, the error, its causes.
pub(crate) fn report(program: &str, error: &Error) {
    let mut line = format!("{program}: {error}");
    let mut cause = std::error::Error::source(error);
    // A connection's text already has its cause in words.
    if matches!(error, Error::Connect(_)) {
        cause = None;
    }
    while let Some(source) = cause {
        line.push_str(&format!(": {source}"));
        cause = source.source();
    }
    note(&line);
}

/// One line on stderr, whether anyone reads it or not.
pub(crate) fn note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// `NOT_FOUND: container "x" not found`.
fn status_text(status: &Status) -> String {
    let mut text = code_name(status.code()).to_owned();
    if !status.message().is_empty() {
        text.push_str(": ");
        text.push_str(status.message());
    }
    // The transport puts what happened into the source ("transport error" alone says nothing).
    let mut cause = std::error::Error::source(status);
    while let Some(source) = cause {
        let cause_text = source.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        cause = source.source();
    }
    text
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
