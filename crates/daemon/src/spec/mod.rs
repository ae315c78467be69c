//! From what a client asks (a checked [`crate::container::config::ContainerConfig`]) to the OCI runtime specification.

mod signal;
mod user;

pub(crate) use signal::Signal;
pub(crate) use user::User;
