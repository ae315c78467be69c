//! The init of a pod's own PID namespace.
//!
//! Every container of the pod sees it, and one with CAP_SYS_PTRACE can look into it: so it has an empty root, no capabilities, no descriptors,
//! and nothing in its memory but a copy of the supervisor's, which the kernel shows to no one without rights over the host.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, mount_change, move_mount,
    unmount,
};
use rustix::process::{Signal, WaitOptions};
use rustix::thread::{CapabilitySet, CapabilitySets};
use sys::Signals;

use crate::error::{Context, Error, Stage};
use crate::handshake;
use crate::host::Host;
use crate::rootfs::Filesystem;

/// Says that it is there, and lives for ever. Returns only if it cannot begin.
pub(crate) fn run(host: &Host, socket: BorrowedFd<'_>) -> Result<(), Error> {
    rustix::thread::set_name(c"longshore-init").at(Stage::Prepare, "the init's name")?;
    let child = Signals::of(&[Signal::CHILD.as_raw()]);
    sys::block_signals(child).at(Stage::Prepare, "the init's signals")?;
    leave_file_system()?;
    drop_privileges(host)?;
    // A credential change would clear it, and there is none to come.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .at(Stage::Prepare, "the init's death")?;
    handshake::say_created(socket).at(Stage::Handshake, "the pod's init")?;
    sys::close_from(0).at(Stage::Prepare, "no descriptors")?;
    let ended = sys::signal_descriptor(child).at(Stage::Prepare, "the init's signals")?;
    loop {
        reap_all();
        let mut wakes = [PollFd::new(&ended, PollFlags::IN)];
        let _ = rustix::event::poll(&mut wakes, None);
        let _ = sys::receive_signal(ended.as_fd());
    }
}

fn reap_all() {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return,
        }
    }
}

fn leave_file_system() -> Result<(), Error> {
    let empty = Filesystem {
        fs_type: "tmpfs",
        source: "tmpfs",
        data: &[("mode".to_owned(), Some("555".to_owned()))],
    }
    .mount(MountAttrFlags::MOUNT_ATTR_RDONLY, "the init's empty root")?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private)
        .and_then(|()| {
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            move_mount(&empty, "", CWD, "/", flags)
        })
        .and_then(|()| rustix::process::fchdir(&empty))
        .and_then(|()| rustix::process::pivot_root(".", "."))
        .and_then(|()| unmount(".", UnmountFlags::DETACH))
        .and_then(|()| rustix::process::chdir("/"))
        .at(Stage::Pivot, "(the init's empty one)")
}

fn drop_privileges(host: &Host) -> Result<(), Error> {
    for number in 0..=host.last_capability() {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        rustix::thread::remove_capability_from_bounding_set(capability)
            .at(Stage::Credentials, "the init's capabilities")?;
    }
    rustix::thread::set_no_new_privs(true).at(Stage::Credentials, "no_new_privs")?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none).at(Stage::Credentials, "the init's capabilities")
}
