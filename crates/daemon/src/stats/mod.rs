//! What containers and pods use: sampled with kept-open descriptors, each sample with the time of its own reading.
//!
//! Requests are answered from what is known. One that finds it older than a second has it read anew, off the runtime's workers, and waits for
//! that within a bound; a cgroup that the kernel is slow about shows its last sample. While somebody asks, everything is read every few seconds,
//! so that what is known is never old and a mean has a window; when nobody has asked for a minute, descriptors are closed and nothing is read.

mod detail;
mod gauge;
mod layers;
mod network;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

pub(crate) use detail::{Disk, Figures, Processes, detail};
use gauge::Gauge;
pub(crate) use gauge::Sample;
pub(crate) use layers::Layer;
use layers::{LayerMeter, Walks};
use network::NetworkMeter;
pub(crate) use network::{Interface, Network, Traffic};
use snapshot::Usage;
use tokio::time::Instant;

use crate::{
    container::{Container, Phase},
    id::{ContainerId, PodId},
    pod::{self, Pod},
    runtime::{Runtime, blocking},
};

/// Between readings while somebody asks. What is known is no older than twice this.
const EVERY: Duration = Duration::from_secs(5);

/// How long somebody counts as asking.
const ASKED_WITHIN: Duration = Duration::from_secs(60);

/// Reading cgroup files takes microseconds each, unless the kernel is stuck; then what is known is told.
const SAMPLE_WITHIN: Duration = Duration::from_secs(2);

/// How long samples wait for what a new container has written; without it, the figure is left out.
const FIRST_WALK_WITHIN: Duration = Duration::from_secs(1);

/// How long the sum of all layers waits for one that was never measured; without it, the sum is too low.
const SUM_WITHIN: Duration = Duration::from_secs(10);

/// A container's figures.
#[derive(Debug, Clone)]
pub(crate) struct ContainerSample {
    pub(crate) container: Arc<Container>,
    pub(crate) cgroup: Sample,
    pub(crate) writable_layer: Option<Layer>,
}

/// A pod's figures.
#[derive(Debug, Clone)]
pub(crate) struct PodSample {
    pub(crate) pod: Arc<Pod>,
    /// Of the cgroup that its kubelet made for it alone, and else the sum of its containers that run; `None` if none does.
    pub(crate) cgroup: Option<Sample>,
    /// `None` on the host's network.
    pub(crate) network: Option<Network>,
    /// In its containers that run.
    pub(crate) processes: Option<u64>,
    pub(crate) containers: Vec<ContainerSample>,
}

/// What is known of containers and pods, until they are removed.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    meters: Mutex<HashMap<ContainerId, Arc<Meter>>>,
    pods: Mutex<HashMap<PodId, Arc<PodMeter>>>,
    asked: Mutex<Option<Instant>>,
    walks: Walks,
}

#[derive(Debug, Default)]
struct Meter {
    gauge: Gauge,
    layer: LayerMeter,
    detail: detail::Known,
}

#[derive(Debug, Default)]
struct PodMeter {
    gauge: Gauge,
    network: NetworkMeter,
    detail: detail::Known,
}

impl Stats {
    fn meter(&self, container: &Container) -> Arc<Meter> {
        let mut meters = lock(&self.meters);
        let meter = Arc::clone(meters.entry(container.id.clone()).or_default());
        // One that was removed while we held its list gets no meter that nobody would forget.
        if container.phase() == Phase::Removed {
            meters.remove(&container.id);
        }
        meter
    }

    fn pod_meter(&self, pod: &Pod) -> Arc<PodMeter> {
        let mut meters = lock(&self.pods);
        let meter = Arc::clone(meters.entry(pod.id.clone()).or_default());
        if pod.phase() == pod::Phase::Removed {
            meters.remove(&pod.id);
        }
        meter
    }

    /// The container has been removed.
    pub(crate) fn forget(&self, id: &ContainerId) {
        lock(&self.meters).remove(id);
    }

    /// The pod has been removed.
    pub(crate) fn forget_pod(&self, id: &PodId) {
        lock(&self.pods).remove(id);
    }

    /// The pod is being stopped: nothing of ours keeps its network namespace any more.
    pub(crate) fn leave_network(&self, pod: &Pod) {
        self.pod_meter(pod).network.leave();
    }

