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
    let matches = Cli::command()
        .name(program)
        .bin_name(program)
        .try_get_matches_from(arguments);
    let parsed = matches.and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(usage) => {
            // Help goes to stdout and succeeds; the rest to stderr. A closed pipe is nobody's error.
            let _ = usage.print();
            return ended(program, usage.exit_code().clamp(0, 255) as u8);
        }
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
            ended(program, error.exit_code())
        }
    }
}

/// crictl has one code for all that fails.
fn ended(program: &str, code: u8) -> ExitCode {
    match program {
        "crictl" => ExitCode::from(code.min(1)),
        _ => ExitCode::from(code),
    }
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
        Command::Completion(completion) => {
            return completion.run(Cli::command().name(program).bin_name(program), out);
        }
        Command::Man(man) => return man.run(Cli::command().name(program).bin_name(program), out),
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
