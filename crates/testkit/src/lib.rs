//! What Longshore's tests are made of. Development only: nothing that ships depends on this crate.
//!
//! - [`image`] builds OCI images from given files, busybox among them;
//! - [`registry`] serves them over the distribution specification's pull side, with faults on demand;
//! - [`sandbox`] is a host of the test's own: network, mount and PID namespaces that end with the test, however it ends;
//! - [`daemon`] runs the real `longshored` there;
//! - [`nri_plugin`] is a plugin that does what its test says;
//! - [`file_server`] serves files there until it hangs;
//! - [`seccomp`] asks libseccomp;
//! - [`signer`] signs images as cosign does, with a key or by a sigstore of the test's own;
//! - [`terminal`] has somebody sit at a terminal there;
//! - [`ledger`] says what a test left behind.

#[cfg(feature = "daemon")]
pub mod daemon;
pub mod file_server;
pub mod ledger;
#[cfg(feature = "daemon")]
pub mod nri_plugin;
pub mod sandbox;
#[cfg(feature = "seccomp")]
pub mod seccomp;
#[cfg(feature = "registry")]
pub mod signer;
pub mod terminal;

#[cfg(feature = "registry")]
pub use registry::{self, image};
