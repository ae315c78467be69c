//! The daemon's side of a pod's supervisor: starting one, talking to it, noticing that it is gone.

mod link;
mod nest;
mod spawn;

pub(crate) use link::{CallError, Event, Link, mismatch};
pub(crate) use nest::Nest;
pub(crate) use spawn::{Child, Executable, SpawnError, connect, spawn};
