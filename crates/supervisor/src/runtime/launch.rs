use std::os::fd::{BorrowedFd, OwnedFd};

use oci_runtime::Progress;
use supervisor_api::WireError;

use super::{core, criu, failed_precondition, oci};

/// A container's init, or an exec, on its way to its program.
#[derive(Debug)]
pub(crate) enum Launch {
    /// Dropped before it has started, it kills its process.
    Embedded(oci_runtime::Launch),
    /// Its command says how far it is.
    Oci(oci::Launch),
    /// The same, of CRIU's; then its processes are stopped until it is started.
    Restored(criu::Restored),
}

impl Launch {
    /// 0 until a command has made the process.
    pub(crate) fn pid(&self) -> i32 {
        match self {
            Self::Embedded(launch) => launch.pid(),
            Self::Oci(_) | Self::Restored(_) => 0,
        }
    }

    /// The process's, once there is one.
    pub(crate) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Embedded(launch) => Some(launch.pidfd()),
            Self::Oci(launch) => launch.init(),
            Self::Restored(launch) => launch.init(),
        }
    }

    /// Readable when [`Self::advance`] has something to say.
    pub(crate) fn handshake(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Embedded(launch) => Some(launch.handshake()),
            Self::Oci(_) | Self::Restored(_) => None,
        }
    }

    pub(crate) fn advance(&mut self) -> Result<Progress, WireError> {
        match self {
            Self::Embedded(launch) => launch.advance().map_err(|error| core(&error)),
            Self::Oci(_) | Self::Restored(_) => Ok(Progress::Pending),
        }
    }

    /// Lets an init that waits before its root go on.
    pub(crate) fn resume(&mut self) -> Result<(), WireError> {
        match self {
            Self::Embedded(launch) => launch.resume().map_err(|error| core(&error)),
            Self::Oci(_) | Self::Restored(_) => {
                Err(failed_precondition("no command waits".to_owned()))
            }
        }
    }

    /// The pidfd of the process, which lives on if it has started.
    pub(crate) fn into_pidfd(self) -> Option<OwnedFd> {
        match self {
            Self::Embedded(launch) => Some(launch.into_pidfd()),
            Self::Oci(launch) => launch.into_init(),
            Self::Restored(launch) => launch.into_init(),
        }
    }
}
