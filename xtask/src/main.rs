//! The project's commands: `cargo xtask demo | test | vm | check | build | fuzz | install-deps`.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command talks to people"
)]

mod build;
mod check;
mod demo;
mod fuzz;
mod packages;
mod results;
mod step;
mod suite;
mod vm;
mod workspace;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  demo          a pod from a real image, in a network of its own; leaves nothing behind
  test          every test of the project on this machine; installs the Debian packages that it needs
  vm            [--v2|--systemd|--selinux|--apparmor] [FILTER]: tests in virtual machines with cgroup v2, without and with systemd, and with either module
  check         format, clippy, documentation, dependency direction, licences, house rules
  build         the binaries, side by side in target/stage/debug (or, with --release, target/stage/release)
  fuzz          [TARGET] [--seconds N]: feeds parsers what reaches new code, 60 seconds each (fuzz/)
  install-deps  the Debian packages and the Rust target that demo and test need
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["demo"] => demo::run(),
        ["test"] => suite::run(),
        ["vm", ref rest @ ..] => vm::run(rest),
        ["check"] => check::run(),
        ["build"] => build::run(build::Profile::Debug).map(drop),
        ["build", "--release"] => build::run(build::Profile::Release).map(drop),
        ["fuzz", ref rest @ ..] => fuzz::run(rest),
        ["install-deps"] => packages::install(packages::Purpose::Machines),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
