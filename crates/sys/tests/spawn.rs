//! Starting a program from a process with threads.

#![allow(unsafe_code, clippy::unwrap_used)] // Tests of the crate that has it.

use std::{
    ffi::CString,
    io::Read,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use longshore_sys::{CStrings, Program, SpawnStep, Spawned, spawn};
use rustix::{
    io::Errno,
    process::{WaitId, WaitIdOptions, WaitIdStatus},
};

fn strings(texts: &[&str]) -> CStrings {
    CStrings::new(
        texts
            .iter()
            .map(|text| CString::new(*text).unwrap())
            .collect(),
    )
}

fn start(
    path: &str,
    args: &[&str],
    stdio: [BorrowedFd<'_>; 3],
    tasks: &[OwnedFd],
) -> Result<Spawned, (SpawnStep, Errno)> {
    spawn(&Program {
        path: &CString::new(path).unwrap(),
        args: &strings(args),
        env: &strings(&["GREETING=hello"]),
        stdio,
        cgroup: None,
        tasks,
    })
}

fn status(spawned: &Spawned) -> WaitIdStatus {
    let id = WaitId::PidFd(spawned.pidfd.as_fd());
    let status = rustix::process::waitid(id, WaitIdOptions::EXITED).unwrap();
    status.unwrap()
}

#[test]
fn a_program_starts_afresh_and_its_end_is_seen() {
    let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let (mut output, input) = std::io::pipe().unwrap();
    let input = OwnedFd::from(input);
    let script = "echo $GREETING $(pwd) $0; grep -E 'SigBlk|SigIgn' /proc/self/status; exit 7";
    let stdio = [null.as_fd(), input.as_fd(), null.as_fd()];
    let spawned = start("/bin/sh", &["name", "-c", script], stdio, &[]).unwrap();
    drop(input);
    let mut said = String::new();
    output.read_to_string(&mut said).unwrap();
    // Rust programs, this one too, ignore SIGPIPE; ours must not.
    let nothing = "0".repeat(16);
    let expected = format!("hello / name\nSigBlk:\t{nothing}\nSigIgn:\t{nothing}\n");
    assert_eq!(said, expected);
    assert_eq!(status(&spawned).exit_status(), Some(7));
    assert!(spawned.pid > 1);
}

#[test]
fn what_cannot_start_says_why_and_leaves_no_child() {
    let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let stdio = [null.as_fd(), null.as_fd(), null.as_fd()];
    let missing = start("/nonexistent", &["x"], stdio, &[]).unwrap_err();
    assert_eq!(missing, (SpawnStep::Execute, Errno::NOENT));
    // Not open for writing, like the file of a cgroup that is not ours.
    let tasks = [OwnedFd::from(std::fs::File::open("/dev/null").unwrap())];
    let outside = start("/bin/true", &["x"], stdio, &tasks).unwrap_err();
    assert_eq!(outside, (SpawnStep::EnterCgroup, Errno::BADF));
}
