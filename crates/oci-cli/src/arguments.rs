//! The command line, by the names that callers of runc know.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::ensure;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};

/// The newest version of the runtime specification whose fields are known.
pub(crate) const SPEC_VERSION: &str = "1.2.0";

/// Makes and runs containers as the OCI runtime specification has them.
#[derive(Debug, Parser)]
#[command(name = "longshore-oci", disable_help_subcommand = true)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Print the version, and that of the specification.
    #[arg(long, short)]
    version: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Directory of the containers' state.
    #[arg(long, default_value = "/run/longshore-oci")]
    pub(crate) root: PathBuf,
    /// Where to write messages besides standard error.
    #[arg(long)]
    pub(crate) log: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    /// Say each step: in the log where there is one, else on standard error.
    #[arg(long)]
    pub(crate) debug: bool,
    /// Refused: cgroups are made by the kernel's own files.
    #[arg(long)]
    systemd_cgroup: bool,
    /// Accepted where it is `auto` or `false`.
    #[arg(long, default_value = "auto", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    rootless: String,
    /// Accepted; no container is checkpointed.
    #[arg(long, hide = true)]
    criu: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a container, whose program waits for its start.
    Create(Create),
    /// Let a created container run its program.
    Start(Container),
    /// Make, start and await a container.
    Run(Run),
    /// Run a further program in a container.
    Exec(Exec),
    /// Send a signal to a container's init.
    Kill(Kill),
    /// Take away a container that has stopped.
    Delete(Delete),
    /// Print a container's state as JSON.
    State(Container),
    /// List containers.
    List(List),
    /// List the processes of a container.
    Ps(Ps),
    /// Freeze all processes of a container.
    Pause(Container),
    /// Let them go on.
    Resume(Container),
    /// Change a container's limits.
    Update(Update),
    /// Print a container's figures again and again, and what the OOM killer does, as lines of JSON.
    Events(Events),
    /// Print what this program can do, as JSON.
    Features,
    /// Write a config.json to begin with.
    Spec(Spec),
}

#[derive(Debug, Args)]
pub(crate) struct Container {
    pub(crate) id: String,
}

