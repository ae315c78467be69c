//! Limits of containers as plugins write them and as requests do.

use nri::api;

use super::apply::{ApplyError, refuse, reservation, unsupported};
use crate::{
    container::Further,
    pod::config::{HugepageLimit, LinuxResources},
    spec::{Host, change_resources},
};

/// The kernel's own, where nobody has said another.
const PERIOD_US: u64 = 100_000;
const SHARES: u64 = 1024;

/// Limits that a plugin may change while a container lives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) asked: LinuxResources,
    /// Of processes; -1 is unlimited. Requests have no word for it.
    pub(crate) pids: Option<i64>,
    pub(crate) further: Further,
}

impl From<LinuxResources> for Limits {
    fn from(asked: LinuxResources) -> Self {
        Self {
            asked,
            ..Self::default()
        }
    }
}

impl Limits {
    /// What undoes this change of a container that has `now`. Zero means "not given": what had no limit gets one that is none.
    pub(super) fn undone(&self, now: &Self) -> Self {
        fn back<T: Default + PartialEq + Clone>(change: &T, now: &T, none: T) -> T {
            let zero = T::default();
            match (*change == zero, *now == zero) {
                (true, _) => zero,
                (false, true) => none,
                (false, false) => now.clone(),
            }
        }
        let (change, had) = (&self.asked, &now.asked);
        let of = |size: &str| {
            let mut known = had.hugepage_limits.iter();
            known
                .find(|known| known.page_size == size)
                .map_or(u64::MAX, |known| known.limit)
        };
        let limits = change.hugepage_limits.iter();
        let files = change.unified.keys();
        Self {
            asked: LinuxResources {
                cpu_period: back(&change.cpu_period, &had.cpu_period, PERIOD_US),
                cpu_quota: back(&change.cpu_quota, &had.cpu_quota, -1),
                cpu_shares: back(&change.cpu_shares, &had.cpu_shares, SHARES),
                memory_limit_in_bytes: back(
                    &change.memory_limit_in_bytes,
                    &had.memory_limit_in_bytes,
                    -1,
                ),
                memory_swap_limit_in_bytes: back(
                    &change.memory_swap_limit_in_bytes,
                    &had.memory_swap_limit_in_bytes,
                    -1,
                ),
                cpuset_cpus: back(&change.cpuset_cpus, &had.cpuset_cpus, String::new()),
                cpuset_mems: back(&change.cpuset_mems, &had.cpuset_mems, String::new()),
                hugepage_limits: limits
                    .map(|limit| HugepageLimit {
                        page_size: limit.page_size.clone(),
                        limit: of(&limit.page_size),
                    })
                    .collect(),
                unified: files
                    .filter_map(|name| Some((name.clone(), had.unified.get(name)?.clone())))
                    .collect(),
                oom_score_adj: 0,
            },
            pids: self.pids.map(|_| now.pids.unwrap_or(-1)),
            further: self.further.undone(&now.further),
        }
    }
}

/// The limits of a container that is made, as requests would write them: later updates go on from there.
pub(super) fn from_the_first(
    asked: &LinuxResources,
    adjust: &api::LinuxContainerAdjustment,
    host: &Host,
) -> Result<LinuxResources, ApplyError> {
    let mut change = match &adjust.resources {
        // Rules of devices and classes are no limits.
        Some(given) => {
            let given = api::LinuxResources {
                devices: Vec::new(),
                blockio_class: None,
                rdt_class: None,
                ..given.clone()
            };
            self::asked(&given, host)?.asked
        }
        None => LinuxResources::default(),
    };
    if let Some(score) = &adjust.oom_score_adj {
        change.oom_score_adj = i16::try_from(score.value).unwrap_or_default();
    }
    let made = change_resources(asked, &change, host)
        .map_err(|error| refuse("linux.resources", "all together", error.to_string()))?;
    Ok(made.asked)
}

