//! What the daemon counts about itself, for Prometheus. Pods' own figures are CRI's (`ListPodSandboxMetrics`); these are the runtime's.

mod server;

use std::{
    collections::BTreeMap,
    fs,
    hash::Hash,
    sync::{Mutex, PoisonError, atomic::AtomicU64},
    time::{Duration, SystemTime},
};

use image::{Images, LayerStage};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};
pub(crate) use server::Server;
use tonic::Code;

use crate::{
    container::{Container, Phase},
    runtime::Runtime,
};

/// From a list that comes from memory to a pull of gigabytes, seconds.
const BUCKETS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    rpc: String,
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SessionLabels {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeniedLabels {
    namespace: String,
    pod: String,
    container: String,
    syscall: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    rpc: &'static str,
}

/// Counted always, shown where somebody listens: counting costs less than asking whether to.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    calls: Family<CallLabels, Histogram, fn() -> Histogram>,
    sessions: Family<SessionLabels, Counter>,
    open_sessions: Family<SessionLabels, Gauge>,
    /// Set when somebody asks.
    calls_now: Gauge,
    operations: Family<OperationLabels, Gauge>,
    pods: Family<StateLabels, Gauge>,
    containers: Family<StateLabels, Gauge>,
    denied: Family<DeniedLabels, Counter>,
    pulls: Pulls,
    process: Process,
    /// Who asks sets gauges; one at a time.
    asking: Mutex<()>,
}

/// Layers on their way from registries.
#[derive(Debug, Default)]
struct Pulls {
    fetched_bytes: Counter,
    layers_now: Family<StateLabels, Gauge>,
    bytes_now: Family<StateLabels, Gauge>,
}

/// The daemon's own process, by the names that every exporter uses.
#[derive(Debug, Default)]
struct Process {
    cpu_seconds: Counter<f64, AtomicU64>,
    resident_bytes: Gauge,
    open_descriptors: Gauge,
    threads: Gauge,
    start_seconds: Gauge<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("longshore_build", "The daemon's version", build);
        let metrics = Self {
            calls: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            sessions: Family::default(),
            open_sessions: Family::default(),
            calls_now: Gauge::default(),
            operations: Family::default(),
            pods: Family::default(),
            containers: Family::default(),
            denied: Family::default(),
            pulls: Pulls::default(),
            process: Process::default(),
            asking: Mutex::default(),
            registry: Registry::default(),
        };
        registry.register_with_unit(
            "longshore_rpc",
            "Calls that have ended, by RPC and code; a stream ends when its last message is out",
            Unit::Seconds,
            metrics.calls.clone(),
        );
        registry.register(
            "longshore_rpcs_now",
            "Calls that somebody waits for",
            metrics.calls_now.clone(),
        );
        registry.register(
            "longshore_operations_now",
            "Operations under way, by the RPC that asks for them",
            metrics.operations.clone(),
        );
        registry.register(
            "longshore_streaming_sessions",
            "Sessions of exec, attach and port-forward that have begun",
            metrics.sessions.clone(),
        );
        registry.register(
            "longshore_streaming_sessions_open",
            "Sessions that go on",
            metrics.open_sessions.clone(),
        );
        registry.register("longshore_pods", "Pods, by state", metrics.pods.clone());
        registry.register(
            "longshore_containers",
            "Containers, by state",
            metrics.containers.clone(),
        );
        registry.register(
            "longshore_seccomp_denied_calls",
            "System calls denied by seccomp, of pods with a notifier",
            metrics.denied.clone(),
        );
        metrics.pulls.register(&mut registry);
        metrics.process.register(&mut registry);
        Self {
            registry,
            ..metrics
        }
    }
}

impl Metrics {
    /// A call has ended. What no service has is counted under one name: a client could make up any number.
    pub(crate) fn called(&self, rpc: &str, code: Code, took: Duration) {
        let rpc = match code {
            Code::Unimplemented => "other",
            _ => rpc,
        };
        let labels = CallLabels {
            rpc: rpc.to_owned(),
            code: format!("{code:?}"),
        };
        self.calls
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }

