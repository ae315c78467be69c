//! Errors as they cross the socket.

use oci_runtime::Kind;
use rustix::io::Errno;
use supervisor_api::{ErrorKind, WireError};

use crate::connection::chain;

pub(crate) fn not_found(message: String) -> WireError {
    wire(ErrorKind::NotFound, message)
}

pub(crate) fn invalid(message: String) -> WireError {
    wire(ErrorKind::InvalidArgument, message)
}

pub(crate) fn failed_precondition(message: String) -> WireError {
    wire(ErrorKind::FailedPrecondition, message)
}

pub(crate) fn internal(message: String) -> WireError {
    wire(ErrorKind::Internal, message)
}

pub(crate) fn unavailable(message: String) -> WireError {
    wire(ErrorKind::Unavailable, message)
}

pub(crate) fn resource_exhausted(message: String) -> WireError {
    wire(ErrorKind::ResourceExhausted, message)
}

pub(crate) fn core(error: &oci_runtime::Error) -> WireError {
    let kind = match error.kind() {
        Kind::NotFound => ErrorKind::NotFound,
        Kind::InvalidArgument => ErrorKind::InvalidArgument,
        Kind::FailedPrecondition => ErrorKind::FailedPrecondition,
        Kind::CannotExecute => ErrorKind::CannotExecute,
        Kind::ResourceExhausted => ErrorKind::ResourceExhausted,
        Kind::Internal => ErrorKind::Internal,
    };
    wire(kind, chain(error))
}

pub(crate) fn cgroup(error: &cgroup::Error) -> WireError {
    let kind = match error {
        cgroup::Error::Path(_)
        | cgroup::Error::Invalid { .. }
        | cgroup::Error::Unsupported { .. } => ErrorKind::InvalidArgument,
        // The kernel does not take the value; the file's name says which.
        cgroup::Error::Write {
            source: Errno::INVAL | Errno::RANGE | Errno::ACCESS | Errno::OVERFLOW,
            ..
        } => ErrorKind::InvalidArgument,
        cgroup::Error::NotFound { .. } => ErrorKind::NotFound,
        cgroup::Error::Exists { .. }
        | cgroup::Error::InUse { .. }
        | cgroup::Error::BelowUsage { .. } => ErrorKind::FailedPrecondition,
        // What lives in the cgroup, or below it, needs what was there before.
        cgroup::Error::Write {
            source: Errno::BUSY,
            ..
        } => ErrorKind::FailedPrecondition,
        other => match other.errno() {
            Some(Errno::NOMEM | Errno::NOSPC | Errno::AGAIN | Errno::MFILE | Errno::NFILE) => {
                ErrorKind::ResourceExhausted
            }
            _ => ErrorKind::Internal,
        },
    };
    wire(kind, chain(error))
}

fn wire(kind: ErrorKind, message: String) -> WireError {
    WireError { kind, message }
}
