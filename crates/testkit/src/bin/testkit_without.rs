//! Runs a program on a kernel that lacks some system calls: `testkit-without CALL… -- PROGRAM ARGUMENT…`.
//!
//! A CALL is a number, which from 424 on is the same on all architectures; `N-` means that one and all later ones, `N:I=V` only with V as
//! argument I. They answer ENOSYS, to the program and whatever it starts.

use std::{os::unix::process::CommandExt, process::Command};

use anyhow::{Context, bail, ensure};

// Classic BPF over `struct seccomp_data`: number, architecture, instruction pointer, six arguments.
const LOAD: u16 = 0x20;
const IF_EQUAL: u16 = 0x15;
const IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;
const NUMBER: u32 = 0;
const ARGUMENTS: u32 = 16;
const ALLOW: u32 = 0x7fff_0000;
const ENOSYS: u32 = 0x0005_0000 | 38;

fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let mut filter = Filter::default();
    for word in words.by_ref().take_while(|word| word != "--") {
        filter
            .refuse(&word)
            .with_context(|| format!("system call {word:?}"))?;
    }
    let program = words.next().context("no program after --")?;
    filter.step(RETURN, 0, 0, ALLOW);
    sys::load_filter(&filter.0, 0).context("load the filter (root is needed)")?;
    let error = Command::new(&program).args(words).exec();
    bail!("run {program}: {error}")
}

/// `struct sock_filter`, one after the other.
#[derive(Default)]
struct Filter(Vec<u8>);

impl Filter {
    fn refuse(&mut self, call: &str) -> anyhow::Result<()> {
        self.step(LOAD, 0, 0, NUMBER);
        if let Some(first) = call.strip_suffix('-') {
            self.step(IF_AT_LEAST, 0, 1, first.parse()?);
        } else if let Some((number, argument)) = call.split_once(':') {
            let (index, value) = argument.split_once('=').context("no value")?;
            let index: u32 = index.parse()?;
            ensure!(index < 6, "a call has six arguments");
            self.step(IF_EQUAL, 0, 3, number.parse()?);
            // Its lower half, on machines that have that first.
            self.step(LOAD, 0, 0, ARGUMENTS + 8 * index);
            self.step(IF_EQUAL, 0, 1, value.parse()?);
        } else {
            self.step(IF_EQUAL, 0, 1, call.parse()?);
        }
        self.step(RETURN, 0, 0, ENOSYS);
        Ok(())
    }

    /// The jumps are relative to the next one.
    fn step(&mut self, code: u16, if_so: u8, if_not: u8, value: u32) {
        self.0.extend(code.to_ne_bytes());
        self.0.extend([if_so, if_not]);
        self.0.extend(value.to_ne_bytes());
    }
}
