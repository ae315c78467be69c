//! What needs no process of its own. (Clones, execs, filters and mounts are tested by the crate that runs containers.)

#![allow(unsafe_code, clippy::unwrap_used)] // Tests of the crate that has it.

use std::os::fd::AsFd;

use longshore_sys::{
    Durability, Signals, block_signals, get_limit, receive_signal, replace_file, set_limit,
    signal_descriptor,
};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

#[test]
fn a_file_is_replaced_whole() {
    let directory = tempfile::tempdir().unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory.path(), flags, Mode::empty()).unwrap();
    let write = |name: &str, bytes: &[u8], durability| {
        replace_file(opened.as_fd(), name, bytes, 0o640, durability)
    };
    write("record", b"one", Durability::Power).unwrap();
    // What an interrupted writer leaves is no obstacle.
    std::fs::write(directory.path().join(".record.new"), "half").unwrap();
    write("record", b"two", Durability::Process).unwrap();
    assert_eq!(
        std::fs::read(directory.path().join("record")).unwrap(),
        b"two"
    );

    // A name that cannot be replaced leaves nothing beside it.
    std::fs::create_dir(directory.path().join("taken")).unwrap();
    assert_eq!(write("taken", b"x", Durability::Process), Err(Errno::ISDIR));
    let names: Vec<_> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn signals_are_received() {
    // Of this thread: the other tests' threads do not block it, so it is sent to this one.
    let signals = Signals::of(&[libc::SIGUSR1]);
    block_signals(signals).unwrap();
    let descriptor = signal_descriptor(signals).unwrap();
    assert_eq!(receive_signal(descriptor.as_fd()).unwrap(), None);
    let thread = rustix::thread::gettid();
    // SAFETY: sends a signal that is blocked here to this very thread.
    unsafe {
        libc::syscall(
            libc::SYS_tkill,
            thread.as_raw_nonzero().get(),
            libc::SIGUSR1,
        )
    };
    assert_eq!(
        receive_signal(descriptor.as_fd()).unwrap(),
        Some(libc::SIGUSR1)
    );
    assert_eq!(receive_signal(descriptor.as_fd()).unwrap(), None);
}

#[test]
fn limits_go_by_number() {
    let core = 4;
    let now = get_limit(0, core).unwrap();
    set_limit(0, core, now).unwrap();
    assert_eq!(get_limit(0, core).unwrap(), now);
    assert_eq!(get_limit(0, 999), Err(Errno::INVAL));
}
