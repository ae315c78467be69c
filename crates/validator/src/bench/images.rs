//! Images: how long a pull takes, cold and warm, what it costs the daemon, and what share of this machine's limit it reaches.
//!
//! The images are made for the run, served by a registry of its own on loopback, and removed. Every pull is cold: the image before it is
//! removed, and the disk has settled.

mod limit;
mod recipe;
mod registry;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use serde::Serialize;

use super::{
    BenchError, Machine, Subject, Summary,
    calls::Calls,
    census::TICKS_A_SECOND,
    pods::{Measured, begin, machine, scratch},
    samples::{Samples, milliseconds},
    stop::Stop,
};
pub use limit::{LimitReport, StageReport};
use recipe::{Made, Recipe};
use registry::Registry;

/// What `bench images` does at each endpoint.
#[derive(Debug, Clone)]
pub struct ImagesSettings {
    /// Cold pulls of each image.
    pub rounds: usize,
    /// Names of the images, as in [`ImageReport::name`]; empty for all.
    pub images: Vec<String>,
    /// Of the full sizes, in percent: for a quick look.
    pub scale_percent: u64,
    /// Where the images are made, and archives unpacked for the limit: on the file system of the runtimes' roots. Removed at the end.
    pub directory: PathBuf,
}

/// What a run has measured.
#[derive(Debug, Clone, Serialize)]
pub struct ImagesReport {
    /// Where it ran.
    pub machine: Machine,
    /// Cold pulls of each image.
    pub rounds: usize,
    /// What was pulled.
    pub images: Vec<RecipeReport>,
    /// Each endpoint.
    pub subjects: Vec<ImagesSubjectReport>,
}

/// An image, or several that share layers.
#[derive(Debug, Clone, Serialize)]
pub struct RecipeReport {
    /// Such as `five`.
    pub name: String,
    /// What it is.
    pub what: String,
    /// How many images are pulled.
    pub count: usize,
    /// Layers in all, shared ones once.
    pub layers: usize,
    /// Of all layers' archives.
    pub unpacked_bytes: u64,
    /// As the registry has them.
    pub compressed_bytes: u64,
    /// What the machine could do at best.
    pub limit: LimitReport,
}

/// One endpoint.
#[derive(Debug, Clone, Serialize)]
pub struct ImagesSubjectReport {
    /// As the user named it.
    pub name: String,
    /// As the runtime names itself, with its version.
    pub runtime: String,
    /// In the order of [`ImagesReport::images`].
    pub images: Vec<ImageReport>,
}

/// One image at one endpoint. Durations are milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct ImageReport {
    /// As in [`RecipeReport::name`].
    pub name: String,
    /// PullImage of what is not there.
    pub cold: Summary,
    /// PullImage of what is there.
    pub warm: Summary,
    /// RemoveImage.
    pub remove: Summary,
    /// Of the daemon, its ended children included, in the fastest cold pull: in its own code.
    pub user_seconds: f64,
    /// And in the kernel.
    pub system_seconds: f64,
    /// The most that the daemon has had resident in any cold pull, over what it had before.
    pub peak_over_idle_bytes: u64,
    /// The limit as a fraction of the fastest cold pull.
    pub share_of_limit: f64,
}

/// How long a runtime and the disk are left alone before a cold pull.
const SETTLE: Duration = Duration::from_millis(1500);

/// Pulls of what is there, after each cold one.
const WARM_PULLS: usize = 5;

/// Images that are pulled at a time, where there are several.
const AT_ONCE: usize = 5;