    /// Calls have been denied to a container whose pod has a notifier.
    pub(crate) fn denied(&self, container: &Container, syscall: &str, count: u64) {
        let labels = DeniedLabels::of(container, syscall);
        self.denied.get_or_create(&labels).inc_by(count);
    }

    /// A container is no more, and what is only known of it goes.
    pub(crate) fn forget<'a>(
        &self,
        container: &Container,
        syscalls: impl Iterator<Item = &'a String>,
    ) {
        for syscall in syscalls {
            self.denied.remove(&DeniedLabels::of(container, syscall));
        }
    }

    /// A session begins, and ends when the guard is dropped.
    pub(crate) fn session(&self, kind: &'static str) -> OpenSession {
        let labels = SessionLabels { kind };
        self.sessions.get_or_create(&labels).inc();
        let open = self.open_sessions.get_or_create(&labels).clone();
        open.inc();
        OpenSession(open)
    }

    /// In the text format of OpenMetrics.
    fn text(&self, runtime: &Runtime) -> Result<String, std::fmt::Error> {
        let _one = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        self.calls_now.set(number(runtime.calls.now().len()));
        let mut operations = BTreeMap::new();
        for operation in runtime.operations() {
            *operations.entry(operation.rpc).or_insert(0) += 1;
        }
        fill(&self.operations, operations, |rpc| OperationLabels { rpc });
        let mut pods = BTreeMap::from([("ready", 0), ("not_ready", 0)]);
        for pod in runtime.inventory.pods() {
            let state = if pod.is_ready() { "ready" } else { "not_ready" };
            *pods.entry(state).or_insert(0) += 1;
        }
        fill(&self.pods, pods, |state| StateLabels { state });
        let mut containers = BTreeMap::from([("created", 0), ("running", 0), ("exited", 0)]);
        for container in runtime.inventory.containers() {
            let state = match container.phase() {
                Phase::Creating | Phase::Removed => continue,
                Phase::Created { .. } => "created",
                Phase::Running { .. } => "running",
                Phase::Exited(_) => "exited",
            };
            *containers.entry(state).or_insert(0) += 1;
        }
        fill(&self.containers, containers, |state| StateLabels { state });
        self.pulls.look(&runtime.images);
        self.process.look();
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl DeniedLabels {
    fn of(container: &Container, syscall: &str) -> Self {
        let pod = &container.pod.config.metadata;
        Self {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            container: container.config.metadata.name.clone(),
            syscall: syscall.to_owned(),
        }
    }
}

/// Those that are no more do not stay.
fn fill<K: Ord, L>(family: &Family<L, Gauge>, counts: BTreeMap<K, i64>, label: impl Fn(K) -> L)
where
    L: Clone + Hash + Eq,
{
    family.clear();
    for (key, count) in counts {
        family.get_or_create(&label(key)).set(count);
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A session that goes on.
#[derive(Debug)]
pub(crate) struct OpenSession(Gauge);

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Pulls {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "longshore_pull_fetched_bytes",
            "Bytes of layers, compressed, that registries have sent",
            self.fetched_bytes.clone(),
        );
        registry.register(
            "longshore_pull_layers_now",
            "Layers of pulls under way, by state",
            self.layers_now.clone(),
        );
        registry.register(
            "longshore_pull_bytes_now",
            "Bytes of these layers, compressed, that have come and that are still to come",
            self.bytes_now.clone(),
        );
    }

    fn look(&self, images: &Images) {
        let news = images
            .fetched_bytes()
            .saturating_sub(self.fetched_bytes.get());
        self.fetched_bytes.inc_by(news);
        let mut layers = BTreeMap::from([("waiting", 0), ("fetching", 0), ("complete", 0)]);
        let (mut come, mut to_come) = (0, 0);
        for (_, progress, _) in images.pulls() {
            for layer in &progress.layers {
                let state = match layer.stage {
                    LayerStage::Waiting => "waiting",
                    LayerStage::Fetching => "fetching",
                    LayerStage::Complete => "complete",
                };
                *layers.entry(state).or_insert(0) += 1;
                come += layer.fetched_bytes;
                to_come += layer.total_bytes.saturating_sub(layer.fetched_bytes);
            }
        }
        fill(&self.layers_now, layers, |state| StateLabels { state });
        let bytes = [("come", come), ("to_come", to_come)];
        let bytes = bytes.map(|(state, bytes)| (state, i64::try_from(bytes).unwrap_or(i64::MAX)));
        fill(&self.bytes_now, BTreeMap::from(bytes), |state| {
            StateLabels { state }
        });
    }
}

impl Process {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "process_cpu_seconds",
            "User and system time of the daemon, seconds",
            self.cpu_seconds.clone(),
        );
        registry.register(
            "process_resident_memory_bytes",
            "Resident memory of the daemon, bytes",
            self.resident_bytes.clone(),
        );
        registry.register(
            "process_open_fds",
            "Open descriptors of the daemon",
            self.open_descriptors.clone(),
        );
        registry.register(
            "process_threads",
            "Threads of the daemon",
            self.threads.clone(),
        );
        registry.register(
            "process_start_time_seconds",
            "When the daemon started, seconds since 1970",
            self.start_seconds.clone(),
        );
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        self.start_seconds
            .set(since.unwrap_or_default().as_secs_f64());
    }

    /// The kernel answers from memory. What it does not tell stays as it was.
    fn look(&self) {
        if let Some((ticks, threads)) = times() {
            // USER_HZ, which programs see, is 100 whatever the kernel's own rate is.
            let seconds = ticks as f64 / 100.0;
            self.cpu_seconds
                .inc_by((seconds - self.cpu_seconds.get()).max(0.0));
            self.threads.set(threads);
        }
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = resident.and_then(|text| text.trim().strip_suffix(" kB")?.parse().ok());
        if let Some(kilobytes) = kilobytes {
            self.resident_bytes
                .set(i64::saturating_mul(kilobytes, 1024));
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // Less the one that lists them.
            self.open_descriptors.set(number(open.count()) - 1);
        }
    }
}

