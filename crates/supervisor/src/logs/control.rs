//! What the supervisor and its log process say to each other, over a `SOCK_SEQPACKET` pair in the encoding of `supervisor_api`.

use serde::{Deserialize, Serialize};
use supervisor_api::AttachEnd;

/// A container's log, for as long as the supervisor lives; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct LogKey(pub(crate) u64);

/// Who listens to a container, for as long as the supervisor lives; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct AttachKey(pub(crate) u32);

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToLogProcess {
    /// Read these streams from now on. The descriptors: stdout, stderr if there is one, the file if there is one.
    Add {
        key: LogKey,
        stderr: bool,
        file: bool,
    },
    /// Continue in the file that comes along.
    Reopen { key: LogKey },
    /// The container's init has exited: answer when every stream has ended, or after the bound with what had arrived by then.
    Drain { key: LogKey, bound_ms: u32 },
    /// Let go of everything.
    Remove { key: LogKey },
    /// Copy to these pipes as well, from now on. The descriptors: for stdout if there is one, for stderr if there is one.
    Attach {
        key: LogKey,
        attach: AttachKey,
        stdout: bool,
        stderr: bool,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromLogProcess {
    /// No byte will go to the file before this one. In the order of the requests.
    Reopened { key: LogKey },
    /// `trouble` is for the exit record.
    Drained {
        key: LogKey,
        trouble: Option<String>,
    },
    /// From here on it gets everything.
    Attached { attach: AttachKey },
    /// Its pipes have been closed; once for every attach.
    AttachEnded {
        attach: AttachKey,
        reason: AttachEnd,
    },
}
