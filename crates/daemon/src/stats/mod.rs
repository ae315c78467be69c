//! Figures of running containers, sampled with kept-open descriptors and each with the time of its own reading.

mod layers;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cgroup::Sampler;
pub(crate) use layers::Layer;
use layers::{LayerMeter, Walks};
use snapshot::Usage;

use crate::{
    container::{Container, Phase},
    id::ContainerId,
    runtime::{BlockingError, Runtime, blocking, now_ns},
};

/// A sample younger than this is given again instead of reading anew: kubelets and people ask in bursts.
const FRESH: Duration = Duration::from_secs(1);

/// Reading cgroup files takes microseconds each, unless the kernel is stuck.
const SAMPLE_WITHIN: Duration = Duration::from_secs(20);

/// How long samples wait for what a new container has written; without it, the figure is left out.
const FIRST_WALK_WITHIN: Duration = Duration::from_secs(1);

/// How long the sum of all layers waits for one that was never measured; without it, the sum is too low.
const SUM_WITHIN: Duration = Duration::from_secs(10);

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

/// Containers could not be sampled, all of those asked for.
#[derive(Debug, thiserror::Error)]
#[error("sample the containers' cgroups")]
pub(crate) struct SampleError(#[source] pub(crate) BlockingError);

/// What is known of containers, until they are removed.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    meters: Mutex<HashMap<ContainerId, Arc<Meter>>>,
    walks: Walks,
}

#[derive(Debug, Default)]
struct Meter {
    figures: Mutex<Figures>,
    layer: LayerMeter,
}

/// Of a container that runs.
#[derive(Debug, Default)]
struct Figures {
    sampler: Option<Sampler>,
    last: Option<Sample>,
}

impl Stats {
    fn meter(&self, container: &Container) -> Arc<Meter> {
        let mut meters = self.lock();
        let meter = Arc::clone(meters.entry(container.id.clone()).or_default());
        // One that was removed while we held its list gets no meter that nobody would forget.
        if container.phase() == Phase::Removed {
            meters.remove(&container.id);
        }
        meter
    }

    /// The container has been removed.
    pub(crate) fn forget(&self, id: &ContainerId) {
        self.lock().remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ContainerId, Arc<Meter>>> {
        self.meters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What all containers have written, as far as is known.
pub(crate) async fn writable_layers(runtime: &Runtime) -> Usage {
    let containers = runtime.inventory.containers();
    // All walks are asked for before one is waited for.
    let meters: Vec<_> = containers
        .iter()
        .map(|container| {
            let meter = runtime.stats.meter(container);
            walk(runtime, container, &meter);
            meter
        })
        .collect();
    let mut sum = Usage::default();
    for (container, meter) in containers.iter().zip(meters) {
        match meter.layer.figure(SUM_WITHIN).await {
            Some(Layer { bytes, inodes, .. }) => sum = sum + Usage { bytes, inodes },
            None => {
                tracing::warn!(container = %container.id, "its writable layer is not in the sum of all: it was never measured");
            }
        }
    }
    sum
}

/// Samples those of the containers that run, off the runtime's workers. One that ends meanwhile is left out.
pub(crate) async fn sample(
    runtime: &Arc<Runtime>,
    containers: Vec<Arc<Container>>,
) -> Result<Vec<(Arc<Container>, Sample)>, SampleError> {
    let shared = Arc::clone(runtime);
    let sampled = blocking(SAMPLE_WITHIN, move || -> Vec<_> {
        containers
            .into_iter()
            .filter_map(|container| {
                let meter = shared.stats.meter(&container);
                let sample = sample_one(&shared, &container, &meter)?;
                Some((container, meter, sample))
            })
            .collect()
    });
    let sampled = sampled.await.map_err(SampleError)?;
    for (container, meter, _) in &sampled {
        walk(runtime, container, meter);
    }
    let mut samples = Vec::with_capacity(sampled.len());
    for (container, meter, mut sample) in sampled {
        sample.writable_layer = meter.layer.figure(FIRST_WALK_WITHIN).await;
        samples.push((container, sample));
    }
    Ok(samples)
}

fn sample_one(runtime: &Runtime, container: &Arc<Container>, meter: &Arc<Meter>) -> Option<Sample> {
    let mut figures = meter.lock();
    let Phase::Running { .. } = container.phase() else {
        return None;
    };
    if let Some(last) = &figures.last
        && age(last.taken_at_ns) < FRESH
    {
        return Some(last.clone());
    }
    if figures.sampler.is_none() {
        let cgroup = runtime.hierarchies.open_cgroup(&container.cgroup).ok()?;
        figures.sampler = Some(cgroup.sampler().ok()?);
        let ended = Arc::clone(container);
        close_after(meter, async move { ended.exited().await });
    }
    let counted = figures.sampler.as_mut()?.sample().ok()?;
    let mut sample = Sample {
        taken_at_ns: now_ns(),
        ..Sample::default()
    };
    if let Some(cpu) = counted.cpu {
        sample.taken_at_ns = cpu.timestamp_ns;
        sample.cpu_ns = Some(cpu.usage_ns);
        sample.nano_cores = figures.last.as_ref().and_then(|last| rate(last, &sample));
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
    figures.last = Some(sample.clone());
    Some(sample)
}

impl Meter {
    fn lock(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes a sampler's descriptors, half a dozen, when its container has ended: ended containers are kept for long, and many.
fn close_after(meter: &Arc<Meter>, end: impl Future<Output = ()> + Send + 'static) {
    let meter = Arc::clone(meter);
    tokio::spawn(async move {
        end.await;
        *meter.lock() = Figures::default();
    });
}

/// Has the container's layer measured in the background, where that is due.
fn walk(runtime: &Runtime, container: &Container, meter: &Meter) {
    let settled_at_ns = match container.phase() {
        // Nothing writes to it any more.
        Phase::Exited(exit) => Some(exit.finished_at_ns),
        Phase::Creating | Phase::Created { .. } | Phase::Running { .. } | Phase::Removed => None,
    };
    let (overlay, id) = (Arc::clone(&runtime.overlay), container.id.clone());
    meter
        .layer
        .refresh(&runtime.stats.walks, settled_at_ns, move || {
            let measured = overlay.usage(id.as_str());
            measured
                .inspect_err(|error| {
                    let error = error as &dyn std::error::Error;
                    tracing::warn!(container = %id, error, "its writable layer is not measured");
                })
                .ok()
        });
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
    #[tokio::test]
    async fn descriptors_are_closed_when_a_container_has_ended() {
        let hierarchies = cgroup::Hierarchies::open().unwrap();
        let path = format!("longshored-stats-test-{}", std::process::id());
        let cgroup = hierarchies.create(&path, &Resources::default()).unwrap();
        let meter = Arc::new(Meter::default());
        *meter.lock() = Figures {
            sampler: Some(cgroup.sampler().unwrap()),
            last: Some(Sample::default()),
        };
        cgroup.remove().unwrap();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        close_after(&meter, async move {
            let _ended = ended.await;
        });
        tokio::task::yield_now().await;
        assert!(meter.lock().sampler.is_some());
        drop(end);
        while meter.lock().sampler.is_some() {
            tokio::task::yield_now().await;
        }
        assert!(meter.lock().last.is_none());
    }
}
