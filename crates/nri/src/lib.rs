//! The Node Resource Interface, version 0.12, as both of its sides speak it.
//!
//! ```text
//!  runtime ══════════ one unix socket: the trunk ══════════ plugin
//!             connection 1: ttrpc, the plugin serves (service Plugin)
//!             connection 2: ttrpc, the runtime serves (Runtime, HostFunctions)
//! ```
//!
//! A [`Peer`] is one end of a trunk: it calls the other end's service, and gets the calls of the other end from a channel. What the calls mean
//! is in [`api`]; who is asked what, and when, is the runtime's business.

mod frame;
mod peer;

/// The protocol's messages; the proto file has their comments.
pub mod api {
    include!(concat!(env!("OUT_DIR"), "/nri.pkg.api.v1alpha1.rs"));
}

#[expect(unreachable_pub, reason = "generated")]
mod wire {
    include!(concat!(env!("OUT_DIR"), "/ttrpc.rs"));
}

pub use peer::{Call, CallError, Code, Peer, Reply, Side};

/// The version of the protocol, as plugins are told it.
pub const VERSION: &str = "0.12.0";

/// The longest message, bytes.
pub const MESSAGE_BYTES: usize = 4 << 20;

/// The service that plugins serve.
pub const PLUGIN: &str = "nri.pkg.api.v1alpha1.Plugin";

/// The service that runtimes serve.
pub const RUNTIME: &str = "nri.pkg.api.v1alpha1.Runtime";

/// The service by which plugins write into the runtime's log.
pub const HOST: &str = "nri.pkg.api.v1alpha1.HostFunctions";

/// A name, key or destination that takes something away begins so.
pub const REMOVAL: char = '-';

/// What a name takes away, if it does.
#[must_use]
pub fn removal(name: &str) -> Option<&str> {
    name.strip_prefix(REMOVAL)
}
