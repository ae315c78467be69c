//! The conversation with a registry: distribution-spec 1.1 over HTTP/1.1.
//!
//! A [`Client`] is one for all pulls and keeps connections. A [`Session`] is one pull's: an endpoint, a repository, and who is asking. Where
//! a registry's mirrors come in, a session will have several endpoints, tried in order.

mod blob;
mod challenge;
mod client;
mod endpoint;
mod error;
mod location;
mod session;
mod words;

pub(crate) use blob::FetchError;
pub(crate) use client::Client;
pub(crate) use session::{Session, bearer};

pub use error::{RegistryError, RegistryFailure};
