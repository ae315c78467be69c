//! Words on the command line that do not fit: what is said of them, and how it ends.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::{command_line, error};

/// crictl's commands for which a missing id is an error. Its others show their help and end with 0.
const WANT_AN_ID: [&str; 7] = [
    "attach",
    "checkpoint",
    "logs",
    "pull",
    "start",
    "stop",
    "update",
];

/// What the parser refused, or was asked for: help goes to stdout and succeeds, everything else is one line on stderr. A closed pipe is
/// nobody's error.
pub(crate) fn refuse(
    program: &'static str,
    arguments: &[OsString],
    usage: &clap::Error,
) -> ExitCode {
    let code = usage.exit_code().clamp(0, 255) as u8;
    if program == "crictl" && crictl_helps(arguments, usage) {
        show_help(program, command_named(arguments));
        return ExitCode::SUCCESS;
    }
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

/// crictl has one code for all that fails.
pub(crate) fn ended(program: &str, code: u8) -> ExitCode {
    match program {
        "crictl" => ExitCode::from(code.min(1)),
        _ => ExitCode::from(code),
    }
}

/// Where we are called crictl and nothing was named to act on: shows the command's help as crictl does, unless that is an error there too.
pub(crate) fn help_instead(program: &'static str, arguments: &[OsString]) -> bool {
    let named = command_named(arguments);
    let helps = program == "crictl" && !wants_an_id(named.as_deref());
    if helps {
        show_help(program, named);
    }
    helps
}

fn show_help(program: &'static str, named: Option<String>) {
    let mut all = command_line(program);
    all.build();
    let command = named.and_then(|name| all.find_subcommand(name).cloned());
    let _ = command.unwrap_or(all).print_help();
}

fn wants_an_id(named: Option<&str>) -> bool {
    named.is_some_and(|name| WANT_AN_ID.contains(&name))
}

/// Whether crictl shows help, and ends with 0, where the parser refuses: too few words, or too many. A flag that there is not is an error.
fn crictl_helps(arguments: &[OsString], usage: &clap::Error) -> bool {
    match usage.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => true,
        ErrorKind::MissingRequiredArgument | ErrorKind::WrongNumberOfValues => {
            !wants_an_id(command_named(arguments).as_deref())
        }
        // A word too many behind a command that has commands of its own.
        ErrorKind::InvalidSubcommand | ErrorKind::ArgumentConflict => {
            let of_a_command = usage.get(ContextKind::InvalidSubcommand).is_some();
            of_a_command && command_named(arguments).is_some()
        }
        ErrorKind::UnknownArgument => match usage.get(ContextKind::InvalidArg) {
            Some(ContextValue::String(word)) => !word.starts_with('-'),
            _ => false,
        },
        _ => false,
    }
}

/// The command's name, whatever is wrong with the words about it.
fn command_named(arguments: &[OsString]) -> Option<String> {
    let lenient = command_line("crictl").ignore_errors(true);
    let matches = lenient.try_get_matches_from(arguments).ok()?;
    matches.subcommand_name().map(str::to_owned)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_on_the_command_line_is_one_line() {
        let said = |words: &[&str]| {
            let usage = command_line("longshore")
                .try_get_matches_from(words)
                .unwrap_err();
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
