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

use clap::error::ErrorKind;
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
            return wrong_usage(program, &usage);
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

/// Help goes to stdout and succeeds; everything else is one line on stderr. A closed pipe is nobody's error.
fn wrong_usage(program: &str, usage: &clap::Error) -> ExitCode {
    let code = usage.exit_code().clamp(0, 255) as u8;
    if code == 0 || usage.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = usage.print();
        return ended(program, code);
    }
    error::note(&format!("{program}: {}", one_line(&usage.to_string())));
    match (program, usage.kind()) {
        // crictl's code for a command that there is not.
        ("crictl", ErrorKind::InvalidSubcommand) => ExitCode::from(3),
        _ => ended(program, code),
    }
}

/// What is wrong and what helps, of the lines that the parser would print; usage itself is in `--help`.
fn one_line(text: &str) -> String {
    let said = text.split("\n\nUsage:").next().unwrap_or(text);
    let said = said.strip_prefix("error: ").unwrap_or(said);
    let mut line = String::new();
    for part in said.lines().map(str::trim).filter(|part| !part.is_empty()) {
        if !line.is_empty() {
            line.push_str(if part.starts_with("tip: ") { "; " } else { " " });
        }
        line.push_str(part);
    }
    let line = line.replace("For more information, try '--help'.", "");
    format!("{} (see --help)", line.trim_end())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_on_the_command_line_is_one_line() {
        let said = |words: &[&str]| {
            let usage = Cli::command().try_get_matches_from(words).unwrap_err();
            one_line(&usage.to_string())
        };
        assert_eq!(
            said(&["longshore", "ps", "--quite"]),
            "unexpected argument '--quite' found; tip: a similar argument exists: '--quiet' (see --help)"
        );
        assert_eq!(
            said(&["longshore", "runp"]),
            "the following required arguments were not provided: <POD-CONFIG> (see --help)"
        );
        let line = said(&["longshore", "pods", "-o", "xml"]);
        assert!(
            line.starts_with("invalid value 'xml'") && line.contains("json"),
            "{line}"
        );
    }
}
