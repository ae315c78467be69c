//! The core on real namespaces, mounts, cgroups and processes. Needs root and `/bin/busybox` (static).
//!
//! Each case runs in a process of its own, one after the other, with a mount namespace of its own; afterwards it must have left no child,
//! mount, descriptor or cgroup. Arguments filter by substring, as with libtest.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // A test program.

extern crate longshore_oci_runtime as oci_runtime;

mod bench;
mod console;
mod credentials;
mod exec;
mod failures;
mod filesystem;
mod namespaces;
mod process;
mod users;

use std::process::{Command, ExitCode};

type Case = (&'static str, fn());

/// Names the case that a process of its own is to run.
const CASE: &str = "LONGSHORE_CORE_CASE";

fn main() -> ExitCode {
    let groups: [&[Case]; 8] = [
        process::CASES,
        namespaces::CASES,
        filesystem::CASES,
        credentials::CASES,
        users::CASES,
        console::CASES,
        exec::CASES,
        failures::CASES,
    ];
    let cases = || groups.iter().flat_map(|group| group.iter());
    if let Ok(wanted) = std::env::var(CASE) {
        let (_, case) = cases().find(|(name, _)| *name == wanted).unwrap();
        bench::isolated(*case);
        return ExitCode::SUCCESS;
    }
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.peek().is_some_and(|first| first == "--list") {
        for (name, _) in cases() {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let filters: Vec<String> = arguments
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let wanted =
        |name: &str| filters.is_empty() || filters.iter().any(|part| name.contains(part.as_str()));
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, _) in cases().filter(|(name, _)| wanted(name)) {
        let output = Command::new(std::env::current_exe().unwrap())
            .env_clear()
            .env(CASE, name)
            .env("RUST_BACKTRACE", "0")
            .output()
            .unwrap();
        if output.status.success() {
            println!("test {name} ... ok");
            passed += 1;
        } else {
            println!("test {name} ... FAILED ({})", output.status);
            println!("{}", String::from_utf8_lossy(&output.stderr));
            failed.push(*name);
        }
    }
    println!("\n{passed} passed, {} failed {failed:?}", failed.len());
    ExitCode::from(u8::from(!failed.is_empty()))
}
