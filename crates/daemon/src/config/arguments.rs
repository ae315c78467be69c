use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

/// The command line; what it says wins over the files.
#[derive(Debug, Clone, Default, Parser)]
#[command(
    name = "longshored",
    version,
    about = "The Longshore container runtime: CRI on a local socket",
    after_help = "Without a command, longshored serves until SIGTERM; pods outlive it. SIGHUP reloads the configuration."
)]
pub(crate) struct Arguments {
    /// Configuration file; drop-ins are read from conf.d/*.toml beside it [default: /etc/longshore/config.toml, if it exists]
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) config: Option<PathBuf>,
    /// What survives a reboot: images, layers, writable layers
    #[arg(long, value_name = "DIR", global = true)]
    pub(super) root: Option<PathBuf>,
    /// What does not: records and sockets of what runs
    #[arg(long, value_name = "DIR", global = true)]
    pub(super) state: Option<PathBuf>,
    /// The CRI socket [default: longshore.sock in the state directory]
    #[arg(long, value_name = "SOCKET", global = true)]
    pub(super) address: Option<PathBuf>,
    /// What is logged: error, warn, info, debug, trace, or per module as in info,longshored::pod=debug
    #[arg(long, value_name = "FILTER", global = true)]
    pub(super) log: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Command {
    /// Show or check the configuration, without serving
    Config(ConfigArguments),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ConfigArguments {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print every key with its meaning and its default, as a file to start from
    Default,
    /// Print the values that hold, each with the file, line or flag that says so
    Dump,
    /// Say what is wrong with the configuration, if anything
    Check,
}

impl Arguments {
    /// Flags that set keys: the flag, the key, the text. Paths are relative to the working directory, as everywhere on a command line.
    pub(super) fn overrides(&self) -> Vec<(&'static str, &'static str, String)> {
        let path = |path: &Option<PathBuf>| path.as_deref().map(absolute);
        [
            ("--root", "root", path(&self.root)),
            ("--state", "state", path(&self.state)),
            ("--address", "address", path(&self.address)),
            ("--log", "log", self.log.clone()),
        ]
        .into_iter()
        .filter_map(|(flag, key, text)| Some((flag, key, text?)))
        .collect()
    }
}

fn absolute(path: &Path) -> String {
    // An empty path stays as it is, to be refused.
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.to_string_lossy().into_owned()
}
