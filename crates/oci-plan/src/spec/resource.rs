//! `linux.resources`.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};

use super::{Reach, SpecError, further, invalid, refusal};
use crate::{BlockIoWeight, DeviceRule, HugepageLimit, Resources};

/// The kernel's least `cpu.shares`; less reads as that.
const LEAST_SHARES: u64 = 2;

/// Limits of a cgroup from `linux.resources`; what the embedded core does not implement is refused.
pub fn resources(given: &LinuxResources) -> Result<Resources, SpecError> {
    refusal::check_resources(given, Reach::Supervisor)?;
    translate(given)
}

/// The same, for a cgroup that this process limits: with what needs a file and no more.
pub fn resources_here(given: &LinuxResources) -> Result<Resources, SpecError> {
    refusal::check_resources(given, Reach::Here)?;
    Ok(Resources {
        further: further::further(given),
        ..translate(given)?
    })
}

fn translate(given: &LinuxResources) -> Result<Resources, SpecError> {
    let cpu = given.cpu().as_ref();
    let memory = given.memory().as_ref();
    let mut hugepage_limits = Vec::new();
    for (index, limit) in given.hugepage_limits().iter().flatten().enumerate() {
        hugepage_limits.push(HugepageLimit {
            page_size: limit.page_size().clone(),
            limit_bytes: u64::try_from(limit.limit()).map_err(|_| {
                invalid(
                    format!("linux.resources.hugepageLimits[{index}].limit"),
                    limit.limit(),
                    "use 0 or more",
                )
            })?,
        });
    }
    let mut devices = Vec::new();
    for (index, rule) in given.devices().iter().flatten().enumerate() {
        devices.push(device_rule(index, rule)?);
    }
    let mut unified: Vec<_> = given
        .unified()
        .iter()
        .flatten()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    unified.sort_unstable();
    Ok(Resources {
        cpu_shares: cpu
            .and_then(|cpu| cpu.shares())
            .filter(|shares| *shares != 0)
            .map(|shares| shares.max(LEAST_SHARES)),
        cpu_quota_us: cpu
            .and_then(|cpu| cpu.quota())
            .filter(|quota| *quota != 0)
            .map(unlimited),
        cpu_period_us: cpu
            .and_then(|cpu| cpu.period())
            .filter(|period| *period != 0),
        cpuset_cpus: cpu
            .and_then(|cpu| cpu.cpus().clone())
            .filter(|list| !list.is_empty()),
        cpuset_mems: cpu
            .and_then(|cpu| cpu.mems().clone())
            .filter(|list| !list.is_empty()),
        memory_limit_bytes: memory
            .and_then(|memory| memory.limit())
            .filter(|limit| *limit != 0)
            .map(unlimited),
        memory_swap_bytes: memory
            .and_then(|memory| memory.swap())
            .filter(|limit| *limit != 0)
            .map(unlimited),
        pids_limit: given
            .pids()
            .as_ref()
            .map(|pids| pids.limit())
            .filter(|limit| *limit != 0),
        hugepage_limits,
        blkio_weight: given
            .block_io()
            .as_ref()
            .and_then(|block_io| block_io.weight())
            .filter(|weight| *weight != 0)
            .map(BlockIoWeight),
        devices,
        unified,
        further: Vec::new(),
    })
}

/// Every negative number is "no limit".
fn unlimited(value: i64) -> i64 {
    value.max(-1)
}

fn device_rule(index: usize, rule: &LinuxDeviceCgroup) -> Result<DeviceRule, SpecError> {
    let field = |name: &str| format!("linux.resources.devices[{index}].{name}");
    let number = |name: &str, value: Option<i64>| match value {
        None | Some(-1) => Ok(None),
        Some(value) => u32::try_from(value)
            .map(Some)
            .map_err(|_| invalid(field(name), value, "not the number of a device")),
    };
    let node_type = match rule.typ() {
        None | Some(LinuxDeviceType::A) => 'a',
        Some(LinuxDeviceType::B) => 'b',
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => 'c',
        Some(LinuxDeviceType::P) => {
            return Err(invalid(field("type"), "p", "a rule is for a, b or c"));
        }
    };
    let access = rule.access().as_deref().unwrap_or("rwm");
    if access.is_empty() || access.chars().any(|c| !"rwm".contains(c)) {
        return Err(invalid(field("access"), access, "use some of r, w and m"));
    }
    Ok(DeviceRule {
        allow: rule.allow(),
        node_type,
        major: number("major", rule.major())?,
        minor: number("minor", rule.minor())?,
        access: access.to_owned(),
    })
}
