//! Netlink, as little of it as the built-in network needs.

mod error;

pub use error::NetlinkError;