/// Measures every subject in turn, round by round, and removes the images, also after a failure. `progress` is told what is being done.
///
/// Cancellation: once `interrupt` is ready the rest is left out and the images are removed.
pub async fn run_images(
    subjects: &[Subject],
    settings: &ImagesSettings,
    interrupt: impl Future<Output = ()>,
    mut progress: impl FnMut(&str),
) -> Result<ImagesReport, BenchError> {
    let stop = Stop::default();
    let measured = begin(subjects, "", &[], &stop, &mut progress).await?;
    let mut bed = Bed::lay(
        &settings.images,
        settings.scale_percent,
        &settings.directory,
        &mut progress,
    )
    .await?;
    let mut runs: Vec<Vec<Run>> = (measured.iter())
        .map(|_| bed.images.iter().map(|_| Run::default()).collect())
        .collect();
    let work = async {
        for round in 1..=settings.rounds {
            for index in 0..bed.images.len() {
                let (name, references) = (bed.images[index].name, bed.references(index));
                for (subject, runs) in measured.iter().zip(&mut runs) {
                    let calls = &subject.calls;
                    let round = format!("{} of {}", round, settings.rounds);
                    progress(&format!("{}: {name:?}, {round}", calls.subject));
                    runs[index].round(subject, &references).await?;
                }
                progress(&format!("the limit of {name:?}"));
                bed.limit_round(index).await?;
            }
        }
        Ok(())
    };
    let result = stop.bound(work, interrupt, None).await;
    for subject in &measured {
        bed.remove_from(&subject.calls).await;
    }
    result?;
    let limits = bed.limits();
    let subjects = (measured.iter().zip(&runs)).map(|(subject, runs)| {
        let images = bed.images.iter().zip(runs).zip(&limits);
        let images = images.filter_map(|((image, run), limit)| run.report(image.name, limit));
        ImagesSubjectReport {
            name: subject.calls.subject.clone(),
            runtime: subject.runtime(),
            images: images.collect(),
        }
    });
    Ok(ImagesReport {
        machine: machine(),
        rounds: settings.rounds,
        subjects: subjects.collect(),
        images: (bed.images.iter().zip(limits))
            .map(|(image, limit)| image.report(limit))
            .collect(),
    })
}

/// The images, who serves them, and what the machine could do with them at best.
#[derive(Debug)]
pub(super) struct Bed {
    images: Vec<Made>,
    limits: Vec<limit::Stages>,
    registry: Registry,
    scratch: tempfile::TempDir,
}

impl Bed {
    pub(super) async fn lay(
        names: &[String],
        scale_percent: u64,
        directory: &Path,
        progress: &mut impl FnMut(&str),
    ) -> Result<Self, BenchError> {
        let recipes = Recipe::chosen(names, scale_percent)?;
        let scratch = scratch(directory)?;
        let mut images = Vec::new();
        for recipe in recipes {
            progress(&format!("make the image {:?}", recipe.name));
            let directory = scratch.path().join(recipe.name);
            let task = tokio::task::spawn_blocking(move || recipe.make(&directory));
            images.push(joined(task).await??);
        }
        let registry =
            Registry::start(&images).map_err(|source| failed("start a registry", source))?;
        Ok(Self {
            limits: images.iter().map(|_| limit::Stages::default()).collect(),
            images,
            registry,
            scratch,
        })
    }

    /// The images' names.
    pub(super) fn names(&self) -> Vec<&'static str> {
        self.images.iter().map(|image| image.name).collect()
    }

    pub(super) fn references(&self, image: usize) -> Vec<String> {
        self.images[image].references(self.registry.address())
    }

    pub(super) async fn limit_round(&mut self, image: usize) -> Result<(), BenchError> {
        let stages = std::mem::take(&mut self.limits[image]);
        let (made, address) = (self.images[image].clone(), self.registry.address());
        let unpacked = self.scratch.path().join("unpacked");
        settle().await?;
        let task = tokio::task::spawn_blocking(move || stages.round(&made, address, &unpacked));
        self.limits[image] = joined(task).await??;
        Ok(())
    }

    pub(super) fn limits(&self) -> Vec<LimitReport> {
        self.limits.iter().map(limit::Stages::report).collect()
    }

    pub(super) async fn remove_from(&self, calls: &Calls) {
        let calls = calls.unstoppable();
        for image in 0..self.images.len() {
            for reference in self.references(image) {
                // Removed already, mostly; and the first error is the one to tell.
                let _ = calls.remove_image(&reference).await;
            }
        }
    }
}

/// One image at one endpoint, so far.
#[derive(Debug, Default)]
pub(super) struct Run {
    pub(super) cold: Samples,
    pub(super) warm: Samples,
    pub(super) status: Samples,
    pub(super) list: Samples,
    pub(super) remove: Samples,
    /// What each cold pull cost the daemon.
    pub(super) costs: Vec<Cost>,
}

/// What a cold pull cost the daemon.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    took: Duration,
    pub(super) times: Times,
    pub(super) peak_over_idle: u64,
}

