//! What a container's processes get from outside, between their beginning and their program: a plan has no place for it, and the kernel
//! lets another process give it. Scheduling, I/O priority, their class of caches and memory bandwidth, limits of block devices, and those of
//! cgroup v1 alone.

use std::{borrow::Cow, collections::BTreeMap, io, path::Path};

use cgroup::DeviceLimits;
use oci_plan::{
    Resources,
    spec::{self, SpecError},
};
use oci_spec::runtime::{LinuxIOPriority, LinuxIntelRdt, Scheduler, Spec};
use rustix::io::Errno;

use super::further::Further;
use crate::{
    id::ContainerId,
    resctrl::{self, ResctrlError},
    runtime::{BlockingError, DISK_BOUND, Runtime, blocking},
};

/// Why a process does not get what its specification says.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutsideError {
    #[error(transparent)]
    Value(#[from] SpecError),
    #[error("{field}: {value}")]
    Refused {
        field: &'static str,
        value: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Class(#[from] ResctrlError),
    #[error("linux.resources.blockIO")]
    BlockIo(#[from] cgroup::Error),
    #[error("linux.resources")]
    Further(#[source] cgroup::Error),
    #[error(transparent)]
    Blocking(#[from] BlockingError),
}

/// A specification without what is given from outside: what a plan is made of.
pub(crate) fn planned(spec: &Spec) -> Cow<'_, Spec> {
    let of_network = |spec: &Spec| spec.linux().as_ref()?.net_devices().clone();
    if Given::of(spec) == Given::default()
        && devices(spec).is_empty()
        && Further::of(spec) == Further::default()
        && of_network(spec).is_none()
    {
        return Cow::Borrowed(spec);
    }
    let mut spec = spec.clone();
    if let Some(process) = spec.process_mut() {
        process.set_scheduler(None).set_io_priority(None);
    }
    if let Some(linux) = spec.linux_mut() {
        linux.set_intel_rdt(None).set_net_devices(None);
        if let Some(resources) = linux.resources_mut() {
            Further::default().put(resources);
        }
        if let Some(block_io) = linux
            .resources_mut()
            .as_mut()
            .and_then(|resources| resources.block_io_mut().as_mut())
        {
            block_io
                .set_weight_device(None)
                .set_throttle_read_bps_device(None)
                .set_throttle_write_bps_device(None)
                .set_throttle_read_iops_device(None)
                .set_throttle_write_iops_device(None);
        }
    }
    Cow::Owned(spec)
}

/// Gives a process all of that.
pub(super) async fn give(spec: &Spec, id: &ContainerId, pid: i32) -> Result<(), OutsideError> {
    let given = Given::of(spec);
    if given == Given::default() {
        return Ok(());
    }
    let id = id.to_string();
    blocking(DISK_BOUND, move || {
        given.give(Path::new(resctrl::ROOT), &id, pid)
    })
    .await?
}

/// Sets the limits of block devices, and those of v1, in the container's cgroup.
pub(super) async fn limit(
    runtime: &Runtime,
    spec: &Spec,
    cgroup: &str,
) -> Result<(), OutsideError> {
    let devices = devices(spec);
    if !devices.is_empty() {
        let (hierarchies, path) = (runtime.hierarchies.clone(), cgroup.to_owned());
        let limited = move || hierarchies.open_cgroup(&path)?.limit_devices(&devices);
        blocking(DISK_BOUND, limited).await??;
    }
    limit_further(runtime, &Further::of(spec), cgroup).await
}

/// Sets the limits of v1 that are given: all of them, or none.
pub(super) async fn limit_further(
    runtime: &Runtime,
    further: &Further,
    cgroup: &str,
) -> Result<(), OutsideError> {
    let resources = Resources {
        further: further.files(),
        ..Resources::default()
    };
    if resources.further.is_empty() {
        return Ok(());
    }
    let (hierarchies, path) = (runtime.hierarchies.clone(), cgroup.to_owned());
    let limited = move || hierarchies.open_cgroup(&path)?.update(&resources);
    let limited = blocking(DISK_BOUND, limited).await?;
    limited.map_err(OutsideError::Further)
}

/// `linux.resources.blockIO`, device by device.
fn devices(spec: &Spec) -> Vec<DeviceLimits> {
    let resources = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.resources().as_ref());
    let Some(block_io) = resources.and_then(|resources| resources.block_io().as_ref()) else {
        return Vec::new();
    };
    let mut devices: BTreeMap<(i64, i64), DeviceLimits> = BTreeMap::new();
    for weight in block_io.weight_device().iter().flatten() {
        let device = devices.entry((weight.major(), weight.minor())).or_default();
        device.weight = weight.weight();
    }
    type Rate = fn(&mut DeviceLimits) -> &mut Option<u64>;
    let rates: [(_, Rate); 4] = [
        (block_io.throttle_read_bps_device(), |one| &mut one.read_bps),
        (block_io.throttle_write_bps_device(), |one| {
            &mut one.write_bps
        }),
        (block_io.throttle_read_iops_device(), |one| {
            &mut one.read_iops
        }),
        (block_io.throttle_write_iops_device(), |one| {
            &mut one.write_iops
        }),
    ];
    for (given, rate) in rates {
        for given in given.iter().flatten() {
            let device = devices.entry((given.major(), given.minor())).or_default();
            *rate(device) = Some(given.rate());
        }
    }
    let number = |value: i64| u32::try_from(value).unwrap_or(u32::MAX);
    let devices = devices.into_iter();
    devices
        .map(|((major, minor), limits)| DeviceLimits {
            major: number(major),
            minor: number(minor),
            ..limits
        })
        .collect()
}

/// Takes back what outlives a container's processes. Blocks.
pub(super) fn take_back(spec: &Spec, id: &ContainerId) -> Result<(), ResctrlError> {
    match Given::of(spec).class {
        Some(class) => resctrl::leave(Path::new(resctrl::ROOT), id.as_str(), &class),
        None => Ok(()),
    }
}

#[derive(Debug, Default, PartialEq)]
struct Given {
    scheduler: Option<Scheduler>,
    io_priority: Option<LinuxIOPriority>,
    class: Option<LinuxIntelRdt>,
}

impl Given {
    fn of(spec: &Spec) -> Self {
        let process = spec.process().as_ref();
        let linux = spec.linux().as_ref();
        Self {
            scheduler: process.and_then(|process| process.scheduler().clone()),
            io_priority: process.and_then(|process| *process.io_priority()),
            class: linux.and_then(|linux| linux.intel_rdt().clone()),
        }
    }

    fn give(&self, classes: &Path, id: &str, pid: i32) -> Result<(), OutsideError> {
        if let Some(class) = &self.class {
            resctrl::join(classes, id, class, pid)?;
        }
        if let Some(priority) = &self.io_priority {
            let (class, level) = spec::io_priority(priority)?;
            let value = format!("{} {level}", priority.class());
            given(
                "process.ioPriority",
                value,
                sys::set_io_priority(pid, class, level),
            )?;
        }
        if let Some(scheduler) = &self.scheduler {
            let scheduling = spec::scheduling(scheduler)?;
            let value = scheduler.policy().to_string();
            given(
                "process.scheduler",
                value,
                sys::set_scheduling(pid, scheduling),
            )?;
        }
        Ok(())
    }
}

/// A process that has ended already needs nothing.
fn given(
    field: &'static str,
    value: String,
    result: Result<(), Errno>,
) -> Result<(), OutsideError> {
    match result {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(OutsideError::Refused {
            field,
            value,
            source: error.into(),
        }),
    }
}
