//! All benchmarks in one run: the endpoints take turns round by round, in an order that chance makes, so that what the machine does meanwhile
//! befalls all of them alike.

mod concurrency;
mod handlers;
mod images;
mod pods;
mod scale;
mod stream;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use streaming::chain;

use super::{
    BenchError, Network, Subject,
    floor::Floor,
    pods::{Measured, begin, ensure_image, machine, pods_scratch, remove_all},
    record::{At, FORMAT, Participant, Record, Series, Suite, Unit, VERSION},
    samples::Samples,
    sequence::Sequence,
    stop::Stop,
    workload::Workload,
};
use crate::order::Order;

/// What [`run_suites`] does at each endpoint.
#[derive(Debug, Clone)]
pub struct RunSettings {
    /// Which parts; they run in the order of [`Suite::ALL`].
    pub suites: Vec<Suite>,
    /// Must have `sh`, `sleep`, `cat`, `dd` and `true`. Pulled where it is missing.
    pub image: String,
    /// Rounds that do not count, before those that do.
    pub warmup: usize,
    /// Rounds that count.
    pub repeats: usize,
    /// Networks of pods that are made one by one; the first is also that of all others.
    pub networks: Vec<Network>,
    /// How many pods run while [`Suite::Scale`] looks.
    pub pods: Vec<usize>,
    /// How many pods [`Suite::Concurrency`] makes at a time.
    pub concurrency: Vec<usize>,
    /// Bytes that [`Suite::Stream`] sends each way.
    pub stream_bytes: u64,
    /// Which images [`Suite::Images`] pulls; empty for all.
    pub images: Vec<String>,
    /// Of those images' full sizes, in percent.
    pub image_scale_percent: u64,
    /// Where those images are made: on the file system of the runtimes' roots.
    pub image_directory: PathBuf,
    /// RuntimeClass handler; empty for the default.
    pub handler: String,
    /// Cgroup parent of pods; empty for the runtime's own choice. In the runtime's driver's notation.
    pub cgroup_parent: String,
    /// For logs and mounted files; the runtimes must see it.
    pub directory: PathBuf,
    /// How long a runtime is left alone before its idle figures are read.
    pub settle: Duration,
    /// Makes the order of the endpoints.
    pub seed: u64,
    /// When the rest is left out.
    pub time_limit: Duration,
}

/// The floor's rounds, at least.
const FLOOR_ROUNDS: usize = 20;

/// Runs the suites at every subject, and removes what it made, also after a failure. An endpoint that fails is out of the suite that it failed
/// in; the record says so. `progress` is told what is being done.
///
/// Cancellation: once `interrupt` is ready, or the time is over, no further call is begun; those under way end (each has its bound), what was
/// made is removed, and the record has the parts that had ended till then. Dropping the future leaves pods behind; they have the label
/// `longshore.bench/run`.
///
/// # Errors
/// Nothing was measured: an endpoint is not there or has not got the image, or a directory is not there.
pub async fn run_suites(
    subjects: &[Subject],
    settings: &RunSettings,
    interrupt: impl Future<Output = ()>,
    mut progress: impl FnMut(&str),
) -> Result<Record, BenchError> {
    let (since, begun) = (SystemTime::now(), Instant::now());
    let scratch = pods_scratch(&settings.directory)?;
    let directory = scratch.path();
    // Before there are connections: what it clones must have no other threads.
    let floor = settings.suites.contains(&Suite::Pods).then(|| {
        progress("the floor");
        Floor::measure(directory, settings.repeats.max(FLOOR_ROUNDS))
    });

    let stop = Stop::default();
    let measured = begin(subjects, &settings.handler, &[], &stop, &mut progress).await?;
    let workload = Workload::new(&settings.image, &settings.cgroup_parent);
    let mut run = Run {
        settings,
        measured: &measured,
        workload: &workload,
        directory,
        order: Order::new(settings.seed),
        record: Record {
            format: FORMAT.to_owned(),
            version: VERSION,
            began: since
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            took_seconds: 0.0,
            seed: settings.seed,
            warmup: settings.warmup,
            repeats: settings.repeats,
            machine: machine(),
            endpoints: participants(subjects, &measured, &settings.handler),
            series: Vec::new(),
            memory: Vec::new(),
            complete: true,
            notes: Vec::new(),
        },
        progress,
    };
    if let Some(floor) = floor {
        run.keep_floor(floor);
    }
    let result = (stop.bound(run.all(), interrupt, Some(settings.time_limit))).await;
    let mut record = run.record;
    remove_all(&measured, &workload, &mut record.notes).await;
    match result {
        Ok(()) => {}
        Err(error) if error.is_the_end() && record.has_figures() => {
            record.complete = false;
            record.notes.push(format!("{error}: the rest is missing"));
        }
        Err(error) => return Err(error),
    }
    record.took_seconds = begun.elapsed().as_secs_f64();
    Ok(record)
}

fn participants(subjects: &[Subject], measured: &[Measured], handler: &str) -> Vec<Participant> {
    let participant = |(subject, measured): (&Subject, &Measured)| Participant {
        name: subject.name.clone(),
        endpoint: subject.endpoint.to_string(),
        runtime: measured.runtime.clone(),
        version: measured.version.clone(),
        handler: handler.to_owned(),
    };
    subjects.iter().zip(measured).map(participant).collect()
}

