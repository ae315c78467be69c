mod report;
mod run;

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Subcommand, ValueEnum};
use cri::client::Endpoint;
use serde::Serialize;
use validator::bench::{
    self, BenchError, CommandLine, HandlersSettings, ImagesSettings, Network, PodsSettings,
    StreamSettings, Subject,
};

use super::{
    interrupt::interrupted,
    placement::{CgroupParent, Placement},
};
use crate::error::Error;
use crate::output::Output;
use crate::output::bench::{write_handlers, write_images, write_pods, write_streams};
use crate::session::Session;

/// Measure what runtimes take and cost
///
/// Figures of one sitting only can be compared: name the other runtimes with --against, or with --endpoint of `bench run`. The machine should be doing nothing else.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Pods(Pods),
    Stream(Stream),
    Images(Images),
    Handlers(Handlers),
    Run(Box<run::Run>),
    Report(report::Report),
}

/// Pods: latency of each call, many at once, memory, processor time, and the kernel's floor
#[derive(Debug, Args)]
struct Pods {
    /// Image with `sh` and `sleep`; pulled where it is missing
    #[arg(
        long,
        value_name = "IMAGE",
        default_value = "docker.io/library/busybox:latest"
    )]
    image: String,
    /// Another runtime to measure in turn with this one; may be repeated
    #[arg(long, value_name = "NAME=ENDPOINT", value_parser = subject)]
    against: Vec<Subject>,
    /// Pods in sequence on each network
    #[arg(long, value_name = "N", default_value_t = 50)]
    rounds: usize,
    /// Networks; the first is also that of the pods at once
    #[arg(long = "network", value_name = "NETWORK", value_delimiter = ',', default_values_t = [NetworkArg::Host, NetworkArg::Pod])]
    networks: Vec<NetworkArg>,
    /// Pods at once; 0 for none
    #[arg(long, value_name = "N", default_value_t = 50)]
    crowd: usize,
    /// How many of them are made at a time
    #[arg(long, value_name = "N", default_value_t = 10)]
    concurrency: usize,
    /// Running containers when lists are measured; 0 for none
    #[arg(long, value_name = "N", default_value_t = 200)]
    list_containers: usize,
    #[command(flatten)]
    placement: Placement,
    /// Where logs and mounted files of the pods are made
    #[arg(long, value_name = "DIRECTORY", default_value = "/tmp")]
    directory: PathBuf,
    /// Output format
    #[arg(long, short, default_value = "table")]
    output: ReportFormat,
}

/// Exec and port-forward: round trips, throughput, many at once, memory, over SPDY and WebSocket
#[derive(Debug, Args)]
struct Stream {
    /// Image with `sh`, `sleep`, `cat`, `dd` and `true`; pulled where it is missing
    #[arg(
        long,
        value_name = "IMAGE",
        default_value = "docker.io/library/busybox:latest"
    )]
    image: String,
    /// Another runtime to measure after this one; may be repeated
    #[arg(long, value_name = "NAME=ENDPOINT", value_parser = subject)]
    against: Vec<Subject>,
    /// Round trips of one byte
    #[arg(long, value_name = "N", default_value_t = 1000)]
    round_trips: usize,
    /// Bytes sent each way
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 30)]
    bytes: u64,
    /// How often, over each transport, beside a plain TCP copy each time; medians are shown
    #[arg(long, value_name = "N", default_value_t = 5)]
    turns: usize,
    /// Commands run at once
    #[arg(long, value_name = "N", default_value_t = 200)]
    execs: usize,
    /// Forwarded connections open at once
    #[arg(long, value_name = "N", default_value_t = 500)]
    connections: usize,
    /// Commands, and then forwarded connections, that idle while the daemon's memory is looked at
    #[arg(long, value_name = "N", default_value_t = 200)]
    idle: usize,
    /// Seconds that the daemon is left in peace before its memory is looked at
    #[arg(long, value_name = "SECONDS", default_value_t = 12)]
    settle: u64,
    #[command(flatten)]
    placement: Placement,
    /// Where mounted files of the pod are made
    #[arg(long, value_name = "DIRECTORY", default_value = "/tmp")]
    directory: PathBuf,
    /// Output format
    #[arg(long, short, default_value = "table")]
    output: ReportFormat,
}

