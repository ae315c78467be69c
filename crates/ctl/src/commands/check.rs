use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::{Args, ValueEnum};
use regex_lite::Regex;
use validator::check::{self, Case, CaseReport, CheckError, Report, Settings, Told, Verdict};

use super::{files::write_file, interrupt::interrupted, placement::Placement};
use crate::duration;
use crate::error::Error;
use crate::output::Output;
use crate::session::Session;

/// Try whether a runtime does what the Container Runtime Interface says
///
/// Against any endpoint. Images are built from a busybox and served by a registry of the command's own: no network is needed. It has to run
/// where the runtime runs, as root: it looks at logs and volumes, and reaches pods. What it makes it removes.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Only cases whose `suite: name` has a match of this regular expression; may be repeated
    #[arg(long, short, value_name = "REGEX")]
    focus: Vec<Regex>,
    /// No cases whose `suite: name` has a match of this regular expression; may be repeated
    #[arg(long, short, value_name = "REGEX")]
    skip: Vec<Regex>,
    /// List the cases, and run none
    #[arg(long, short)]
    list: bool,
    /// How many cases at a time, of those that allow it
    #[arg(long, short = 'j', value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    parallel: u16,
    /// Run all cases so many times
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Run all cases again and again, until one fails; with --repeat, at most so many times
    #[arg(long)]
    until_failure: bool,
    /// How long a case may take
    #[arg(long, value_name = "DURATION", default_value = "3m", value_parser = duration::parse)]
    case_timeout: Duration,
    /// Makes the order of the cases [default: another one each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// What the runtime does not implement is a failure, in place of a case left out
    #[arg(long)]
    strict: bool,
    /// Static busybox that images are made of [default: /bin/busybox, or the first in PATH]
    #[arg(long, value_name = "FILE")]
    busybox: Option<PathBuf>,
    /// Where logs and volumes of the pods are made
    #[arg(long, value_name = "DIRECTORY", default_value = "/tmp")]
    directory: PathBuf,
    #[command(flatten)]
    placement: Placement,
    /// Shell command that kills the runtime, as a crash would: with --restart-command, recovery is tried too
    #[arg(long, value_name = "COMMAND", requires = "restart_command")]
    kill_command: Option<String>,
    /// Shell command that starts the runtime again
    #[arg(long, value_name = "COMMAND", requires = "kill_command")]
    restart_command: Option<String>,
    /// Directory on the file system of the runtime's storage: it is filled to its last byte, and what works then is tried
    #[arg(long, value_name = "DIRECTORY")]
    fill_directory: Option<PathBuf>,
    /// Where the runtime looks for seccomp profiles of the node's: one is put there for the while
    #[arg(
        long,
        value_name = "DIRECTORY",
        default_value = "/var/lib/kubelet/seccomp"
    )]
    seccomp_directory: PathBuf,
    /// Socket where plugins of the Node Resource Interface connect: what they are told and may do is tried
    #[arg(long, value_name = "SOCKET")]
    nri_socket: Option<PathBuf>,
    /// What is written to standard output
    #[arg(long, short, default_value = "text")]
    output: Format,
    /// Write the report as JSON too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report as JUnit's XML too
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write the report as one HTML page with plots too
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the files of a build that TestGrid reads too
    #[arg(long, value_name = "DIRECTORY")]
    testgrid: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
    Junit,
    Html,
}