    /// Whether somebody has asked of late, this time included.
    fn asked(&self, now: bool) -> bool {
        let mut asked = lock(&self.asked);
        if now {
            *asked = Some(Instant::now());
        }
        asked.is_some_and(|at| at.elapsed() < ASKED_WITHIN)
    }
}

/// Reads everything again and again while somebody asks, and for as long as the daemon lives.
pub(crate) async fn keep_fresh(runtime: Weak<Runtime>) {
    let mut open = false;
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(runtime) = runtime.upgrade() else {
            return;
        };
        let read = runtime.stats.asked(false);
        if read || open {
            // One that is stuck is left behind; the next may be as well, and the pool of threads bounds them.
            let _late = blocking(ASKED_WITHIN, move || match read {
                true => read_all(&runtime),
                false => close_all(&runtime.stats),
            })
            .await;
        }
        open = read;
    }
}

fn read_all(runtime: &Runtime) {
    for container in runtime.inventory.containers() {
        read_container(runtime, &container, &runtime.stats.meter(&container));
    }
    let pods = runtime.inventory.pods();
    let alone = alone(runtime, &pods);
    for (pod, alone) in pods.iter().zip(alone) {
        let meter = runtime.stats.pod_meter(pod);
        if alone {
            read_pod(runtime, pod, &meter);
        }
    }
}

