use rustix::io::Errno;

/// Why a netlink request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel's answer to the `index`th message of the request, from 0.
    #[error("the kernel refuses message {index} of the request")]
    Refused {
        index: usize,
        #[source]
        errno: Errno,
    },
    #[error("open a netlink socket")]
    Open(#[source] Errno),
    #[error("send a netlink request of {length} bytes")]
    Send {
        length: usize,
        #[source]
        errno: Errno,
    },
    #[error("receive a netlink reply")]
    Receive(#[source] Errno),
    #[error("the kernel's netlink reply is malformed")]
    Malformed,
}

impl NetlinkError {
    /// What the kernel said.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            NetlinkError::Refused { errno, .. }
            | NetlinkError::Open(errno)
            | NetlinkError::Send { errno, .. }
            | NetlinkError::Receive(errno) => Some(*errno),
            NetlinkError::Malformed => None,
        }
    }
}
