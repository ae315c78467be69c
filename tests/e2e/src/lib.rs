//! Scenarios against the real daemon.
//!
//! [`scenario`] gives a story a host of its own: a sandbox with a registry, a `longshored` and a pulled busybox. When the story is
//! over, everything is stopped and removed through CRI, and a ledger must be what it was before.

mod configs;
mod cri_calls;
mod host;
mod limits;
mod raw;

pub use configs::{ContainerSettings, PodSettings};
pub use cri_calls::{Cri, Streams, call_path};
pub use host::{Host, LogLine, long_scenario, scenario, scenario_with};
pub use limits::{Limits, is_v2};
pub use raw::Raw;