/// Images: cold and warm pulls, removals, processor time, memory, and the share of what the machine could do
#[derive(Debug, Args)]
struct Images {
    /// Another runtime to measure in turn with this one; may be repeated
    #[arg(long, value_name = "NAME=ENDPOINT", value_parser = subject)]
    against: Vec<Subject>,
    /// Cold pulls of each image
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// Which images: five, forty, giant, small, shared [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    images: Vec<String>,
    /// Size of the images, in percent of the full one
    #[arg(long, value_name = "PERCENT", default_value_t = 100)]
    scale: u64,
    /// Where the images are made, 4 GB for all; on the file system of the runtimes' images
    #[arg(long, value_name = "DIRECTORY", default_value = "/var/tmp")]
    directory: PathBuf,
    /// Output format
    #[arg(long, short, default_value = "table")]
    output: ReportFormat,
}

/// Handlers: a pod through each in turn, what each adds to the machine, and OCI command lines on one bundle
#[derive(Debug, Args)]
struct Handlers {
    /// Image with `sh` and `sleep`; pulled where it is missing
    #[arg(
        long,
        value_name = "IMAGE",
        default_value = "docker.io/library/busybox:latest"
    )]
    image: String,
    /// RuntimeClass handlers [default: all that the runtime lists]
    #[arg(long, value_name = "HANDLER", value_delimiter = ',')]
    handlers: Vec<String>,
    /// An OCI command line whose `run` is compared with the others'; may be repeated
    #[arg(long = "command", value_name = "NAME=PATH", value_parser = command_line)]
    commands: Vec<CommandLine>,
    /// Mounts on the host when they are compared a second time; 0 for once only
    #[arg(long, value_name = "N", default_value_t = 1000)]
    mounts: usize,
    /// Pods through each handler, and containers by each command line
    #[arg(long, value_name = "N", default_value_t = 30)]
    rounds: usize,
    /// The pods' network
    #[arg(long, value_name = "NETWORK", default_value_t = NetworkArg::Pod)]
    network: NetworkArg,
    #[command(flatten)]
    cgroup: CgroupParent,
    /// Where logs, mounted files and bundles are made
    #[arg(long, value_name = "DIRECTORY", default_value = "/tmp")]
    directory: PathBuf,
    /// Output format
    #[arg(long, short, default_value = "table")]
    output: ReportFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ReportFormat {
    Table,
    Json,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum NetworkArg {
    Host,
    Pod,
}

impl std::fmt::Display for NetworkArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::Pod => "pod",
        })
    }
}

impl From<NetworkArg> for Network {
    fn from(network: NetworkArg) -> Self {
        match network {
            NetworkArg::Host => Self::Host,
            NetworkArg::Pod => Self::Pod,
        }
    }
}

impl Bench {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        match self.what {
            What::Pods(pods) => pods.run(session, out).await,
            What::Stream(stream) => stream.run(session, out).await,
            What::Images(images) => images.run(session, out).await,
            What::Handlers(handlers) => handlers.run(session, out).await,
            What::Run(run) => run.run(session, out).await,
            What::Report(report) => report.run(out),
        }
    }
}

impl Pods {
    async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let subjects = subjects(session, self.against);
        let settings = PodsSettings {
            image: self.image,
            rounds: self.rounds,
            networks: self.networks.into_iter().map(Network::from).collect(),
            crowd: self.crowd,
            concurrency: self.concurrency,
            list_containers: self.list_containers,
            handler: self.placement.runtime,
            cgroup_parent: self.placement.cgroup.cgroup_parent,
            directory: self.directory,
        };
        let measured = bench::run_pods(&subjects, &settings, interrupted(), told()).await;
        report(out, self.output, measured, write_pods)
    }
}

impl Stream {
    async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let subjects = subjects(session, self.against);
        let settings = StreamSettings {
            image: self.image,
            round_trips: self.round_trips,
            bytes: self.bytes,
            turns: self.turns.max(1),
            execs: self.execs,
            connections: self.connections,
            idle: self.idle,
            settle: Duration::from_secs(self.settle),
            handler: self.placement.runtime,
            cgroup_parent: self.placement.cgroup.cgroup_parent,
            directory: self.directory,
        };
        let measured = bench::run_streams(&subjects, &settings, interrupted(), told()).await;
        report(out, self.output, measured, write_streams)
    }
}