/// As a request would write it; what requests have no words for is refused.
pub(super) fn asked(given: &api::LinuxResources, host: &Host) -> Result<Limits, ApplyError> {
    let mut asked = LinuxResources {
        unified: given.unified.clone(),
        ..LinuxResources::default()
    };
    if let Some(memory) = &given.memory {
        let value = |value: &Option<api::OptionalInt64>| value.as_ref().map_or(0, |one| one.value);
        asked.memory_limit_in_bytes = value(&memory.limit);
        asked.memory_swap_limit_in_bytes = value(&memory.swap);
        asked.unified.extend(reservation(memory, host));
    }
    if let Some(cpu) = &given.cpu {
        asked.cpu_shares = cpu.shares.as_ref().map_or(0, |shares| shares.value);
        asked.cpu_quota = cpu.quota.as_ref().map_or(0, |quota| quota.value);
        asked.cpu_period = cpu.period.as_ref().map_or(0, |period| period.value);
        asked.cpuset_cpus.clone_from(&cpu.cpus);
        asked.cpuset_mems.clone_from(&cpu.mems);
    }
    let limits = given.hugepage_limits.iter();
    asked.hugepage_limits = limits
        .map(|limit| HugepageLimit {
            page_size: limit.page_size.clone(),
            limit: limit.limit,
        })
        .collect();
    for (name, class) in [
        ("blockio_class", &given.blockio_class),
        ("rdt_class", &given.rdt_class),
    ] {
        if let Some(class) = class.as_ref().filter(|class| !class.value.is_empty()) {
            let field = format!("linux.resources.{name}");
            let why = "a container gets its class when it is made, and keeps it";
            return Err(refuse(field, &class.value, why));
        }
    }
    if !given.devices.is_empty() {
        return Err(unsupported("devices", given.devices.len()));
    }
    Ok(Limits {
        asked,
        pids: given.pids.as_ref().map(|pids| pids.limit),
        further: further(given, host)?,
    })
}

/// What only v1 limits, and what no kernel does.
pub(super) fn further(given: &api::LinuxResources, host: &Host) -> Result<Further, ApplyError> {
    let signed = |value: &Option<api::OptionalInt64>| value.as_ref().map(|one| one.value);
    let unsigned = |value: &Option<api::OptionalUInt64>| value.as_ref().map(|one| one.value);
    let memory = given.memory.unwrap_or_default();
    let cpu = given.cpu.clone().unwrap_or_default();
    if let Some(bytes) = signed(&memory.kernel).filter(|bytes| *bytes != 0) {
        let why = "no kernel since 5.16 limits that: what it uses for a container counts as the container's memory";
        return Err(refuse("linux.resources.memory.kernel", bytes, why));
    }
    let further = Further {
        reservation: signed(&memory.reservation).filter(|bytes| *bytes != 0 && !host.cgroup_v2),
        kernel_tcp: signed(&memory.kernel_tcp).filter(|bytes| *bytes != 0),
        swappiness: unsigned(&memory.swappiness),
        disable_oom_killer: memory.disable_oom_killer.map(|one| one.value),
        realtime_period: unsigned(&cpu.realtime_period).filter(|period| *period != 0),
        realtime_runtime: signed(&cpu.realtime_runtime),
    };
    if !host.cgroup_v2 {
        return Ok(further);
    }
    // Not to be switched off is what there is on v2, and no runtime is what everybody has.
    let further = Further {
        disable_oom_killer: further.disable_oom_killer.filter(|disable| *disable),
        realtime_runtime: further.realtime_runtime.filter(|runtime| *runtime != 0),
        ..further
    };
    for (name, value) in [
        ("memory.kernel_tcp", further.kernel_tcp),
        (
            "memory.swappiness",
            further.swappiness.map(|one| one as i64),
        ),
        (
            "memory.disable_oom_killer",
            further.disable_oom_killer.map(i64::from),
        ),
        ("cpu.realtime_runtime", further.realtime_runtime),
        (
            "cpu.realtime_period",
            further.realtime_period.map(|one| one as i64),
        ),
    ] {
        if let Some(value) = value {
            let why = "this node uses cgroup v2, which has no such limit";
            return Err(refuse(format!("linux.resources.{name}"), value, why));
        }
    }
    Ok(further)
}