impl Run {
    pub(super) async fn round(
        &mut self,
        subject: &Measured,
        references: &[String],
    ) -> Result<(), BenchError> {
        let (calls, daemon) = (&subject.calls, subject.daemon);
        settle().await?;
        let idle = Resident::begin(daemon)?;
        let before = Times::of(daemon)?;
        let begun = Instant::now();
        pull_all(calls, references).await?;
        let took = begun.elapsed();
        let times = Times::of(daemon)?.since(before);
        self.cold.keep(took);
        self.costs.push(Cost {
            took,
            times,
            peak_over_idle: Resident::peak_over(daemon, idle)?,
        });
        for _ in 0..WARM_PULLS {
            let begun = Instant::now();
            calls.pull(&references[0]).await?;
            self.warm.keep(begun.elapsed());
            let begun = Instant::now();
            calls.has_image(&references[0]).await?;
            self.status.keep(begun.elapsed());
            let begun = Instant::now();
            calls.list_images().await?;
            self.list.keep(begun.elapsed());
        }
        for reference in references {
            let begun = Instant::now();
            calls.remove_image(reference).await?;
            self.remove.keep(begun.elapsed());
        }
        Ok(())
    }

    fn report(&self, name: &str, limit: &LimitReport) -> Option<ImageReport> {
        let fastest = self.costs.iter().min_by_key(|cost| cost.took)?;
        let peaks = self.costs.iter().map(|cost| cost.peak_over_idle);
        Some(ImageReport {
            name: name.to_owned(),
            cold: self.cold.summary()?,
            warm: self.warm.summary()?,
            remove: self.remove.summary()?,
            user_seconds: fastest.times.user,
            system_seconds: fastest.times.system,
            peak_over_idle_bytes: peaks.max().unwrap_or_default(),
            share_of_limit: limit.limit_ms / milliseconds(fastest.took),
        })
    }
}

async fn pull_all(calls: &Calls, references: &[String]) -> Result<(), BenchError> {
    let pulls = stream::iter(references).map(|reference| calls.pull(reference));
    let mut pulls = pulls.buffer_unordered(AT_ONCE);
    while let Some(pulled) = pulls.next().await {
        pulled?;
    }
    Ok(())
}

async fn settle() -> Result<(), BenchError> {
    joined(tokio::task::spawn_blocking(rustix::fs::sync)).await?;
    tokio::time::sleep(SETTLE).await;
    Ok(())
}

/// Processor time, seconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) user: f64,
    pub(super) system: f64,
}

impl Times {
    /// Of a process and its ended children (proc_pid_stat(5)).
    fn of(pid: i32) -> Result<Self, BenchError> {
        let stat = read(pid, "stat")?;
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let ticks: Vec<u64> = (fields.split_whitespace().skip(11).take(4))
            .filter_map(|field| field.parse().ok())
            .collect();
        let &[user, system, childrens_user, childrens_system] = &*ticks else {
            let source = std::io::Error::other("it is malformed");
            return Err(failed("read the daemon's processor time", source));
        };
        let seconds = |ticks: u64| ticks as f64 / TICKS_A_SECOND;
        Ok(Self {
            user: seconds(user + childrens_user),
            system: seconds(system + childrens_system),
        })
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            user: self.user - earlier.user,
            system: self.system - earlier.system,
        }
    }
}

struct Resident;

impl Resident {
    /// What a process has resident; from now on its peak is counted anew.
    fn begin(pid: i32) -> Result<u64, BenchError> {
        let path = format!("/proc/{pid}/clear_refs");
        fs::write(&path, "5")
            .map_err(|source| failed("reset the daemon's peak of memory", source))?;
        Self::line(pid, "VmRSS:")
    }

    fn peak_over(pid: i32, idle: u64) -> Result<u64, BenchError> {
        Ok(Self::line(pid, "VmHWM:")?.saturating_sub(idle))
    }

    fn line(pid: i32, name: &str) -> Result<u64, BenchError> {
        let status = read(pid, "status")?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kilobytes.map(|kilobytes| kilobytes * 1024).ok_or_else(|| {
            let source = std::io::Error::other(format!("it has no {name}"));
            failed("read the daemon's memory", source)
        })
    }
}

fn read(pid: i32, file: &str) -> Result<String, BenchError> {
    fs::read_to_string(format!("/proc/{pid}/{file}"))
        .map_err(|source| failed(&format!("read {file} of the daemon"), source))
}

async fn joined<T>(task: tokio::task::JoinHandle<T>) -> Result<T, BenchError> {
    task.await
        .map_err(|error| failed("work on a thread", std::io::Error::other(error)))
}

fn failed(operation: &str, source: std::io::Error) -> BenchError {
    BenchError::Io {
        operation: operation.to_owned(),
        source,
    }
}
