//! The real `longshore-pod`, spoken to over its socket, with real containers.

mod ends;
mod execs;
mod harness;
mod lifecycle;
mod logs;
mod protocol;
mod terminals;
