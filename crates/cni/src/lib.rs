//! Pod networks.
//!
//! [`builtin`] is the network of a machine without any CNI configuration: a bridge, addresses, masquerade and host ports, made by
//! netlink alone. [`plugins`] is a network of CNI plugins, where a configuration says so. [`devices`] lends pods devices of the node's network.

pub mod builtin;

mod causes;
pub mod devices;
mod netlink;
pub mod plugins;
mod records;

pub use netlink::NetlinkError;
pub use records::{RecordError, RecordsError};
