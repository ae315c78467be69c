//! Every flag of crictl's (`docs/crictl-flags.toml`) is one of ours, or the guide says why not; and the guide's table is that file.
//!
//! After a change, `UPDATE_GUIDE=1 cargo test -p longshore crictl_flags` writes the table anew.

use std::fmt::Write;
use std::path::Path;

use clap::{Arg, Command, CommandFactory};
use serde::Deserialize;

use crate::cli::Cli;

/// What stands behind this line in the guide is made here.
const MARK: &str =
    "<!-- Made from docs/crictl-flags.toml; what stands above is written by hand. -->\n";

#[derive(Deserialize)]
struct Flags {
    command: Vec<Of>,
}

/// The flags of a command; those before any command are of the nameless one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Of {
    name: String,
    flags: Vec<Flag>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Flag {
    /// Its names, the first of which is the usual one.
    long: Vec<String>,
    short: Option<char>,
    /// It is there, and does something else: what.
    different: Option<String>,
    /// It is not there: why.
    absent: Option<String>,
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn flags() -> Flags {
    let text = std::fs::read_to_string(root().join("docs/crictl-flags.toml")).unwrap();
    toml::from_str(&text).unwrap()
}

fn ours<'c>(cli: &'c Command, name: &str) -> &'c Command {
    match name {
        "" => cli,
        name => cli
            .find_subcommand(name)
            .unwrap_or_else(|| panic!("there is no command {name}")),
    }
}

fn has_long(argument: &Arg, long: &str) -> bool {
    let aliases = argument.get_all_aliases().unwrap_or_default();
    argument.get_long() == Some(long) || aliases.contains(&long)
}

fn has_short(argument: &Arg, short: char) -> bool {
    let aliases = argument.get_all_short_aliases().unwrap_or_default();
    argument.get_short() == Some(short) || aliases.contains(&short)
}

#[test]
fn each_flag_of_crictl_is_ours_or_said_not_to_be() {
    let cli = Cli::command();
    for command in flags().command {
        let ours = ours(&cli, &command.name);
        for flag in &command.flags {
            let called = format!("{} --{}", command.name, flag.long[0]);
            for long in &flag.long {
                let found = ours.get_arguments().find(|one| has_long(one, long));
                match (&flag.absent, found) {
                    (Some(_), None) => {}
                    (Some(_), Some(_)) => panic!("{called} is there, and said to be absent"),
                    (None, None) => panic!("{called}: there is no --{long}"),
                    (None, Some(found)) => {
                        let short = flag.short.is_none_or(|short| has_short(found, short));
                        assert!(short, "{called} has no -{}", flag.short.unwrap_or_default());
                    }
                }
            }
        }
    }
}

#[test]
fn the_guide_has_the_table() {
    let path = root().join("docs/guide/crictl.md");
    let guide = std::fs::read_to_string(&path).unwrap();
    let (written, found) = guide.split_once(MARK).unwrap();
    let table = table(&flags());
    if std::env::var_os("UPDATE_GUIDE").is_some() {
        std::fs::write(&path, format!("{written}{MARK}{table}")).unwrap();
    } else {
        assert!(
            found == table,
            "docs/guide/crictl.md is not what docs/crictl-flags.toml says"
        );
    }
}

fn table(flags: &Flags) -> String {
    let mut text = "\n| command | flag | here |\n|---|---|---|\n".to_owned();
    for command in &flags.command {
        let name = match command.name.as_str() {
            "" => "(before any)",
            name => name,
        };
        if command.flags.is_empty() {
            let _ = writeln!(text, "| {name} | none | same |");
        }
        for flag in &command.flags {
            let longs = flag.long.iter().map(|long| format!("`--{long}`"));
            let shorts = flag.short.iter().map(|short| format!("`-{short}`"));
            let names: Vec<_> = longs.chain(shorts).collect();
            let here = match (&flag.different, &flag.absent) {
                (None, None) => "same".to_owned(),
                (Some(what), _) => format!("different: {what}"),
                (_, Some(why)) => format!("absent: {why}"),
            };
            let _ = writeln!(text, "| {name} | {} | {here} |", names.join(", "));
        }
    }
    text
}
