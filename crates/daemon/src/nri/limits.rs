//! Limits of living containers, as plugins write them and as requests do.

use nri::api;

use super::apply::{ApplyError, unsupported};
use crate::pod::config::{HugepageLimit, LinuxResources};

/// As a request would write it; what requests have no words for is refused.
pub(super) fn asked(given: &api::LinuxResources) -> Result<LinuxResources, ApplyError> {
    let mut asked = LinuxResources::default();
    if let Some(memory) = &given.memory {
        let value = |value: &Option<api::OptionalInt64>| value.as_ref().map_or(0, |one| one.value);
        asked.memory_limit_in_bytes = value(&memory.limit);
        asked.memory_swap_limit_in_bytes = value(&memory.swap);
        for (name, value) in [
            ("memory.reservation", &memory.reservation),
            ("memory.kernel", &memory.kernel),
            ("memory.kernel_tcp", &memory.kernel_tcp),
        ] {
            if let Some(value) = value.as_ref().filter(|value| value.value != 0) {
                return Err(unsupported(name, value.value));
            }
        }
        if let Some(value) = &memory.swappiness {
            return Err(unsupported("memory.swappiness", value.value));
        }
        if memory
            .disable_oom_killer
            .as_ref()
            .is_some_and(|value| value.value)
        {
            return Err(unsupported("memory.disable_oom_killer", true));
        }
    }
    if let Some(cpu) = &given.cpu {
        asked.cpu_shares = cpu.shares.as_ref().map_or(0, |shares| shares.value);
        asked.cpu_quota = cpu.quota.as_ref().map_or(0, |quota| quota.value);
        asked.cpu_period = cpu.period.as_ref().map_or(0, |period| period.value);
        asked.cpuset_cpus.clone_from(&cpu.cpus);
        asked.cpuset_mems.clone_from(&cpu.mems);
        if let Some(value) = cpu
            .realtime_runtime
            .as_ref()
            .filter(|value| value.value != 0)
        {
            return Err(unsupported("cpu.realtime_runtime", value.value));
        }
        if let Some(value) = cpu
            .realtime_period
            .as_ref()
            .filter(|value| value.value != 0)
        {
            return Err(unsupported("cpu.realtime_period", value.value));
        }
    }
    let limits = given.hugepage_limits.iter();
    asked.hugepage_limits = limits
        .map(|limit| HugepageLimit {
            page_size: limit.page_size.clone(),
            limit: limit.limit,
        })
        .collect();
    asked.unified.clone_from(&given.unified);
    if let Some(pids) = &given.pids {
        return Err(unsupported("pids", pids.limit));
    }
    for (name, class) in [
        ("blockio_class", &given.blockio_class),
        ("rdt_class", &given.rdt_class),
    ] {
        if let Some(class) = class.as_ref().filter(|class| !class.value.is_empty()) {
            return Err(unsupported(name, &class.value));
        }
    }
    if !given.devices.is_empty() {
        return Err(unsupported("devices", given.devices.len()));
    }
    Ok(asked)
}
