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

/// Pages of this thread's that had to be mapped or copied so far (getrusage(2)).
fn page_faults() -> i64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields
        .split_ascii_whitespace()
        .nth(7)
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn the_callers_memory_is_not_copied() {
    const PAGE: usize = 4096;
    const PAGES: usize = 8192;
    let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let stdio = [null.as_fd(), null.as_fd(), null.as_fd()];
    let mut memory = vec![0_u8; PAGES * PAGE];
    let mut touch = || memory.iter_mut().step_by(PAGE).for_each(|byte| *byte += 1);
    touch();
    let before = page_faults();
    let spawned = start("/bin/true", &["true"], stdio, &[]).unwrap();
    // After a fork(2) each page that is written to is one fault.
    touch();
    let faults = page_faults() - before;
    assert_eq!(status(&spawned).exit_status(), Some(0));
    assert!(
        faults < PAGES as i64 / 4,
        "{faults} faults for {PAGES} pages"
    );
    assert!(memory.iter().step_by(PAGE).all(|byte| *byte == 2));
}

#[test]
fn many_threads_start_programs_while_others_work() {
    const THREADS: usize = 4;
    const PROGRAMS: usize = 50;
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // The allocator's locks are held at any moment.
        scope.spawn(|| {
            let mut kept = std::collections::VecDeque::new();
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                kept.push_back(vec![7_u8; 100 + kept.len() * 13]);
                if kept.len() > 100 {
                    assert!(kept.pop_front().unwrap().iter().all(|byte| *byte == 7));
                }
            }
        });
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn(move || {
                    let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
                    let stdio = [null.as_fd(), null.as_fd(), null.as_fd()];
                    for number in 0..PROGRAMS {
                        let wanted = (thread * PROGRAMS + number) as i32 % 100;
                        let exit = format!("exit {wanted}");
                        let spawned = start("/bin/sh", &["sh", "-c", &exit], stdio, &[]).unwrap();
                        assert_eq!(status(&spawned).exit_status(), Some(wanted));
                        let missing = start("/nonexistent", &["x"], stdio, &[]).unwrap_err();
                        assert_eq!(missing, (SpawnStep::Execute, Errno::NOENT));
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
