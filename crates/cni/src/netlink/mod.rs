//! Netlink, as little of it as the built-in network needs: a socket, a message builder, and the words of rtnetlink and nf_tables.
//!
//! Written by hand because nf_tables has no library that could be linked here, and because a batch of requests in one `send(2)`
//! is what makes attaching fast; see `docs/decisions/2026-11-21-netlink.md`.

pub(crate) mod conntrack;
mod error;
pub(crate) mod message;
pub(crate) mod nftables;
pub(crate) mod route;
mod socket;

pub use error::NetlinkError;
pub(crate) use socket::Socket;
