use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use cgroup::{Hierarchies, Mode};
use cri::client::{Client, Endpoint};
use tempfile::TempDir;
use tokio::net::UnixStream;

use super::{
    BenchError, Machine, PodsReport, SubjectReport,
    calls::Calls,
    crowd::{self, Shape},
    floor, lists,
    sequence::Sequence,
    stop::Stop,
    workload::{Network, Workload},
};

/// What `bench pods` does at each endpoint.
#[derive(Debug, Clone)]
pub struct PodsSettings {
    /// Must have `sh` and `sleep`. Pulled where it is missing.
    pub image: String,
    /// Pods in sequence on each network.
    pub rounds: usize,
    /// Networks measured; the first is also that of the crowd.
    pub networks: Vec<Network>,
    /// Pods of the crowd; 0 leaves it out.
    pub crowd: usize,
    /// How many of the crowd are made at a time.
    pub concurrency: usize,
    /// Running containers for the lists; 0 leaves them out.
    pub list_containers: usize,
    /// RuntimeClass handler; empty for the default.
    pub handler: String,
    /// Cgroup parent of pods; empty for the runtime's own choice. In the runtime's driver's notation.
    pub cgroup_parent: String,
    /// For logs and mounted files; the runtimes must see it. Removed at the end.
    pub directory: PathBuf,
}

/// A runtime to measure.
#[derive(Debug, Clone)]
pub struct Subject {
    /// How the report calls it.
    pub name: String,
    /// Where it listens.
    pub endpoint: Endpoint,
}

/// How long to wait for an endpoint.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// How long a runtime is left alone before its idle figures are read.
const SETTLE: Duration = Duration::from_secs(2);

/// An endpoint under measurement.
pub(crate) struct Measured {
    pub(crate) calls: Calls,
    pub(crate) daemon: i32,
    pub(crate) runtime: String,
    pub(crate) version: String,
    sequences: Vec<Sequence>,
}

/// Measures every subject in turn, round by round, and removes what it made, also after a failure. `progress` is told what is being done.
///
/// Cancellation: once `interrupt` is ready the rest is left out and the pods are removed. Dropping the future leaves pods behind; they have the
/// label `longshore.bench/run`.
pub async fn run_pods(
    subjects: &[Subject],
    settings: &PodsSettings,
    interrupt: impl Future<Output = ()>,
    mut progress: impl FnMut(&str),
) -> Result<PodsReport, BenchError> {
    let mut notes = Vec::new();
    let scratch = pods_scratch(&settings.directory)?;
    let directory = scratch.path();

    progress("the floor");
    let floor = match floor::measure(directory, settings.rounds.max(20)) {
        Ok(floor) => Some(floor),
        Err(error) => {
            notes.push(format!("no floor: {}", streaming::chain(&error)));
            None
        }
    };

    let workload = Workload::new(&settings.image, &settings.cgroup_parent);
    let (image, handler) = (&settings.image, &settings.handler);
    let stop = Stop::default();
    let mut measured = begin(subjects, handler, &settings.networks, &stop, &mut progress).await?;
    let work = async {
        ensure_image(&measured, image, &mut progress).await?;
        measure_all(&mut measured, &workload, settings, directory, &mut progress).await
    };
    let result = stop.bound(work, interrupt, None).await;
    remove_all(&measured, &workload, &mut notes).await;
    Ok(PodsReport {
        machine: machine(),
        rounds: settings.rounds,
        floor,
        subjects: result?,
        notes,
    })
}

/// Connects to every subject before anything is asked of any.
pub(crate) async fn begin(
    subjects: &[Subject],
    handler: &str,
    networks: &[Network],
    stop: &Stop,
    progress: &mut impl FnMut(&str),
) -> Result<Vec<Measured>, BenchError> {
    let mut measured = Vec::new();
    for subject in subjects {
        progress(&format!("{}: connect", subject.name));
        measured.push(Measured::connect(subject, handler, networks, stop).await?);
    }
    Ok(measured)
}

/// Pulls the image where it is missing.
pub(crate) async fn ensure_image(
    measured: &[Measured],
    image: &str,
    progress: &mut impl FnMut(&str),
) -> Result<(), BenchError> {
    for subject in measured {
        progress(&format!("{}: the image", subject.calls.subject));
        subject.calls.ensure_image(image).await?;
    }
    Ok(())
}

/// Removes every pod of the run. After a success of [`run_pods`] there is none.
pub(crate) async fn remove_all(
    measured: &[Measured],
    workload: &Workload,
    notes: &mut Vec<String>,
) {
    for subject in measured {
        if let Err(error) = subject.calls.remove_run(&workload.run).await {
            notes.push(format!("pods may be left: {}", streaming::chain(&error)));
        }
    }
}