impl Check {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let cases = self.chosen();
        if self.list {
            for case in cases {
                writeln!(out, "{}", case.title())?;
            }
            return Ok(());
        }
        if cases.is_empty() {
            return Err(Error::Input(
                "no case is chosen: --list shows all".to_owned(),
            ));
        }
        let settings = self.settings(session, cases);
        let mut progress = Progress::new();
        let run = check::run(&settings, interrupted(), |told| progress.tell(told)).await;
        progress.clear();
        let report = run.map_err(|error| match error {
            CheckError::Connect(error) => Error::Connect(error),
            error => Error::Check(error),
        })?;
        self.write_files(&report)?;
        let text = match self.output {
            Format::Text => check::text(&report),
            Format::Json => json(&report)?,
            Format::Junit => check::junit(&report),
            Format::Html => check::html(&report),
        };
        out.write_all(text.as_bytes())?;
        match report.count(Verdict::Failed) {
            // What was interrupted has no verdict.
            0 if report.notes.is_empty() => Ok(()),
            0 => Err(Error::Refused(report.notes.join("; "))),
            failed => Err(Error::Refused(format!(
                "{failed} of {} cases failed",
                report.cases.len()
            ))),
        }
    }

    fn chosen(&self) -> Vec<&'static Case> {
        let matches = |any: &[Regex], title: &str| any.iter().any(|it| it.is_match(title));
        let wanted = |case: &&'static Case| {
            let title = case.title();
            (self.focus.is_empty() || matches(&self.focus, &title)) && !matches(&self.skip, &title)
        };
        check::cases().into_iter().filter(wanted).collect()
    }

    fn settings(&self, session: &Session, cases: Vec<&'static Case>) -> Settings {
        let endpoints = session.settings();
        Settings {
            endpoint: endpoints.runtime_endpoint.clone(),
            image_endpoint: endpoints.image_endpoint.clone(),
            cases,
            parallel: self.parallel.into(),
            rounds: match (self.until_failure, self.repeat) {
                (true, 1) => u32::MAX,
                (_, rounds) => rounds,
            },
            until_failure: self.until_failure,
            timeout: self.case_timeout,
            seed: self.seed.unwrap_or_else(any_seed),
            strict: self.strict,
            busybox: self.busybox.clone(),
            directory: self.directory.clone(),
            handler: self.placement.runtime.clone(),
            cgroup_parent: self.placement.cgroup.cgroup_parent.clone(),
            kill_command: self.kill_command.clone(),
            restart_command: self.restart_command.clone(),
            fill_directory: self.fill_directory.clone(),
            seccomp_directory: self.seccomp_directory.clone(),
            nri_socket: self.nri_socket.clone(),
        }
    }

    fn write_files(&self, report: &Report) -> Result<(), Error> {
        if let Some(path) = &self.json {
            write_file(path, &json(report)?)?;
        }
        if let Some(path) = &self.junit {
            write_file(path, &check::junit(report))?;
        }
        if let Some(path) = &self.html {
            write_file(path, &check::html(report))?;
        }
        if let Some(directory) = &self.testgrid {
            check::testgrid(report, directory).map_err(|source| Error::Io {
                what: "write the files for TestGrid".to_owned(),
                source,
            })?;
        }
        Ok(())
    }
}

fn json(report: &Report) -> Result<String, Error> {
    let text = check::json(report);
    let text = text.map_err(|error| Error::Input(format!("write the report as JSON: {error}")))?;
    Ok(format!("{text}\n"))
}

/// Small enough to be typed.
pub(crate) fn any_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(1, |since| u64::from(since.subsec_nanos()) % 100_000)
}

/// On a terminal, a line that is written over, above it what failed. Elsewhere nothing: the report has all.
struct Progress {
    terminal: bool,
    all: usize,
    done: usize,
    failed: usize,
}

impl Progress {
    fn new() -> Self {
        Self {
            terminal: io::stderr().is_terminal(),
            all: 0,
            done: 0,
            failed: 0,
        }
    }

    fn tell(&mut self, told: &Told<'_>) {
        let last = match told {
            Told::Begun { cases, runtime } => {
                self.all = *cases;
                (*runtime).to_owned()
            }
            Told::Ended(case) => {
                self.done += 1;
                self.failed += usize::from(case.verdict == Verdict::Failed);
                self.say_failure(case);
                format!("{}: {}", case.suite, case.name)
            }
        };
        if self.terminal {
            let of = match self.all {
                all if all > 1_000_000 => String::new(),
                all => format!(" of {all}"),
            };
            let line = format!("{}{of}, {} failed  {last}", self.done, self.failed);
            let width = crate::streams::terminal::size().map_or(80, |size| size.width.max(1));
            let line: String = line.chars().take(usize::from(width) - 1).collect();
            // Nobody to tell if stderr is gone.
            let _ = write!(io::stderr(), "\r\x1b[K{line}");
        }
    }

    fn say_failure(&self, case: &CaseReport) {
        if self.terminal && case.verdict == Verdict::Failed {
            let _ = writeln!(
                io::stderr(),
                "\r\x1b[Kfailed: {}: {}: {}",
                case.suite,
                case.name,
                case.message
            );
        }
    }

    fn clear(&self) {
        if self.terminal {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