/// What making a container takes.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Directory with config.json.
    #[arg(long, short, default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// Socket that gets the terminal's master.
    #[arg(long)]
    pub(crate) console_socket: Option<PathBuf>,
    /// File for the pid of init.
    #[arg(long)]
    pub(crate) pid_file: Option<PathBuf>,
    /// Change the root directory in place of pivoting to it.
    #[arg(long)]
    pub(crate) no_pivot: bool,
    /// Stay in the caller's session keyring.
    #[arg(long)]
    pub(crate) no_new_keyring: bool,
    /// How many descriptors the program inherits, from 3 on.
    #[arg(long, default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) create: Create,
    /// Do not wait for its end.
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// Leave the stopped container to `delete`.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Accepted: processes that lose their parents are not this program's to reap.
    #[arg(long)]
    no_subreaper: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Socket that gets the terminal's master.
    #[arg(long)]
    pub(crate) console_socket: Option<PathBuf>,
    /// Working directory.
    #[arg(long)]
    pub(crate) cwd: Option<PathBuf>,
    /// `NAME=value`, beside those of the container.
    #[arg(long, short)]
    pub(crate) env: Vec<String>,
    /// With a terminal.
    #[arg(long, short)]
    pub(crate) tty: bool,
    /// `UID[:GID]`.
    #[arg(long, short)]
    pub(crate) user: Option<String>,
    #[arg(long, short = 'g')]
    pub(crate) additional_gids: Vec<u32>,
    /// File with the process, as config.json has it.
    #[arg(long, short)]
    pub(crate) process: Option<PathBuf>,
    #[arg(long, short)]
    pub(crate) detach: bool,
    #[arg(long)]
    pub(crate) pid_file: Option<PathBuf>,
    /// SELinux label.
    #[arg(long)]
    pub(crate) process_label: Option<String>,
    /// AppArmor profile.
    #[arg(long)]
    pub(crate) apparmor: Option<String>,
    #[arg(long)]
    pub(crate) no_new_privs: bool,
    /// Capability to add, `CAP_…`.
    #[arg(long, short)]
    pub(crate) cap: Vec<String>,
    #[arg(long, default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    /// Cgroup below the container's, which must exist.
    #[arg(long)]
    pub(crate) cgroup: Option<String>,
    /// Also in a paused container.
    #[arg(long)]
    pub(crate) ignore_paused: bool,
    /// Accepted: processes that lose their parents are not this program's to reap.
    #[arg(long)]
    no_subreaper: bool,
    pub(crate) id: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// Send it to every process of the container.
    #[arg(long, short)]
    pub(crate) all: bool,
    pub(crate) id: String,
    /// Name or number.
    #[arg(default_value = "SIGTERM")]
    pub(crate) signal: String,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Kill it first if it runs; succeed if there is none.
    #[arg(long, short)]
    pub(crate) force: bool,
    pub(crate) id: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TableFormat {
    Table,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    #[arg(long, short, value_enum, default_value_t = TableFormat::Table)]
    pub(crate) format: TableFormat,
    /// Identifiers only.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Ps {
    #[arg(long, short, value_enum, default_value_t = TableFormat::Table)]
    pub(crate) format: TableFormat,
    pub(crate) id: String,
    /// Options for ps(1); `-ef` without any.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) options: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    /// File with `linux.resources`; `-` is standard input. It takes the place of the options below.
    #[arg(long, short)]
    pub(crate) resources: Option<PathBuf>,
    /// Bytes, or with k, m, g or t behind the number: 50M is 50 × 1024 × 1024. -1: no limit.
    #[arg(long, allow_hyphen_values = true, value_parser = bytes)]
    pub(crate) memory: Option<i64>,
    /// Memory and swap together.
    #[arg(long, allow_hyphen_values = true, value_parser = bytes)]
    pub(crate) memory_swap: Option<i64>,
    #[arg(long, value_parser = bytes)]
    pub(crate) memory_reservation: Option<i64>,
    #[arg(long)]
    pub(crate) cpu_share: Option<u64>,
    /// Microseconds.
    #[arg(long)]
    pub(crate) cpu_period: Option<u64>,
    /// Microseconds a period.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) cpu_quota: Option<i64>,
    /// Microseconds, of realtime.
    #[arg(long)]
    pub(crate) cpu_rt_period: Option<u64>,
    /// Microseconds a period, of realtime.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) cpu_rt_runtime: Option<i64>,
    #[arg(long)]
    pub(crate) cpuset_cpus: Option<String>,
    #[arg(long)]
    pub(crate) cpuset_mems: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) pids_limit: Option<i64>,
    #[arg(long)]
    pub(crate) blkio_weight: Option<u16>,
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Between two lines of figures: 5s, 100ms, 1m30s.
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub(crate) interval: Duration,
    /// The figures once.
    #[arg(long)]
    pub(crate) stats: bool,
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct Spec {
    /// Directory for config.json.
    #[arg(long, short, default_value = ".")]
    pub(crate) bundle: PathBuf,
}

/// A time as runc takes it: `5s`, `100ms`, `1m30s`.
fn duration(text: &str) -> Result<Duration, String> {
    let malformed = || format!("{text:?} is no time: use h, m, s or ms, as in 1m30s");
    let (mut all, mut rest) = (Duration::ZERO, text);
    while !rest.is_empty() {
        let end = |part: &str, digit: bool| {
            part.find(|c: char| c.is_ascii_digit() != digit)
                .unwrap_or(part.len())
        };
        let (number, unit) = rest.split_at(end(rest, true));
        let (unit, more) = unit.split_at(end(unit, false));
        let number: u64 = number.parse().map_err(|_| malformed())?;
        let milliseconds = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(malformed()),
        };
        let part = number.checked_mul(milliseconds).ok_or_else(malformed)?;
        all = all.saturating_add(Duration::from_millis(part));
        rest = more;
    }
    match all.is_zero() {
        true => Err(malformed()),
        false => Ok(all),
    }
}

