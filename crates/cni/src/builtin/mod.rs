//! The built-in bridge network.
//!
//! ```text
//!   pod                         node                              outside
//!   eth0 ── veth pair ── port ─ longshore0 ─ routing, nf_tables ─ other interfaces
//!   10.88.0.5/16                10.88.0.1/16                      (masqueraded)
//! ```
//!
//! An attachment's life; what is in brackets is on disk before the step begins:
//!
//! ```text
//!   (nothing) ─ reserve ─▶ [attaching] ─ link, addresses, host ports ─▶ [attached]
//!       ▲                       │ failure                                   │ detach
//!       │                       ▼                                           ▼
//!       └── addresses free ◀─ file removed ◀── link gone ◀── host ports removed ── [detaching]
//! ```
//!
//! A record holds the addresses and host ports of its attachment, so the records *are* the allocator's state: an address is taken
//! as long as a record names it. Records carry the boot's id; one of an earlier boot names nothing that still exists and is dropped.
//!
//! Everything happens in the network namespace in which [`Bridge::open`] was called.

mod conditions;
mod config;
mod error;
mod portmap;
mod subnet;

pub use conditions::Condition;
pub use config::BridgeConfig;
pub use error::{AttachError, DetachError, OpenError, RecordError, StepError};
pub use portmap::{PortMapping, Protocol};
pub use subnet::{Ipv4Subnet, Ipv6Subnet, SubnetError};

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

/// The built-in network of one node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bridge {}

/// A pod's place in the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// In the pod: `eth0`.
    pub interface: String,
    /// IPv4 first.
    pub ips: Vec<IpAddr>,
    pub mac: [u8; 6],
    /// One for each address family of `ips`.
    pub gateways: Vec<IpAddr>,
}

impl Bridge {
    /// Loads the records. The kernel is not touched before the first attach or collect.
    pub async fn open(_config: BridgeConfig) -> Result<Bridge, OpenError> {
        Ok(Bridge {})
    }

    /// Connects the network namespace to the bridge. On failure everything is undone. The work goes on when the caller is dropped;
    /// a call with the same id joins it, or gets the attachment that there is.
    pub async fn attach(
        &self,
        id: &str,
        _netns: OwnedFd,
        _ports: &[PortMapping],
    ) -> Result<Attachment, AttachError> {
        Err(AttachError::InvalidId { id: id.to_owned() })
    }

    /// Undoes an attach; an unknown id is fine.
    pub async fn detach(&self, _id: &str) -> Result<(), DetachError> {
        Ok(())
    }

    /// At start: detaches what is not `live`, and removes links and host ports that no record explains. Returns the ids detached.
    pub async fn collect(&self, _live: &BTreeSet<String>) -> Result<Vec<String>, DetachError> {
        Ok(Vec::new())
    }

    /// From memory; `None` unless attached.
    pub fn attachment(&self, _id: &str) -> Option<Attachment> {
        None
    }

    /// What an operator should know, from memory.
    pub fn conditions(&self) -> Vec<Condition> {
        Vec::new()
    }
}
