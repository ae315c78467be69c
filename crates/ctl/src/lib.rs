//! The operator's command: crictl's words, flags and output, against any CRI runtime.
//!
//! A request goes left to right through `cli` (what was typed), `settings` (flags, environment and
//! `/etc/crictl.yaml` resolved once), `session` (one method per RPC, each with its bound), a file of `commands`, and `output`.
//! Called by the name `crictl`, it also reads crictl's configuration file.
//!
//! Exit codes: 0; 1 for anything that failed; 2 for usage; `exec` passes on the command's own. Where we are called `crictl`, 0 and 1.

mod cli;
mod commands;
#[cfg(test)]
mod crictl_flags;
mod duration;
mod error;
mod ids;
mod input;
mod logs;
mod manifest;
mod output;
mod select;
mod session;
mod settings;
mod streams;
mod usage;

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use cli::{Cli, Command};
use error::Error;
use output::Output;
use session::Session;
use settings::Settings;

/// Runs the command that `arguments` (with the program's name first) ask for, and says how it ended.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let program = program(&arguments);
    let parsed = command_line(program)
        .try_get_matches_from(&arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(usage) => return usage::refuse(program, &arguments, &usage),
    };
    let mut out = Output::stdout();
    let result = run(program, cli, &mut out);
    let flushed = out.flush().map_err(Error::Output);
    match result.and(flushed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is_quiet() {
                error::report(program, &error);
            }
            if error.names_nothing() && usage::help_instead(program, &arguments) {
                return ExitCode::SUCCESS;
            }
            usage::ended(program, error.exit_code())
        }
    }
}

/// All commands with their flags, by the name that we were called.
fn command_line(program: &'static str) -> clap::Command {
    Cli::command().name(program).bin_name(program)
}

fn program(arguments: &[OsString]) -> &'static str {
    let called = arguments.first().map(Path::new).and_then(Path::file_name);
    if called == Some(OsStr::new("crictl")) {
        "crictl"
    } else {
        "longshore"
    }
}

fn run(program: &'static str, cli: Cli, out: &mut Output) -> Result<(), Error> {
    let command = match cli.command {
        Command::Config(config) => return config.run(program, &cli.global, out),
        Command::Completion(completion) => return completion.run(command_line(program), out),
        Command::Help(help) => return help.run(command_line(program), out),
        Command::Man(man) => return man.run(command_line(program), out),
        command => command,
    };
    let settings = Settings::resolve(program, &cli.global, |name| std::env::var(name).ok())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::Io {
            what: "start the event loop".to_owned(),
            source,
        })?;
    let session = Session::new(settings);
    runtime.block_on(command.run(&session, out))
}
