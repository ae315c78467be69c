//! The real `longshore-pod`, spoken to over its socket, with real containers.

#![allow(
    clippy::unwrap_used,
    reason = "these are tests, also where a function is shared by several"
)]

mod anchor;
mod attach;
mod ends;
mod execs;
mod harness;
mod lifecycle;
mod logs;
mod protocol;
mod terminals;
