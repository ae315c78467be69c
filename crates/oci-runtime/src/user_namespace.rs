use std::fmt::Write as _;
use std::os::fd::{AsFd, OwnedFd};

use oci_plan::{IdMap, IdMappings};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Signal, WaitId, WaitIdOptions};
use rustix::thread::{Gid, Uid};
use sys::{Clone, CloneFlags};

use crate::error::{Context, Error, Stage};
use crate::handshake::{self, Order};
use crate::host::Host;

/// A user namespace with no process in it.
pub(crate) fn make(host: &Host, mappings: &IdMappings) -> Result<OwnedFd, Error> {
    let (ours, theirs) = handshake::pair().at(Stage::Prepare, "a handshake")?;
    let cloned =
        sys::clone_process(CloneFlags::NEWUSER, None).at(Stage::Clone, "for a user namespace")?;
    let (pid, pidfd) = match cloned {
        Clone::Parent { pid, pidfd } => (pid, pidfd),
        Clone::Child => {
            sys::exit_at_panic();
            // Lives until its parent is done with it, or is gone.
            drop(ours);
            let _ = handshake::obey(theirs.as_fd(), Order::Start);
            sys::exit_process(0)
        }
    };
    let namespace = write_mappings(host, pid, mappings)
        .and_then(|()| open_namespace(host, &pid.to_string(), "user"));
    // It waits in recv(2) and has nothing to lose: this takes microseconds.
    let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
    let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
    namespace
}

/// Opens a namespace of a process by its name in `/proc/PROCESS/ns`.
pub(crate) fn open_namespace(host: &Host, process: &str, name: &str) -> Result<OwnedFd, Error> {
    let path = format!("{process}/ns/{name}");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::openat(host.proc(), path.as_str(), flags, Mode::empty())
        .at(Stage::Prepare, format_args!("/proc/{path}"))
}

/// Writes `uid_map` and `gid_map` of a process in a new user namespace.
pub(crate) fn write_mappings(host: &Host, pid: i32, mappings: &IdMappings) -> Result<(), Error> {
    for (file, maps) in [("uid_map", &mappings.uids), ("gid_map", &mappings.gids)] {
        let path = format!("{pid}/{file}");
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(host.proc(), path.as_str(), flags, Mode::empty())
            .and_then(|map| rustix::io::write(&map, lines(maps).as_bytes()))
            .at(Stage::MapIds, format_args!("/proc/{path}"))?;
    }
    Ok(())
}

fn lines(maps: &[IdMap]) -> String {
    maps.iter().fold(String::new(), |mut text, map| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{} {} {}", map.container_id, map.host_id, map.length);
        text
    })
}

/// In a child that has entered a user namespace: becomes its root, so that what it makes has an owner there.
pub(crate) fn become_root() -> Result<(), Error> {
    rustix::thread::set_thread_groups(&[]).at(Stage::Credentials, "no groups")?;
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)
        .at(Stage::Credentials, "the user namespace's gid 0")?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)
        .at(Stage::Credentials, "the user namespace's uid 0")
}

/// The id outside of a user namespace that `id` has inside.
pub(crate) fn outside(maps: &[IdMap], id: u32) -> Option<u32> {
    maps.iter().find_map(|map| {
        let offset = id.checked_sub(map.container_id)?;
        (offset < map.length)
            .then(|| map.host_id.checked_add(offset))
            .flatten()
    })
}

/// Whether the caller and another process are in one namespace, by its name in `/proc/PID/ns`.
pub(crate) fn shared(host: &Host, pid: i32, name: &str) -> Result<bool, Error> {
    let (path, own) = (format!("{pid}/ns/{name}"), format!("self/ns/{name}"));
    let stat = |path: &str| {
        rustix::fs::statat(host.proc(), path, rustix::fs::AtFlags::empty())
            .at(Stage::JoinNamespace, format_args!("of /proc/{path}"))
    };
    let (theirs, ours) = (stat(&path)?, stat(&own)?);
    Ok((theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino))
}
