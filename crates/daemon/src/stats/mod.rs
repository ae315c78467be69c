//! Figures of running containers, sampled with kept-open descriptors and each with the time of its own reading.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use cgroup::Sampler;
use snapshot::Usage;

use crate::{
    container::{Container, Phase},
    id::ContainerId,
    runtime::{Runtime, blocking, now_ns},
};

/// A sample younger than this is given again instead of reading anew: kubelets and people ask in bursts.
const FRESH: Duration = Duration::from_secs(1);

/// Walking a writable layer touches the disk, so it is done this seldom.
const LAYER_FRESH: Duration = Duration::from_secs(10);

/// Reading cgroup files takes microseconds each; a layer's walk may take long on a busy disk.
const SAMPLE_WITHIN: Duration = Duration::from_secs(20);

/// One container's figures. `None` where this machine does not count them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample {
    pub(crate) taken_at_ns: i64,
    pub(crate) cpu_ns: Option<u64>,
    /// Mean use since the sample before, in billionths of a core; `None` in the first.
    pub(crate) nano_cores: Option<u64>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) working_set_bytes: Option<u64>,
    pub(crate) available_bytes: Option<u64>,
    pub(crate) rss_bytes: Option<u64>,
    pub(crate) page_faults: Option<u64>,
    pub(crate) major_page_faults: Option<u64>,
    pub(crate) swap_bytes: Option<u64>,
    pub(crate) swap_available_bytes: Option<u64>,
    pub(crate) writable_layer: Option<Layer>,
}

/// What a container has written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layer {
    pub(crate) measured_at_ns: i64,
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// Open samplers and the last samples, by container.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    meters: Mutex<HashMap<ContainerId, Arc<Mutex<Meter>>>>,
}

#[derive(Debug, Default)]
struct Meter {
    sampler: Option<Sampler>,
    last: Option<Sample>,
    layer: Option<Layer>,
}

impl Stats {
    fn meter(&self, container: &Container) -> Arc<Mutex<Meter>> {
        let mut meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        let meter = Arc::clone(meters.entry(container.id.clone()).or_default());
        // One that was removed while we held its list gets no meter that nobody would forget.
        if container.phase() == Phase::Removed {
            meters.remove(&container.id);
        }
        meter
    }

    /// Closes a container's descriptors.
    pub(crate) fn forget(&self, id: &ContainerId) {
        self.meters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
    }
}

/// What all containers have written, none of it measured longer ago than [`LAYER_FRESH`].
pub(crate) async fn writable_layers(runtime: &Arc<Runtime>) -> Usage {
    let runtime = Arc::clone(runtime);
    let measured = blocking(SAMPLE_WITHIN, move || {
        let containers = runtime.inventory.containers();
        containers
            .iter()
            .filter_map(|container| {
                let meter = runtime.stats.meter(container);
                let mut meter = meter.lock().unwrap_or_else(PoisonError::into_inner);
                let layer = meter.layer(&runtime, container)?;
                Some(Usage {
                    bytes: layer.bytes,
                    inodes: layer.inodes,
                })
            })
            .sum()
    });
    measured.await.unwrap_or_else(|error| {
        tracing::warn!(error = &error as &dyn std::error::Error, "measure layers");
        Usage::default()
    })
}

/// Samples those of the containers that run, off the runtime's workers. One that ends meanwhile is left out.
pub(crate) async fn sample(
    runtime: &Arc<Runtime>,
    containers: Vec<Arc<Container>>,
) -> Vec<(Arc<Container>, Sample)> {
    let runtime = Arc::clone(runtime);
    let sampled = blocking(SAMPLE_WITHIN, move || {
        let running = |container: &Arc<Container>| match container.phase() {
            Phase::Running { .. } => true,
            Phase::Creating | Phase::Created { .. } | Phase::Exited(_) | Phase::Removed => false,
        };
        containers
            .into_iter()
            .filter(running)
            .filter_map(|container| {
                let sample = sample_one(&runtime, &container)?;
                Some((container, sample))
            })
            .collect()
    });
    sampled.await.unwrap_or_else(|error| {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "sample containers"
        );
        Vec::new()
    })
}

fn sample_one(runtime: &Runtime, container: &Container) -> Option<Sample> {
    let meter = runtime.stats.meter(container);
    let mut meter = meter.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(last) = &meter.last
        && age(last.taken_at_ns) < FRESH
    {
        return Some(last.clone());
    }
    if meter.sampler.is_none() {
        let cgroup = runtime.hierarchies.open_cgroup(&container.cgroup).ok()?;
        meter.sampler = Some(cgroup.sampler().ok()?);
    }
    let figures = meter.sampler.as_mut()?.sample().ok()?;
    let mut sample = Sample {
        taken_at_ns: now_ns(),
        ..Sample::default()
    };
    if let Some(cpu) = figures.cpu {
        sample.taken_at_ns = cpu.timestamp_ns;
        sample.cpu_ns = Some(cpu.usage_ns);
        sample.nano_cores = meter.last.as_ref().and_then(|last| rate(last, &sample));
    }
    if let Some(memory) = figures.memory {
        sample.memory_bytes = Some(memory.usage_bytes);
        sample.working_set_bytes = Some(memory.working_set_bytes);
        sample.available_bytes = memory.available_bytes;
        sample.rss_bytes = Some(memory.rss_bytes);
        sample.page_faults = Some(memory.page_faults);
        sample.major_page_faults = Some(memory.major_page_faults);
        sample.swap_bytes = Some(memory.swap_usage_bytes);
        sample.swap_available_bytes = memory.swap_available_bytes;
    }
    sample.writable_layer = meter.layer(runtime, container);
    meter.last = Some(sample.clone());
    Some(sample)
}

impl Meter {
    /// What the container has written, walked anew where the last walk is too long ago.
    fn layer(&mut self, runtime: &Runtime, container: &Container) -> Option<Layer> {
        if let Some(layer) = self.layer
            && age(layer.measured_at_ns) < LAYER_FRESH
        {
            return self.layer;
        }
        let usage = runtime.overlay.usage(container.id.as_str()).ok()?;
        self.layer = Some(Layer {
            measured_at_ns: now_ns(),
            bytes: usage.bytes,
            inodes: usage.inodes,
        });
        self.layer
    }
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
    use super::*;

    #[test]
    fn half_a_core_is_half_a_billion() {
        let at = |taken_at_ns, cpu_ns| Sample {
            taken_at_ns,
            cpu_ns: Some(cpu_ns),
            ..Sample::default()
        };
        assert_eq!(
            rate(&at(0, 100), &at(2_000_000_000, 1_000_000_100)),
            Some(500_000_000)
        );
        assert_eq!(rate(&at(5, 0), &at(5, 9)), None);
        assert_eq!(rate(&at(0, 9), &at(5, 3)), None);
    }
}