impl Images {
    async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let subjects = subjects(session, self.against);
        let settings = ImagesSettings {
            rounds: self.rounds.max(1),
            images: self.images,
            scale_percent: self.scale,
            directory: self.directory,
        };
        let measured = bench::run_images(&subjects, &settings, interrupted(), told()).await;
        report(out, self.output, measured, write_images)
    }
}

impl Handlers {
    async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let settings = HandlersSettings {
            image: self.image,
            handlers: self.handlers,
            rounds: self.rounds,
            network: self.network.into(),
            cgroup_parent: self.cgroup.cgroup_parent,
            commands: self.commands,
            mounts: self.mounts,
            directory: self.directory,
        };
        let subjects = subjects(session, Vec::new());
        let measured = bench::run_handlers(&subjects[0], &settings, interrupted(), told()).await;
        report(out, self.output, measured, write_handlers)
    }
}

/// The session's own endpoint first.
fn subjects(session: &Session, others: Vec<Subject>) -> Vec<Subject> {
    let own = session.settings().runtime_endpoint.clone();
    let mut subjects = vec![Subject {
        name: name_of(&own),
        endpoint: own,
    }];
    subjects.extend(others);
    subjects
}

fn report<T: Serialize>(
    out: &mut Output,
    format: ReportFormat,
    measured: Result<T, BenchError>,
    write_table: impl FnOnce(&mut Output, &T) -> io::Result<()>,
) -> Result<(), Error> {
    clear_told();
    let report = measured.map_err(failed)?;
    match format {
        ReportFormat::Table => write_table(out, &report)?,
        ReportFormat::Json => {
            let text = serde_json::to_string_pretty(&report).map_err(json_error)?;
            writeln!(out, "{text}")?;
        }
    }
    Ok(())
}

fn failed(error: BenchError) -> Error {
    match error {
        BenchError::Connect(error) => Error::Connect(error),
        error => Error::Bench(error),
    }
}

fn json_error(error: serde_json::Error) -> Error {
    Error::Input(format!("write the report as JSON: {error}"))
}

/// What is being done, in one line of a terminal that is written over.
fn told() -> impl FnMut(&str) {
    let terminal = io::stderr().is_terminal();
    move |what| {
        if terminal {
            let _ = write!(io::stderr(), "\r\x1b[K{what}");
        }
    }
}

fn clear_told() {
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
}

fn subject(text: &str) -> Result<Subject, String> {
    let (name, endpoint) = named(
        text,
        "write NAME=ENDPOINT, such as containerd=unix:///run/containerd/containerd.sock",
    )?;
    Ok(Subject {
        name: name.to_owned(),
        endpoint: endpoint.parse().map_err(|error| format!("{error}"))?,
    })
}

fn command_line(text: &str) -> Result<CommandLine, String> {
    let (name, path) = named(text, "write NAME=PATH, such as runc=/usr/sbin/runc")?;
    Ok(CommandLine {
        name: name.to_owned(),
        path: path.into(),
    })
}

/// `NAME=VALUE`.
fn named<'a>(text: &'a str, otherwise: &str) -> Result<(&'a str, &'a str), String> {
    let (name, value) = text.split_once('=').ok_or(otherwise)?;
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || !name.chars().all(valid) {
        return Err(format!(
            "name {name:?}: what is made is named by it, so small letters, digits and dashes only"
        ));
    }
    Ok((name, value))
}

/// The socket's file name without its extension: `longshore`, `containerd`, `crio`.
fn name_of(endpoint: &Endpoint) -> String {
    let stem = endpoint.socket().file_stem().unwrap_or_default();
    let text = stem.to_string_lossy().to_ascii_lowercase();
    let text: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    text.trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_have_a_name_and_an_endpoint() {
        let containerd = subject("containerd=/run/containerd/containerd.sock").unwrap();
        assert_eq!(containerd.name, "containerd");
        assert_eq!(
            containerd.endpoint.to_string(),
            "unix:///run/containerd/containerd.sock"
        );
        for wrong in [
            "/run/x.sock",
            "=/run/x.sock",
            "A b=/run/x.sock",
            "x=run/x.sock",
        ] {
            assert!(subject(wrong).is_err(), "{wrong}");
        }
        assert_eq!(name_of(&Endpoint::of_socket("/run/crio/crio.sock")), "crio");
    }
}
