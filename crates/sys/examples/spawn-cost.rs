//! What starting a program takes, by how much memory the caller has: `spawn-cost MEGABYTES...`.

#![allow(unsafe_code, clippy::unwrap_used, clippy::print_stdout)] // An example of the crate that has it.

use std::{
    ffi::CString,
    os::fd::{AsFd, OwnedFd},
    time::Instant,
};

use longshore_sys::{CStrings, Program, spawn};
use rustix::process::{WaitId, WaitIdOptions};

const PAGE: usize = 4096;
const ROUNDS: usize = 200;

fn main() {
    let mut memory = Vec::new();
    for megabytes in std::env::args().skip(1) {
        memory.resize(megabytes.parse::<usize>().unwrap() << 20, 1_u8);
        let mut samples: Vec<_> = (0..ROUNDS).map(|_| round(&mut memory)).collect();
        samples.sort();
        let at = |part: usize| samples[ROUNDS * part / 100].as_secs_f64() * 1000.0;
        println!("{megabytes} MB: p50 {:.3} ms, p90 {:.3} ms", at(50), at(90));
    }
}

/// Until the program runs, and the pages that the daemon would write to next are written to.
fn round(memory: &mut [u8]) -> std::time::Duration {
    let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let strings = |text: &str| CStrings::new(vec![CString::new(text).unwrap()]);
    let begun = Instant::now();
    let spawned = spawn(&Program {
        path: c"/bin/true",
        args: &strings("true"),
        env: &strings("A=b"),
        stdio: [null.as_fd(), null.as_fd(), null.as_fd()],
        cgroup: None,
        tasks: &[],
    })
    .unwrap();
    memory
        .iter_mut()
        .step_by(PAGE * 16)
        .for_each(|byte| *byte ^= 1);
    let took = begun.elapsed();
    let id = WaitId::PidFd(spawned.pidfd.as_fd());
    rustix::process::waitid(id, WaitIdOptions::EXITED).unwrap();
    took
}
