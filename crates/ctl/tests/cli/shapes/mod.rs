//! What upstream's crictl prints, as far as it is the same on each run: the names of fields and their order, headings, exit codes. It is
//! recorded in `crictl.txt`, and ours, called crictl, has to have the same shapes.
//!
//! `LONGSHORE_CRICTL=/path/to/crictl UPDATE_SHAPES=1 cargo test -p longshore --test cli shapes` records it anew; without `UPDATE_SHAPES` that crictl
//! has to have the recorded shapes too.

mod full;
mod shape;

use std::ffi::OsString;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use full::Full;

use crate::Outcome;

const HEAD: &str = "\
# What crictl 1.36 prints against a runtime whose every answer has every field set: see mod.rs. Values are kinds, figures are N.
";

fn record() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/shapes/crictl.txt")
}

/// The command lines of the record, each with what belongs to it.
fn recorded(text: &str) -> Vec<(&str, &str)> {
    text.split("\n$ ")
        .skip(1)
        .map(|part| part.split_once('\n').unwrap_or((part, "")))
        .map(|(command, shape)| (command, shape.trim_end()))
        .collect()
}

fn shape_of(program: &Path, full: &Full, command: &str) -> String {
    let outcome = Command::new(program)
        .args(["-c", "/dev/null", "-r"])
        .arg(full.endpoint())
        .args(command.split(' '))
        .env_remove("CRI_CONFIG_FILE")
        .output()
        .unwrap();
    let Outcome { code, stdout, .. } = Outcome::of(outcome);
    let mut text = format!("exit {code}");
    // The usage that comes with a mistake is each program's own.
    let stdout = match stdout.starts_with("Incorrect Usage:") {
        true => "",
        false => &stdout,
    };
    for line in shape::of(command, stdout) {
        let _ = write!(text, "\n{line}");
    }
    text
}

#[test]
fn ours_are_those_of_upstreams_crictl() {
    let directory = tempfile::tempdir().unwrap();
    let full = Full::start(&directory.path().join("cri.sock"));
    let ours = directory.path().join("crictl");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_longshore"), &ours).unwrap();
    let upstream = std::env::var_os("LONGSHORE_CRICTL");

    let mut text = std::fs::read_to_string(record()).unwrap();
    if let (Some(upstream), true) = (&upstream, std::env::var_os("UPDATE_SHAPES").is_some()) {
        text = recorded_anew(&text, &full, upstream);
        std::fs::write(record(), &text).unwrap();
    }
    let programs = std::iter::once(ours).chain(upstream.map(PathBuf::from));
    let mut wrong = String::new();
    for program in programs {
        for (command, wanted) in recorded(&text) {
            let seen = shape_of(&program, &full, command);
            if seen != wanted {
                let program = program.display();
                let _ = writeln!(wrong, "{program} {command}:\n{}", difference(&seen, wanted));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// From the first line that differs to the last one.
fn difference(seen: &str, wanted: &str) -> String {
    let (seen, wanted): (Vec<_>, Vec<_>) = (seen.lines().collect(), wanted.lines().collect());
    let alike = |pair: &(&&str, &&str)| pair.0 == pair.1;
    let before = seen.iter().zip(&wanted).take_while(alike).count();
    let (seen, wanted) = (&seen[before..], &wanted[before..]);
    let behind = seen.iter().rev().zip(wanted.iter().rev());
    let behind = behind.take_while(alike).count();
    let shown = |lines: &[&str]| lines[..lines.len() - behind].join("\n");
    format!("{}\n  is not\n{}\n", shown(seen), shown(wanted))
}

fn recorded_anew(text: &str, full: &Full, upstream: &OsString) -> String {
    let mut anew = HEAD.to_owned();
    for (command, _) in recorded(text) {
        let shape = shape_of(Path::new(upstream), full, command);
        let _ = write!(anew, "\n$ {command}\n{shape}\n");
    }
    anew
}
