use std::{io::Write, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use validator::bench::{
    Comparison, Network, RunSettings, Subject,
    record::{Record, Suite},
    run_suites, table,
};

use super::{NetworkArg, clear_told, failed, json_error, name_of, subjects, told};
use crate::commands::{
    check::any_seed,
    files::{writable, write_file},
    interrupt::interrupted,
    placement::Placement,
};
use crate::duration;
use crate::error::Error;
use crate::output::Output;
use crate::session::Session;

/// All of it, at several runtimes in turn: pods, scale, concurrency, streams, images, handlers
///
/// The endpoints take turns round by round. With --output every sample is kept, for `bench report`. What is made is removed, also after an
/// interrupt.
#[derive(Debug, Args)]
pub(super) struct Run {
    /// A runtime; may be repeated, the first is what others are compared with [default: the one that other commands use]
    #[arg(long = "endpoint", short, value_name = "[NAME=]ENDPOINT", value_parser = perhaps_named)]
    endpoints: Vec<Subject>,
    /// Which parts
    #[arg(long = "suite", short, value_name = "SUITE", value_delimiter = ',', default_values_t = [SuiteArg::Pods, SuiteArg::Scale, SuiteArg::Concurrency, SuiteArg::Stream, SuiteArg::Images, SuiteArg::Handlers])]
    suites: Vec<SuiteArg>,
    /// Where the result is written, for `bench report`
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Rounds that count: of pods made one by one, and at most of what takes longer
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..))]
    repeats: u16,
    /// Rounds before them that do not count
    #[arg(long, value_name = "N", default_value_t = 2)]
    warmup: u16,
    /// Image with `sh`, `sleep`, `cat`, `dd` and `true`; pulled where it is missing
    #[arg(
        long,
        value_name = "IMAGE",
        default_value = "docker.io/library/busybox:latest"
    )]
    image: String,
    /// Networks of pods that are made one by one; the first is also that of all others
    #[arg(long = "network", value_name = "NETWORK", value_delimiter = ',', default_values_t = [NetworkArg::Host, NetworkArg::Pod])]
    networks: Vec<NetworkArg>,
    /// How many pods run on the node while suite scale looks
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 10, 50, 100, 500], value_parser = clap::value_parser!(u16).range(1..))]
    pods: Vec<u16>,
    /// How many pods suite concurrency makes at a time
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 4, 16, 64], value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: Vec<u16>,
    /// Bytes that suite stream sends each way
    #[arg(long, value_name = "BYTES", default_value_t = 256 << 20, value_parser = clap::value_parser!(u64).range(1..))]
    stream_bytes: u64,
    /// Images that suite images pulls: five, forty, giant, small, shared
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_values_t = ["five".to_owned(), "small".to_owned()])]
    images: Vec<String>,
    /// Size of those images, in percent of the full one
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=100))]
    image_scale: u64,
    /// Where those images are made; on the file system of the runtimes' images
    #[arg(long, value_name = "DIRECTORY", default_value = "/var/tmp")]
    image_directory: PathBuf,
    #[command(flatten)]
    placement: Placement,
    /// Where logs and mounted files of the pods are made
    #[arg(long, value_name = "DIRECTORY", default_value = "/tmp")]
    directory: PathBuf,
    /// How long a runtime is left alone before its idle figures are read
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration::parse)]
    settle: Duration,
    /// Makes the order of the endpoints [default: another one each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// When the rest is left out
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = duration::parse)]
    time_limit: Duration,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SuiteArg {
    Pods,
    Scale,
    Concurrency,
    Stream,
    Images,
    /// Where a runtime lists several
    Handlers,
}

impl From<SuiteArg> for Suite {
    fn from(suite: SuiteArg) -> Self {
        match suite {
            SuiteArg::Pods => Self::Pods,
            SuiteArg::Scale => Self::Scale,
            SuiteArg::Concurrency => Self::Concurrency,
            SuiteArg::Stream => Self::Stream,
            SuiteArg::Images => Self::Images,
            SuiteArg::Handlers => Self::Handlers,
        }
    }
}

impl std::fmt::Display for SuiteArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(Suite::from(*self).word())
    }
}

impl Run {
    pub(super) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let subjects = distinct(match self.endpoints.is_empty() {
            true => subjects(session, Vec::new()),
            false => self.endpoints.clone(),
        });
        // A run takes minutes: that its result cannot be written is said before.
        if let Some(path) = &self.output {
            writable(path)?;
        }
        let measured = run_suites(&subjects, &self.settings(), interrupted(), told()).await;
        clear_told();
        let record = measured.map_err(failed)?;
        if let Some(path) = &self.output {
            write_file(path, &record.json().map_err(json_error)?)?;
        }
        verdict(record, out)
    }

    fn settings(&self) -> RunSettings {
        let sizes = |all: &[u16]| all.iter().copied().map(usize::from).collect();
        RunSettings {
            suites: self.suites.iter().copied().map(Suite::from).collect(),
            image: self.image.clone(),
            warmup: self.warmup.into(),
            repeats: self.repeats.into(),
            networks: self.networks.iter().copied().map(Network::from).collect(),
            pods: sizes(&self.pods),
            concurrency: sizes(&self.concurrency),
            stream_bytes: self.stream_bytes,
            images: self.images.clone(),
            image_scale_percent: self.image_scale,
            image_directory: self.image_directory.clone(),
            handler: self.placement.runtime.clone(),
            cgroup_parent: self.placement.cgroup.cgroup_parent.clone(),
            directory: self.directory.clone(),
            settle: self.settle,
            seed: self.seed.unwrap_or_else(any_seed),
            time_limit: self.time_limit,
        }
    }
}

/// The table, and whether it has all that was asked for.
fn verdict(record: Record, out: &mut Output) -> Result<(), Error> {
    let (complete, notes) = (record.complete, record.notes.join("; "));
    let comparison = Comparison::of(vec![(String::new(), record)]);
    out.write_all(table(&comparison).as_bytes())?;
    match complete {
        true => Ok(()),
        false => Err(Error::Refused(format!("not all was measured: {notes}"))),
    }
}

/// Pods are named by their endpoint's name: one that comes again has a number.
fn distinct(subjects: Vec<Subject>) -> Vec<Subject> {
    let mut all: Vec<Subject> = Vec::with_capacity(subjects.len());
    for mut subject in subjects {
        let taken = |name: &str| all.iter().any(|other| other.name == name);
        let numbered = (2..).map(|number| format!("{}-{number}", subject.name));
        let name = std::iter::once(subject.name.clone())
            .chain(numbered)
            .find(|name| !taken(name));
        subject.name = name.unwrap_or_default();
        all.push(subject);
    }
    all
}

fn perhaps_named(text: &str) -> Result<Subject, String> {
    if text.contains('=') {
        return super::subject(text);
    }
    let endpoint = text.parse().map_err(|error| format!("{error}"))?;
    Ok(Subject {
        name: name_of(&endpoint),
        endpoint,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_have_names_of_their_own() {
        let named = ["/run/x.sock", "x=/run/y.sock", "/run/x.sock", "/run/z.sock"];
        let named = named.map(|text| perhaps_named(text).unwrap());
        let all = distinct(named.to_vec());
        let names: Vec<&str> = all.iter().map(|it| &*it.name).collect();
        assert_eq!(names, ["x", "x-2", "x-3", "z"]);
        assert!(perhaps_named("x.sock").is_err());
    }
}
