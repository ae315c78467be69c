//! The daemon's side of a pod's supervisor: starting one, talking to it, noticing that it is gone.

mod link;
mod spawn;

pub(crate) use link::{CallError, Event, Link, mismatch};
pub(crate) use spawn::{Executable, SpawnError, connect, spawn};
