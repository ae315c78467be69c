//! Pod networks.
//!
//! [`builtin`] is the network of a machine without any CNI configuration: a bridge, addresses, masquerade and host ports, made by
//! netlink alone. Chains of CNI plugins will stand beside it.

pub mod builtin;
mod netlink;

pub use netlink::NetlinkError;
