//! What can be found out about a container runtime from outside, through the Container Runtime Interface: [`mod@bench`] measures any endpoint,
//! ours or another's. It asserts nothing about time, and is no test.

pub mod bench;