/// A run that goes on.
struct Run<'a, P> {
    settings: &'a RunSettings,
    measured: &'a [Measured],
    workload: &'a Workload,
    directory: &'a Path,
    order: Order,
    record: Record,
    progress: P,
}

/// Who is still in a suite: one flag an endpoint.
type Inside = Vec<bool>;

/// What a series is of.
#[derive(Debug, Clone, Copy)]
struct Kind<'a> {
    suite: Suite,
    experiment: &'a str,
    operation: &'a str,
    variant: &'a str,
    unit: Unit,
}

impl<P: FnMut(&str)> Run<'_, P> {
    async fn all(&mut self) -> Result<(), BenchError> {
        ensure_image(self.measured, &self.settings.image, &mut self.progress).await?;
        for suite in Suite::ALL {
            if !self.settings.suites.contains(&suite) {
                continue;
            }
            match suite {
                Suite::Pods => self.pods().await?,
                Suite::Scale => self.scale().await?,
                Suite::Concurrency => self.concurrency().await?,
                Suite::Stream => self.streams().await?,
                Suite::Images => self.images().await?,
                Suite::Handlers => self.handlers().await?,
            }
        }
        Ok(())
    }

    fn everybody(&self) -> Inside {
        vec![true; self.measured.len()]
    }

    /// A turn of each endpoint that is still inside, in another order each time. One that fails is out of it from then on, and what it made is
    /// removed.
    async fn turn(
        &mut self,
        inside: &mut Inside,
        what: &str,
        mut work: impl AsyncFnMut(usize, &Measured) -> Result<(), BenchError>,
    ) -> Result<(), BenchError> {
        for index in self.order.shuffled(self.measured.len()) {
            if !inside[index] {
                continue;
            }
            let subject = &self.measured[index];
            (self.progress)(&format!("{}: {what}", subject.calls.subject));
            match work(index, subject).await {
                Ok(()) => {}
                Err(error) if error.is_the_end() => return Err(error),
                Err(error) => {
                    inside[index] = false;
                    self.record.complete = false;
                    let mut note = chain(&error);
                    if !matches!(error, BenchError::Rpc { .. }) {
                        note = format!("{}: {note}", subject.calls.subject);
                    }
                    self.record.notes.push(format!("{note} (in {what})"));
                    if let Err(error) = subject.calls.remove_run(&self.workload.run).await {
                        let note = format!("pods may be left: {}", chain(&error));
                        self.record.notes.push(note);
                    }
                }
            }
        }
        Ok(())
    }

    /// Lives of pods that do not count.
    async fn warm_up(&mut self, inside: &mut Inside, network: Network) -> Result<(), BenchError> {
        let (workload, directory) = (self.workload, self.directory);
        for _ in 0..self.settings.warmup {
            self.turn(inside, "warm up", async |_, subject| {
                let mut sequence = Sequence::on(network);
                (sequence.round(&subject.calls, workload, directory, 0)).await
            })
            .await?;
        }
        Ok(())
    }

    fn first_network(&self) -> Network {
        self.settings
            .networks
            .first()
            .copied()
            .unwrap_or(Network::Host)
    }

    /// Keeps samples of an endpoint, or of none; no samples are not kept.
    fn keep(&mut self, of: Option<usize>, kind: Kind<'_>, at: Option<&At>, samples: Vec<f64>) {
        if samples.is_empty() {
            return;
        }
        self.record.series.push(Series {
            suite: kind.suite,
            experiment: kind.experiment.to_owned(),
            operation: kind.operation.to_owned(),
            variant: kind.variant.to_owned(),
            endpoint: of.map(|index| self.measured[index].calls.subject.clone()),
            unit: kind.unit,
            at: at.cloned(),
            samples,
        });
    }

    fn keep_times(&mut self, of: usize, kind: Kind<'_>, at: Option<&At>, samples: &Samples) {
        self.keep(Some(of), kind, at, samples.milliseconds());
    }

    fn keep_floor(&mut self, floor: Result<Floor, BenchError>) {
        let kind = |operation| Kind {
            suite: Suite::Pods,
            experiment: "Floor",
            operation,
            variant: "",
            unit: Unit::Ms,
        };
        match floor {
            Ok(floor) => {
                let samples = [
                    ("a container, by the kernel alone", floor.container),
                    ("fork, exec and wait alone", floor.spawn),
                ];
                for (operation, samples) in samples {
                    self.keep(None, kind(operation), None, samples.milliseconds());
                }
            }
            Err(error) => self
                .record
                .notes
                .push(format!("no floor: {}", chain(&error))),
        }
    }
}

impl BenchError {
    /// Whether the whole run is to end, and not an endpoint's part in it.
    fn is_the_end(&self) -> bool {
        matches!(self, Self::Interrupted | Self::TimeLimit { .. })
    }
}

impl Network {
    /// For people.
    fn variant(self) -> &'static str {
        match self {
            Self::Host => "host network",
            Self::Pod => "pod network",
        }
    }
}
