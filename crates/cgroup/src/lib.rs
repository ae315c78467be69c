//! Control groups: v1, v2 and the hybrid of both, by the kernel's own files (the *cgroupfs* driver).
//!
//! [`Hierarchies`] holds a descriptor of the root of every mounted hierarchy, opened once; everything else is relative
//! to those, so a process that pivots its root away afterwards goes on working. A [`Cgroup`] is one path, relative to each
//! root, in all of them.
//!
//! On a hybrid machine the v1 hierarchies do the limiting and the (often bare) v2 tree does the *tracking*: it is where
//! processes are listed, frozen and killed, because `cgroup.kill` is one write and cannot be outrun by a fork. On a machine
//! without a v2 mount the v1 freezer tracks.
//!
//! A process enters a cgroup in two steps: it is born in the v2 one (`clone3(2)` with CLONE_INTO_CGROUP and
//! [`Cgroup::unified_dir`]), and writes `0` to each of [`Cgroup::attach_fds`] before it executes anything. That costs a
//! thirtieth of writing its pid to each `cgroup.procs` from outside.
//!
//! Nothing here removes a directory that this crate did not make. What it makes it marks with an extended attribute, which
//! vanishes with the directory, so whoever cleans up after a crash knows without a record.
//!
//! Everything is synchronous. What can wait (killing, freezing, removing) takes the bound as an argument or states it.

mod cgroup;
mod error;
mod files;
mod freeze;
mod hierarchy;
mod kill;
mod mark;
mod mountinfo;
mod path;
mod remove;
mod resources;
mod slice;
mod stats;
mod view;

pub use cgroup::{Cgroup, Directory};
pub use error::{Error, OpenError};
pub use hierarchy::{Controller, Hierarchies, Mode, Root, Version};
pub use mountinfo::unescape;
pub use path::{CgroupPath, PathError};
pub use resources::{DeviceLimits, blkio_weight_to_io_weight, shares_to_weight};
pub use slice::{Slice, SliceError};
pub use stats::{
    Census, CpuDetail, CpuUsage, Detail, DetailSampler, DeviceIo, HugePages, MemoryDetail,
    MemoryUsage, Pressure, SampleError, Sampler, Stall, Stats, StatsError,
};
pub use view::View;
