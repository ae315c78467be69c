//! The figures of one cgroup, read through descriptors that stay open.

use std::{
    sync::{Mutex, MutexGuard, PoisonError, TryLockError},
    time::Duration,
};

use cgroup::{Census, Hierarchies, Pressure, Sampler};
use rustix::process::Pid;

use crate::runtime::now_ns;

/// A sample younger than this is given again instead of reading anew: kubelets and people ask in bursts.
const FRESH: Duration = Duration::from_secs(1);

/// A first sample's mean use of CPUs is that since its beginning, if that is not longer ago.
const BEGAN_WITHIN: Duration = Duration::from_secs(60);

/// A cgroup's figures. `None` where this machine does not count them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample {
    pub(crate) taken_at_ns: i64,
    pub(crate) cpu_ns: Option<u64>,
    /// Mean use since the sample before, or since its beginning in the first of one that is young, in billionths of a core.
    pub(crate) nano_cores: Option<u64>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) working_set_bytes: Option<u64>,
    pub(crate) available_bytes: Option<u64>,
    pub(crate) rss_bytes: Option<u64>,
    pub(crate) page_faults: Option<u64>,
    pub(crate) major_page_faults: Option<u64>,
    pub(crate) swap_bytes: Option<u64>,
    pub(crate) swap_available_bytes: Option<u64>,
    /// Processes and threads.
    pub(crate) tasks: Option<u64>,
    pub(crate) cpu_pressure: Option<Pressure>,
    pub(crate) memory_pressure: Option<Pressure>,
    pub(crate) io_pressure: Option<Pressure>,
}

/// Reading and remembering are apart: what is known is told at once, whoever reads.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    sampler: Mutex<Option<Sampler>>,
    census: Mutex<Option<Census>>,
    last: Mutex<Option<Sample>>,
}

impl Gauge {
    /// What was read last.
    pub(super) fn known(&self) -> Option<Sample> {
        lock(&self.last).clone()
    }

    /// What is known, if that is fresh, and else what a reading says; `None` if it cannot be read. Blocks.
    pub(super) fn read(
        &self,
        hierarchies: &Hierarchies,
        cgroup: &str,
        began_at_ns: i64,
    ) -> Option<Sample> {
        let known = self.known();
        if known
            .as_ref()
            .is_some_and(|last| age(last.taken_at_ns) < FRESH)
        {
            return known;
        }
        let mut sampler = match self.sampler.try_lock() {
            Ok(sampler) => sampler,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Somebody else is reading.
            Err(TryLockError::WouldBlock) if known.is_some() => return known,
            Err(TryLockError::WouldBlock) => {
                let sampler = lock(&self.sampler);
                match self.known() {
                    None => sampler,
                    known => return known,
                }
            }
        };
        if sampler.is_none() {
            *sampler = Some(hierarchies.open_cgroup(cgroup).ok()?.sampler().ok()?);
        }
        let Ok(counted) = sampler.as_mut()?.sample() else {
            *sampler = None;
            return None;
        };
        let sample = Sample::new(counted, known, began_at_ns);
        *lock(&self.last) = Some(sample.clone());
        Some(sample)
    }

    /// The processes in the cgroup and below it, now; `None` if they cannot be told. Blocks.
    pub(super) fn processes(&self, hierarchies: &Hierarchies, cgroup: &str) -> Option<Vec<Pid>> {
        let open = || hierarchies.open_cgroup(cgroup).ok()?.census().ok()?;
        // Who asks at the same time opens files of its own: the other may be stuck.
        let Ok(mut kept) = self.census.try_lock() else {
            return open()?.processes().ok();
        };
        if kept.is_none() {
            *kept = open();
        }
        let processes = kept.as_ref()?.processes();
        if processes.is_err() {
            *kept = None;
        }
        processes.ok()
    }

    /// Closes its descriptors, about twelve; reading opens them again. Blocks while it is read.
    pub(super) fn close(&self) {
        *lock(&self.sampler) = None;
        *lock(&self.census) = None;
    }

    /// As [`Gauge::close`], and nothing is known any more.
    pub(super) fn forget(&self) {
        self.close();
        *lock(&self.last) = None;
    }

    #[cfg(test)]
    fn is_open(&self) -> bool {
        lock(&self.sampler).is_some() || lock(&self.census).is_some()
    }
}

