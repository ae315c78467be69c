//! What can be found out about a container runtime from outside, through the Container Runtime Interface: [`mod@bench`] measures any endpoint,
//! ours or another's, and asserts nothing about time; [`mod@check`] says whether it keeps to the interface.

pub mod bench;
pub mod check;
mod order;
mod page;
