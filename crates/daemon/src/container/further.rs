//! Limits of cgroup v1 that plugins have words for and requests have not.

use oci_plan::FurtherLimit;
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources, Spec};

/// A period that nobody has changed.
const PERIOD_US: u64 = 1_000_000;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Further {
    /// Bytes; -1 is none. As the one below.
    pub(crate) reservation: Option<i64>,
    pub(crate) kernel_tcp: Option<i64>,
    /// 0 to 100.
    pub(crate) swappiness: Option<u64>,
    pub(crate) disable_oom_killer: Option<bool>,
    /// Microseconds, as the one below.
    pub(crate) realtime_period: Option<u64>,
    pub(crate) realtime_runtime: Option<i64>,
}

impl Further {
    pub(crate) fn of(spec: &Spec) -> Self {
        let linux = spec.linux().as_ref();
        let resources = linux.and_then(|linux| linux.resources().as_ref());
        let memory = resources.and_then(|resources| resources.memory().as_ref());
        let cpu = resources.and_then(|resources| resources.cpu().as_ref());
        Self {
            reservation: memory.and_then(|memory| memory.reservation()),
            kernel_tcp: memory.and_then(|memory| memory.kernel_tcp()),
            swappiness: memory.and_then(|memory| memory.swappiness()),
            disable_oom_killer: memory.and_then(|memory| memory.disable_oom_killer()),
            realtime_period: cpu.and_then(|cpu| cpu.realtime_period()),
            realtime_runtime: cpu.and_then(|cpu| cpu.realtime_runtime()),
        }
    }

    /// Writes them into a specification, in place of those that it has. [`Further::default`] takes all of them away.
    pub(crate) fn put(&self, resources: &mut LinuxResources) {
        let mut memory = resources.memory().unwrap_or_default();
        memory
            .set_reservation(self.reservation)
            .set_kernel_tcp(self.kernel_tcp)
            .set_swappiness(self.swappiness)
            .set_disable_oom_killer(self.disable_oom_killer);
        let mut cpu = resources.cpu().clone().unwrap_or_default();
        cpu.set_realtime_period(self.realtime_period)
            .set_realtime_runtime(self.realtime_runtime);
        resources
            .set_memory((memory != LinuxMemory::default()).then_some(memory))
            .set_cpu((cpu != LinuxCpu::default()).then_some(cpu));
    }

    /// These, and of the others what these leave open.
    pub(crate) fn or(self, others: Self) -> Self {
        Self {
            reservation: self.reservation.or(others.reservation),
            kernel_tcp: self.kernel_tcp.or(others.kernel_tcp),
            swappiness: self.swappiness.or(others.swappiness),
            disable_oom_killer: self.disable_oom_killer.or(others.disable_oom_killer),
            realtime_period: self.realtime_period.or(others.realtime_period),
            realtime_runtime: self.realtime_runtime.or(others.realtime_runtime),
        }
    }

    /// What undoes this change of a container that has `now`.
    pub(crate) fn undone(&self, now: &Self) -> Self {
        fn back<T>(change: &Option<T>, now: Option<T>, none: T) -> Option<T> {
            change.as_ref().map(|_| now.unwrap_or(none))
        }
        Self {
            reservation: back(&self.reservation, now.reservation, -1),
            kernel_tcp: back(&self.kernel_tcp, now.kernel_tcp, -1),
            // What a cgroup has by itself is its parent's, and nobody's to guess.
            swappiness: self.swappiness.and(now.swappiness),
            disable_oom_killer: back(&self.disable_oom_killer, now.disable_oom_killer, false),
            realtime_period: back(&self.realtime_period, now.realtime_period, PERIOD_US),
            realtime_runtime: back(&self.realtime_runtime, now.realtime_runtime, 0),
        }
    }

    /// The files that they are. The period comes before the runtime, which the kernel holds against it; the one file that cannot be put back by
    /// what is read from it comes last.
    pub(crate) fn files(&self) -> Vec<FurtherLimit> {
        fn file<T: ToString>(
            controller: &'static str,
            (field, name): (&'static str, &'static str),
            value: Option<T>,
        ) -> Option<FurtherLimit> {
            let value = value?.to_string();
            Some(FurtherLimit {
                field,
                controller,
                v1: Some((name, value)),
                v2: None,
            })
        }
        let period = ("cpu.realtimePeriod", "cpu.rt_period_us");
        let runtime = ("cpu.realtimeRuntime", "cpu.rt_runtime_us");
        let reservation = ("memory.reservation", "memory.soft_limit_in_bytes");
        let kernel_tcp = ("memory.kernelTCP", "memory.kmem.tcp.limit_in_bytes");
        let swappiness = ("memory.swappiness", "memory.swappiness");
        let oom_killer = ("memory.disableOOMKiller", "memory.oom_control");
        let all = [
            file("cpu", period, self.realtime_period),
            file("cpu", runtime, self.realtime_runtime),
            file("memory", reservation, self.reservation),
            file("memory", kernel_tcp, self.kernel_tcp),
            file("memory", swappiness, self.swappiness),
            file("memory", oom_killer, self.disable_oom_killer.map(u8::from)),
        ];
        all.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_undone_and_nothing_else() {
        let change = Further {
            swappiness: Some(7),
            disable_oom_killer: Some(true),
            realtime_runtime: Some(500),
            ..Further::default()
        };
        let now = Further {
            swappiness: Some(60),
            reservation: Some(1),
            ..Further::default()
        };
        let undone = Further {
            swappiness: Some(60),
            disable_oom_killer: Some(false),
            realtime_runtime: Some(0),
            ..Further::default()
        };
        assert_eq!(change.undone(&now), undone);
        assert_eq!(change.clone().or(now).reservation, Some(1));
        let files: Vec<_> = change
            .files()
            .into_iter()
            .filter_map(|file| file.v1)
            .collect();
        let expected = [
            ("cpu.rt_runtime_us", "500"),
            ("memory.swappiness", "7"),
            ("memory.oom_control", "1"),
        ];
        assert_eq!(files, expected.map(|(name, text)| (name, text.to_owned())));
    }
}
