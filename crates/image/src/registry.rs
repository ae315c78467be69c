//! The conversation with a registry: distribution-spec 1.1 over HTTP/1.1.

mod error;

pub use error::{RegistryError, RegistryFailure};
