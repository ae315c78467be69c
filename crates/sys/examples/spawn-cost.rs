//! What it costs to start a program from a process of the daemon's size: by the standard library (vfork, and the cgroup entered
//! from outside), and by ours (a copy of the page tables, born in the cgroup).
//!
//! `cargo run --release -p longshore-sys --example spawn-cost CGROUP`, where CGROUP is a directory of a cgroup2 tree.

#![allow(clippy::print_stdout, clippy::unwrap_used)] // A measurement, not a part of anything.

use std::{
    ffi::CString,
    fs::File,
    os::fd::AsFd,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use longshore_sys::{CStrings, Program, spawn};
use rustix::process::{WaitId, WaitIdOptions};

const ROUNDS: usize = 60;

fn main() {
    let cgroup = std::env::args().nth(1).expect("a cgroup2 directory");
    // Resident, as the daemon is.
    let memory = vec![1_u8; 16 << 20];
    let _thread = std::thread::spawn(|| std::thread::sleep(Duration::from_secs(3600)));
    let directory = File::open(&cgroup).unwrap();
    let null = File::open("/dev/null").unwrap();
    let (args, env) = (
        CStrings::new(vec![CString::new("true").unwrap()]),
        CStrings::new(Vec::new()),
    );
    let born = |cgroup| {
        let started = Instant::now();
        let spawned = spawn(&Program {
            path: c"/bin/true",
            args: &args,
            env: &env,
            stdio: [null.as_fd(); 3],
            cgroup,
            tasks: &[],
        });
        let took = started.elapsed();
        let id = spawned.unwrap().pidfd;
        let _status = rustix::process::waitid(WaitId::PidFd(id.as_fd()), WaitIdOptions::EXITED);
        took
    };
    let library = |moved: bool| {
        let mut command = Command::new("/bin/sleep");
        command.arg("1000").stdin(Stdio::null());
        let started = Instant::now();
        let mut child = command.spawn().unwrap();
        if moved {
            std::fs::write(format!("{cgroup}/cgroup.procs"), child.id().to_string()).unwrap();
        }
        let took = started.elapsed();
        child.kill().unwrap();
        child.wait().unwrap();
        took
    };
    measure("standard library", || library(false));
    measure("standard library, then moved", || library(true));
    measure("ours", || born(None));
    measure("ours, born in the cgroup", || born(Some(directory.as_fd())));
    drop(memory);
}

fn measure(name: &str, mut once: impl FnMut() -> Duration) {
    let mut all: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            // As pods come: not one upon the other.
            std::thread::sleep(Duration::from_millis(50));
            once()
        })
        .collect();
    all.sort();
    let (half, most) = (all[ROUNDS / 2], all[ROUNDS * 9 / 10]);
    println!("{name:30} p50 {half:>10.3?}  p90 {most:>10.3?}");
}