/// Ticks of user and system time, and threads: fields 14, 15 and 20 of proc_pid_stat(5).
fn times() -> Option<(u64, i64)> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name may have blanks and parentheses.
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<_> = rest.split(' ').collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some((field(14)? + field(15)?, i64::try_from(field(20)?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(metrics: &Metrics) -> String {
        metrics.process.look();
        let mut text = String::new();
        text::encode(&mut text, &metrics.registry).unwrap();
        text
    }

    #[test]
    fn calls_and_sessions_are_counted() {
        let metrics = Metrics::default();
        metrics.called("ListPods", Code::Ok, Duration::from_millis(2));
        metrics.called("ListPods", Code::Ok, Duration::from_millis(700));
        metrics.called("made-up", Code::Unimplemented, Duration::ZERO);
        let open = metrics.session("exec");
        drop(metrics.session("exec"));
        let text = encoded(&metrics);
        for line in [
            "longshore_rpc_seconds_count{rpc=\"ListPods\",code=\"Ok\"} 2",
            "longshore_rpc_seconds_bucket{le=\"0.0025\",rpc=\"ListPods\",code=\"Ok\"} 1",
            "longshore_rpc_seconds_count{rpc=\"other\",code=\"Unimplemented\"} 1",
            "longshore_streaming_sessions_total{kind=\"exec\"} 2",
            "longshore_streaming_sessions_open{kind=\"exec\"} 1",
        ] {
            assert!(text.lines().any(|one| one == line), "{line}: {text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
        drop(open);
        assert!(encoded(&metrics).contains("longshore_streaming_sessions_open{kind=\"exec\"} 0"));
    }

    #[test]
    fn the_process_is_this_one() {
        let metrics = Metrics::default();
        let text = encoded(&metrics);
        let value = |name: &str| {
            let line = text
                .lines()
                .find(|line| line.starts_with(&format!("{name} ")));
            let line = line.unwrap_or_else(|| panic!("{name}: {text}"));
            line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 1e5);
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_threads") >= 1.0);
        assert!(value("process_start_time_seconds") > 1e9);
        assert!(value("process_cpu_seconds_total") >= 0.0);
    }
}
