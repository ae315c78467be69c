//! From protobuf messages to the domain's checked types. Whatever we cannot honour is refused here or by `spec`, by name;
//! nothing is dropped in silence.

mod container;
mod field;
mod linux;
mod pod;
#[cfg(test)]
mod tests;

pub(crate) use container::container_config;
pub(crate) use field::{InvalidField, location, no_options};
pub(crate) use linux::{container_change, pod_resources};
pub(crate) use pod::{pod_config, stop_timeout};