/// An amount as runc takes it: `50M`, `1gb`, `-1`.
fn bytes(text: &str) -> Result<i64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let number = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &lower[number.len()..] {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        other => return Err(format!("{other:?} is no unit: use k, m, g or t")),
    };
    let number: i64 = number
        .trim()
        .parse()
        .map_err(|_| format!("{number:?} is no number"))?;
    number
        .checked_mul(1 << unit)
        .ok_or_else(|| "too much".to_owned())
}

impl Options {
    /// Those of this process; else what to exit with, where all is said.
    pub(crate) fn read() -> Result<Self, ExitCode> {
        let arguments: Vec<_> = std::env::args().map(|one| long(&one)).collect();
        let told = |error: clap::Error| {
            // Nobody is left to tell.
            let _ = error.print();
            match error.kind() {
                ErrorKind::DisplayHelp => ExitCode::SUCCESS,
                _ => ExitCode::from(crate::FAILED),
            }
        };
        let options = Self::try_parse_from(arguments).map_err(told)?;
        if options.version {
            crate::log::print(&format!(
                "longshore-oci version {}\nspec: {SPEC_VERSION}",
                env!("CARGO_PKG_VERSION")
            ));
            return Err(ExitCode::SUCCESS);
        }
        match options.command {
            Some(_) => Ok(options),
            None => Err(told(
                Self::command().error(ErrorKind::MissingSubcommand, "no command is named"),
            )),
        }
    }
}

/// Go's programs take long options with one dash as well.
fn long(argument: &str) -> String {
    const KNOWN: [&str; 6] = [
        "-bundle",
        "-console-socket",
        "-pid-file",
        "-root",
        "-log",
        "-process",
    ];
    let name = argument.split('=').next().unwrap_or_default();
    match KNOWN.contains(&name) {
        true => format!("-{argument}"),
        false => argument.to_owned(),
    }
}

impl Global {
    /// What is asked for and not there is an error, not a surprise.
    pub(crate) fn refuse_unsupported(&self) -> anyhow::Result<()> {
        ensure!(
            !self.systemd_cgroup,
            "--systemd-cgroup is not supported: name the cgroup by its path in linux.cgroupsPath"
        );
        ensure!(
            ["auto", "false"].contains(&self.rootless.as_str()),
            "--rootless={} is not supported: this program runs as root",
            self.rootless
        );
        Ok(())
    }
}

impl Command {
    pub(crate) fn verb(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Start(_) => "start",
            Self::Run(_) => "run",
            Self::Exec(_) => "exec",
            Self::Kill(_) => "kill",
            Self::Delete(_) => "delete",
            Self::State(_) => "state",
            Self::List(_) => "list",
            Self::Ps(_) => "ps",
            Self::Pause(_) => "pause",
            Self::Resume(_) => "resume",
            Self::Update(_) => "update",
            Self::Events(_) => "events",
            Self::Features => "features",
            Self::Spec(_) => "spec",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{bytes, duration};

    #[test]
    fn times_have_units() {
        for (text, milliseconds) in [
            ("5s", 5000),
            ("100ms", 100),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
        ] {
            let expected = Duration::from_millis(milliseconds);
            assert_eq!(duration(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "0s",
            "5",
            "s",
            "1d",
            "-1s",
            "1.5s",
            "99999999999999999999s",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn amounts_have_units() {
        for (text, amount) in [
            ("0", 0),
            ("-1", -1),
            ("4096", 4096),
            ("1b", 1),
            ("7k", 7 << 10),
            ("50M", 50 << 20),
            ("2GiB", 2 << 30),
            ("1 tb", 1 << 40),
        ] {
            assert_eq!(bytes(text), Ok(amount), "{text}");
        }
        for text in ["", "M", "1x", "1.5g", "99999999t"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
