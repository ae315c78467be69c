//! Limits: `linux.resources` of the runtime specification as v1 and v2 files.

use oci_plan::Resources;

use crate::cgroup::Cgroup;
use crate::error::Error;
use crate::hierarchy::{Hierarchies, Hierarchy};
use crate::path::CgroupPath;

/// Which directories limits are set in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Those known to be made by this process.
    Made,
    All,
}

pub(crate) fn check(_resources: &Resources) -> Result<(), Error> {
    Ok(())
}
pub(crate) fn inherit(_h: &Hierarchy, _path: &CgroupPath, _from: usize) -> Result<(), Error> {
    Ok(())
}
pub(crate) fn enable_controllers(
    _h: &Hierarchies,
    _path: &CgroupPath,
    _resources: &Resources,
) -> Result<(), Error> {
    Ok(())
}
pub(crate) fn apply(_cgroup: &Cgroup, _resources: &Resources, _scope: Scope) -> Result<(), Error> {
    Ok(())
}
/// v1 `cpu.shares` as v2 `cpu.weight`.
pub fn shares_to_weight(_shares: u64) -> u64 {
    100
}
/// v1 `blkio.weight` as v2 `io.weight`.
pub fn blkio_weight_to_io_weight(_weight: u16) -> u64 {
    100
}