fn close_all(stats: &Stats) {
    let containers: Vec<_> = lock(&stats.meters).values().cloned().collect();
    for meter in containers {
        meter.gauge.close();
        meter.detail.close();
    }
    let pods: Vec<_> = lock(&stats.pods).values().cloned().collect();
    for meter in pods {
        meter.gauge.close();
        meter.detail.close();
        meter.network.close();
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

/// The figures of those of the containers that run. One that ends meanwhile is left out, or shown as it was read last.
pub(crate) async fn sample(
    runtime: &Arc<Runtime>,
    containers: Vec<Arc<Container>>,
) -> Vec<ContainerSample> {
    runtime.stats.asked(true);
    let metered = metered(&runtime.stats, containers);
    let read = {
        let (runtime, metered) = (Arc::clone(runtime), metered.clone());
        move || -> Vec<_> {
            let read = metered.iter();
            read.map(|(container, meter)| read_container(&runtime, container, meter))
                .collect()
        }
    };
    let read = blocking(SAMPLE_WITHIN, read).await;
    let samples = match read {
        Ok(samples) => samples,
        // The kernel is slow about one of them.
        Err(_late) => metered
            .iter()
            .map(|(_, meter)| meter.gauge.known())
            .collect(),
    };
    for (container, meter) in &metered {
        walk(runtime, container, meter);
    }
    let mut sampled = Vec::with_capacity(metered.len());
    for ((container, meter), sample) in metered.into_iter().zip(samples) {
        let Some(cgroup) = sample else { continue };
        sampled.push(ContainerSample {
            container,
            cgroup,
            writable_layer: meter.layer.figure(FIRST_WALK_WITHIN).await,
        });
    }
    sampled
}

/// The figures of pods. Those that are not ready have their containers', which may still run.
pub(crate) async fn sample_pods(runtime: &Arc<Runtime>, pods: Vec<Arc<Pod>>) -> Vec<PodSample> {
    let containers = pods
        .iter()
        .flat_map(|pod| runtime.inventory.containers_of(&pod.id))
        .collect();
    let mut containers_of: HashMap<PodId, Vec<ContainerSample>> = HashMap::new();
    for sample in sample(runtime, containers).await {
        let pod = sample.container.pod.id.clone();
        containers_of.entry(pod).or_default().push(sample);
    }
    let alone = alone(runtime, &pods);
    let read = {
        let (runtime, pods, alone) = (Arc::clone(runtime), pods.clone(), alone.clone());
        let members: Vec<_> = pods
            .iter()
            .map(|pod| {
                let samples = containers_of.get(&pod.id).into_iter().flatten();
                let members = samples.map(|sample| Arc::clone(&sample.container));
                metered(&runtime.stats, members.collect())
            })
            .collect();
        move || -> Vec<_> {
            let read = pods.iter().zip(alone).zip(&members);
            read.map(|((pod, alone), members)| {
                let meter = runtime.stats.pod_meter(pod);
                let own = if alone {
                    read_pod(&runtime, pod, &meter)
                } else {
                    None
                };
                (
                    own,
                    read_network(pod, &meter),
                    count_processes(&runtime, members),
                )
            })
            .collect()
        }
    };
    let read = match blocking(SAMPLE_WITHIN, read).await {
        Ok(read) => read,
        Err(_late) => vec![(None, None, None); pods.len()],
    };
    let pods = pods.into_iter().zip(alone).zip(read);
    pods.map(|((pod, alone), (own, network, processes))| {
        let containers = containers_of.remove(&pod.id).unwrap_or_default();
        let parts: Vec<_> = containers.iter().map(|c| c.cgroup.clone()).collect();
        let known = || {
            runtime
                .stats
                .pod_meter(&pod)
                .gauge
                .known()
                .filter(|_| alone)
        };
        PodSample {
            cgroup: own.or_else(known).or_else(|| Sample::sum(&parts)),
            pod,
            network,
            processes,
            containers,
        }
    })
    .collect()
}

fn metered(stats: &Stats, containers: Vec<Arc<Container>>) -> Vec<(Arc<Container>, Arc<Meter>)> {
    containers
        .into_iter()
        .map(|container| {
            let meter = stats.meter(&container);
            (container, meter)
        })
        .collect()
}

fn read_container(
    runtime: &Runtime,
    container: &Arc<Container>,
    meter: &Arc<Meter>,
) -> Option<Sample> {
    let Phase::Running { started_at_ns, .. } = container.phase() else {
        return None;
    };
    let first = meter.gauge.known().is_none();
    let sample = meter
        .gauge
        .read(&runtime.hierarchies, container.cgroup(), started_at_ns)?;
    if first {
        let ended = Arc::clone(container);
        forget_after(meter, async move { ended.exited().await });
    }
    Some(sample)
}

/// Drops what is known of a container, and its descriptors, when it has ended: ended containers are kept for long, and many.
fn forget_after(meter: &Arc<Meter>, end: impl Future<Output = ()> + Send + 'static) {
    let meter = Arc::clone(meter);
    tokio::spawn(async move {
        end.await;
        // It waits for a reading that is under way.
        tokio::task::spawn_blocking(move || {
            meter.gauge.forget();
            meter.detail.close();
        });
    });
}

/// Which of the pods have a cgroup to themselves: one that the request named and that no other pod's did.
fn alone(runtime: &Runtime, pods: &[Arc<Pod>]) -> Vec<bool> {
    let all = runtime.inventory.all_pods();
    let mut shared: HashMap<&str, usize> = HashMap::new();
    for pod in &all {
        *shared.entry(&pod.cgroup_parent).or_default() += 1;
    }
    let alone = |pod: &Arc<Pod>| {
        let named = !pod.config.linux.cgroup_parent.is_empty();
        named
            && pod.is_ready()
            && shared
                .get(&*pod.cgroup_parent)
                .is_none_or(|pods| *pods <= 1)
    };
    pods.iter().map(alone).collect()
}

fn read_pod(runtime: &Runtime, pod: &Pod, meter: &PodMeter) -> Option<Sample> {
    meter
        .gauge
        .read(&runtime.hierarchies, &pod.cgroup_parent, pod.created_at_ns)
}

fn read_network(pod: &Pod, meter: &PodMeter) -> Option<Network> {
    let network = pod.network().filter(|_| pod.is_ready())?;
    meter.network.read(&network.netns)
}

fn count_processes(runtime: &Runtime, members: &[(Arc<Container>, Arc<Meter>)]) -> Option<u64> {
    let mut all = 0;
    for (container, meter) in members {
        // One that has ended meanwhile has none.
        let processes = meter
            .gauge
            .processes(&runtime.hierarchies, container.cgroup());
        all += processes.map_or(0, |processes| processes.len());
    }
    u64::try_from(all).ok()
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use oci_plan::Resources;

    use super::*;
    use crate::runtime::now_ns;

    #[tokio::test]
    async fn nothing_of_a_container_is_kept_open_when_it_has_ended() {
        let hierarchies = cgroup::Hierarchies::open().unwrap();
        let path = format!("longshored-stats-test-{}", std::process::id());
        let cgroup = hierarchies.create(&path, &Resources::default()).unwrap();
        let meter = Arc::new(Meter::default());
        assert!(meter.gauge.read(&hierarchies, &path, now_ns()).is_some());
        cgroup.remove().unwrap();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        forget_after(&meter, async move {
            let _ended = ended.await;
        });
        tokio::task::yield_now().await;
        assert!(meter.gauge.known().is_some());
        drop(end);
        while meter.gauge.known().is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