async fn measure_all(
    measured: &mut [Measured],
    workload: &Workload,
    settings: &PodsSettings,
    directory: &Path,
    progress: &mut impl FnMut(&str),
) -> Result<Vec<SubjectReport>, BenchError> {
    for (index, network) in settings.networks.iter().enumerate() {
        for round in 0..=settings.rounds {
            progress(&format!(
                "{network:?} network: pod {round} of {}",
                settings.rounds
            ));
            for subject in measured.iter_mut() {
                let calls = &subject.calls;
                subject.sequences[index]
                    .round(calls, workload, directory, round)
                    .await?;
            }
        }
    }
    let mut reports = Vec::new();
    for subject in measured {
        let calls = &subject.calls;
        let mut crowd = None;
        if let (1.., Some(&network)) = (settings.crowd, settings.networks.first()) {
            progress(&format!(
                "{}: {} pods at once",
                calls.subject, settings.crowd
            ));
            tokio::time::sleep(SETTLE).await;
            let shape = Shape {
                pods: settings.crowd,
                at_once: settings.concurrency.max(1),
                network,
            };
            crowd = Some(crowd::measure(calls, subject.daemon, workload, directory, shape).await?);
        }
        let mut listed = None;
        if settings.list_containers > 0 {
            progress(&format!(
                "{}: {} containers",
                calls.subject, settings.list_containers
            ));
            listed = lists::measure(calls, workload, directory, settings.list_containers).await?;
        }
        reports.push(SubjectReport {
            name: calls.subject.clone(),
            runtime: subject.runtime(),
            networks: subject.sequences.iter().map(Sequence::report).collect(),
            crowd,
            lists: listed,
        });
    }
    Ok(reports)
}

impl Measured {
    /// Its name and version.
    pub(crate) fn runtime(&self) -> String {
        format!("{} {}", self.runtime, self.version)
    }

    async fn connect(
        subject: &Subject,
        handler: &str,
        networks: &[Network],
        stop: &Stop,
    ) -> Result<Self, BenchError> {
        let client = Client::connect(subject.endpoint.clone(), CONNECT_WITHIN).await?;
        let calls = Calls::new(&subject.name, client, handler, stop);
        let version = calls.version().await?;
        Ok(Self {
            calls,
            daemon: daemon_of(&subject.endpoint).await?,
            runtime: version.runtime_name,
            version: version.runtime_version,
            sequences: networks
                .iter()
                .map(|&network| Sequence::on(network))
                .collect(),
        })
    }
}

/// Who listens there (unix(7), SO_PEERCRED).
async fn daemon_of(endpoint: &Endpoint) -> Result<i32, BenchError> {
    let socket = endpoint.socket();
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|source| io_error("connect to", socket, source))?;
    let peer = rustix::net::sockopt::socket_peercred(&stream)
        .map_err(|errno| io_error("ask who listens at", socket, errno.into()))?;
    Ok(peer.pid.as_raw_nonzero().get())
}

pub(crate) fn machine() -> Machine {
    let uname = rustix::system::uname();
    let cgroups = match Hierarchies::open().map(|hierarchies| hierarchies.mode()) {
        Ok(Mode::V1) => "v1".to_owned(),
        Ok(Mode::V2) => "v2".to_owned(),
        Ok(Mode::Hybrid) => "v1 and v2 beside each other".to_owned(),
        Err(error) => format!("unknown: {}", streaming::chain(&error)),
    };
    let memory = rustix::system::sysinfo();
    Machine {
        kernel: uname.release().to_string_lossy().into_owned(),
        processors: std::thread::available_parallelism().map_or(0, usize::from),
        processor: processor(),
        memory_bytes: memory.totalram as u64 * u64::from(memory.mem_unit),
        cgroups,
    }
}

/// As x86 has it; other architectures name none there.
fn processor() -> String {
    let all = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut lines = all.lines().filter_map(|line| line.split_once(':'));
    let named = lines.find(|(key, _)| key.trim() == "model name");
    named.map_or_else(String::new, |(_, name)| name.trim().to_owned())
}

/// A directory of a run's own, gone when it is dropped.
pub(crate) fn scratch(parent: &Path) -> Result<TempDir, BenchError> {
    tempfile::Builder::new()
        .prefix("longshore-bench-")
        .tempdir_in(parent)
        .map_err(|source| io_error("make a directory", parent, source))
}

/// The same, with the files that [`Workload::container`] mounts.
pub(crate) fn pods_scratch(parent: &Path) -> Result<TempDir, BenchError> {
    let scratch = scratch(parent)?;
    Workload::files(scratch.path())
        .map_err(|source| io_error("write the pods' files", scratch.path(), source))?;
    Ok(scratch)
}

pub(crate) fn io_error(operation: &str, path: &Path, source: io::Error) -> BenchError {
    BenchError::Io {
        operation: format!("{operation} {}", path.display()),
        source,
    }
}
