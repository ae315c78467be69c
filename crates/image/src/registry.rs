//! The conversation with a registry: distribution-spec 1.1 over HTTP/1.1.
//!
//! A [`Client`] is one for all pulls and keeps connections. A [`Plan`] says which hosts a pull asks, in order, and as whom. A [`Session`] is
//! one pull's: the plan's hosts, and what has become of them.

mod blob;
mod challenge;
mod client;
mod endpoint;
mod error;
mod host;
mod hosts_file;
mod location;
mod plan;
mod proxy;
mod ranges;
mod session;
mod tls;
mod upload;
mod words;

pub(crate) use blob::FetchError;
pub(crate) use client::Client;
pub(crate) use host::bearer;
pub(crate) use hosts_file::read as read_text;
pub(crate) use plan::Plan;
pub(crate) use session::Session;
pub(crate) use upload::Pushed;

pub use error::{RegistryError, RegistryFailure, Tried};
pub use plan::{PlannedSource, PullPlan};
pub use proxy::Proxies;