impl Sample {
    fn new(counted: cgroup::Stats, before: Option<Self>, began_at_ns: i64) -> Self {
        let mut sample = Self {
            taken_at_ns: now_ns(),
            tasks: counted.pids,
            cpu_pressure: counted.cpu_pressure,
            memory_pressure: counted.memory_pressure,
            io_pressure: counted.io_pressure,
            ..Self::default()
        };
        if let Some(cpu) = counted.cpu {
            sample.taken_at_ns = cpu.timestamp_ns;
            sample.cpu_ns = Some(cpu.usage_ns);
            let before = before.or_else(|| Self::beginning(began_at_ns));
            sample.nano_cores = before.and_then(|before| rate(&before, &sample));
        }
        if let Some(memory) = counted.memory {
            sample.memory_bytes = Some(memory.usage_bytes);
            sample.working_set_bytes = Some(memory.working_set_bytes);
            sample.available_bytes = memory.available_bytes;
            sample.rss_bytes = Some(memory.rss_bytes);
            sample.page_faults = Some(memory.page_faults);
            sample.major_page_faults = Some(memory.major_page_faults);
            sample.swap_bytes = Some(memory.swap_usage_bytes);
            sample.swap_available_bytes = memory.swap_available_bytes;
        }
        sample
    }

    fn beginning(began_at_ns: i64) -> Option<Self> {
        let recent = began_at_ns > 0 && age(began_at_ns) < BEGAN_WITHIN;
        recent.then(|| Self {
            taken_at_ns: began_at_ns,
            cpu_ns: Some(0),
            ..Self::default()
        })
    }

    /// Of cgroups beside each other. Limits and pressure do not add up. As old as the oldest of them; `None` of no cgroup at all.
    pub(super) fn sum(samples: &[Self]) -> Option<Self> {
        let add = |figure: fn(&Self) -> Option<u64>| {
            let known = samples.iter().filter_map(figure);
            known.reduce(u64::saturating_add)
        };
        Some(Self {
            taken_at_ns: samples.iter().map(|sample| sample.taken_at_ns).min()?,
            cpu_ns: add(|sample| sample.cpu_ns),
            nano_cores: add(|sample| sample.nano_cores),
            memory_bytes: add(|sample| sample.memory_bytes),
            working_set_bytes: add(|sample| sample.working_set_bytes),
            rss_bytes: add(|sample| sample.rss_bytes),
            page_faults: add(|sample| sample.page_faults),
            major_page_faults: add(|sample| sample.major_page_faults),
            swap_bytes: add(|sample| sample.swap_bytes),
            tasks: add(|sample| sample.tasks),
            ..Self::default()
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn rate(before: &Sample, now: &Sample) -> Option<u64> {
    let nanoseconds = u64::try_from(now.taken_at_ns - before.taken_at_ns)
        .ok()
        .filter(|n| *n > 0)?;
    let used = now.cpu_ns?.checked_sub(before.cpu_ns?)?;
    u64::try_from(u128::from(used) * 1_000_000_000 / u128::from(nanoseconds)).ok()
}

fn age(then_ns: i64) -> Duration {
    Duration::from_nanos(u64::try_from(now_ns() - then_ns).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use oci_plan::Resources;

    use super::*;

    fn at(taken_at_ns: i64, cpu_ns: u64) -> Sample {
        Sample {
            taken_at_ns,
            cpu_ns: Some(cpu_ns),
            ..Sample::default()
        }
    }

    #[test]
    fn half_a_core_is_half_a_billion() {
        assert_eq!(
            rate(&at(0, 100), &at(2_000_000_000, 1_000_000_100)),
            Some(500_000_000)
        );
        assert_eq!(rate(&at(5, 0), &at(5, 9)), None);
        assert_eq!(rate(&at(0, 9), &at(5, 3)), None);
    }

    #[test]
    fn a_sum_is_as_old_as_its_oldest_part() {
        let sum = Sample::sum(&[
            at(7, 1),
            at(5, 2),
            Sample {
                taken_at_ns: 6,
                ..Sample::default()
            },
        ]);
        let sum = sum.unwrap();
        assert_eq!(
            (sum.taken_at_ns, sum.cpu_ns, sum.memory_bytes),
            (5, Some(3), None)
        );
        assert!(Sample::sum(&[]).is_none());
    }

    #[test]
    fn a_gauge_remembers_what_it_read_and_opens_again_what_was_closed() {
        let hierarchies = Hierarchies::open().unwrap();
        let path = format!("longshored-gauge-test-{}", std::process::id());
        let cgroup = hierarchies.create(&path, &Resources::default()).unwrap();
        let gauge = Gauge::default();
        let began = now_ns() - 1_000_000_000;
        let first = gauge.read(&hierarchies, &path, began).unwrap();
        assert!(gauge.is_open() && first.nano_cores.is_some());
        assert_eq!(gauge.processes(&hierarchies, &path), Some(Vec::new()));
        gauge.close();
        assert!(!gauge.is_open());
        // It is fresh: nothing is opened for it.
        let again = gauge.read(&hierarchies, &path, began).unwrap();
        assert_eq!(again.taken_at_ns, first.taken_at_ns);
        assert!(!gauge.is_open());
        cgroup.remove().unwrap();
        gauge.forget();
        assert!(gauge.known().is_none());
        assert!(gauge.read(&hierarchies, &path, began).is_none());
        assert!(gauge.processes(&hierarchies, &path).is_none() && !gauge.is_open());
    }
}
