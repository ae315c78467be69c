//! The process that keeps a pod's systemd scope alive.
//!
//! A scope is made around a process and ends with its last one, and a pod has times without any: before its first container, and
//! when all have exited. The supervisor cannot stand in, since it is not to be charged to the pod. So it forks a process that does
//! nothing, shares its memory, and dies with it; what is left of the scope then goes away by itself.
//!
//! systemd is told of the process by the connection that asks for the scope, which is the process's own: its number would mean
//! another process where systemd and we are in different PID namespaces, or if it were used again. A supervisor connects itself as well,
//! where it is the first in the scope of all supervisors.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use rustix::process::Signal;
use supervisor_api::{ReplyBody, WireError};

use crate::connection::Asker;
use crate::runtime::{failed_precondition, internal, unavailable};
use crate::supervisor::{Supervisor, take_slot};

#[derive(Debug)]
pub(crate) struct Anchor {
    pub(crate) pid: i32,
}

impl Supervisor {
    pub(crate) fn anchor(
        &mut self,
        asker: Asker,
        socket: oci_plan::FdSlot,
        descriptors: &[OwnedFd],
    ) {
        let started = take_slot(descriptors, socket).and_then(|socket| self.start_anchor(&socket));
        let (result, descriptors) = match started {
            Ok((pid, connection)) => (Ok(ReplyBody::Anchored { pid }), vec![connection]),
            Err(error) => (Err(error), Vec::new()),
        };
        self.connections
            .reply(&self.poll, asker, result, descriptors);
    }

    fn start_anchor(&mut self, socket: &OwnedFd) -> Result<(i32, OwnedFd), WireError> {
        if self.anchor.is_some() {
            return Err(failed_precondition("the pod has an anchor".to_owned()));
        }
        let started = Anchor::start(socket.as_fd());
        let (anchor, connection) =
            started.map_err(|e| not_connected("start the pod's anchor", e))?;
        let pid = anchor.pid;
        self.anchor = Some(anchor);
        Ok((pid, connection))
    }

    pub(crate) fn connect(
        &mut self,
        asker: Asker,
        socket: oci_plan::FdSlot,
        descriptors: &[OwnedFd],
    ) {
        let connected = take_slot(descriptors, socket).and_then(|socket| {
            let connection = Unconnected::to(socket.as_fd())
                .and_then(|unconnected| unconnected.connect().map(|()| unconnected.socket));
            connection.map_err(|errno| not_connected("connect the supervisor", errno))
        });
        let (result, descriptors) = match connected {
            Ok(connection) => (Ok(ReplyBody::Connected), vec![connection]),
            Err(error) => (Err(error), Vec::new()),
        };
        self.connections
            .reply(&self.poll, asker, result, descriptors);
    }
}

fn not_connected(what: &str, errno: Errno) -> WireError {
    let message = format!("{what}: {errno}");
    match errno {
        // Nobody listens there (any more), or has come to accept as many as wait.
        Errno::CONNREFUSED | Errno::AGAIN => unavailable(message),
        _ => internal(message),
    }
}

/// A socket, and where it is to be connected to.
struct Unconnected {
    socket: OwnedFd,
    address: SocketAddrUnix,
}

impl Unconnected {
    /// `listener` is a socket in a file system, by any descriptor of it, which stays open until the connection is made.
    fn to(listener: BorrowedFd<'_>) -> Result<Self, Errno> {
        let address = format!("/proc/self/fd/{}", listener.as_raw_fd());
        let address = SocketAddrUnix::new(address)?;
        // A listener that is too busy is an error at once: nothing here may wait for another program.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        Ok(Self { socket, address })
    }

    fn connect(&self) -> Result<(), Errno> {
        rustix::net::connect(&self.socket, &self.address)
    }
}

impl Anchor {
    /// Returns a non-blocking connection to the listener whose peer sees the anchor at this end.
    fn start(listener: BorrowedFd<'_>) -> Result<(Self, OwnedFd), Errno> {
        let unconnected = Unconnected::to(listener)?;
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        match sys::clone_process(sys::CloneFlags::empty(), None)? {
            sys::Clone::Child => {
                sys::exit_at_panic();
                let done = begin().and_then(|()| unconnected.connect());
                let errno = done.err().map_or(0, Errno::raw_os_error);
                let told = rustix::io::write(&writer, &errno.to_ne_bytes());
                if errno != 0 || told.is_err() || sys::close_from(0).is_err() {
                    sys::exit_process(1);
                }
                hold()
            }
            sys::Clone::Parent { pid, pidfd: _ } => {
                drop(writer);
                let mut errno = [0; 4];
                // The child says it after a few system calls, none of which can wait.
                let told = rustix::io::retry_on_intr(|| rustix::io::read(&reader, &mut errno))?;
                match (told, i32::from_ne_bytes(errno)) {
                    (4, 0) => Ok((Self { pid }, unconnected.socket)),
                    (4, errno) => Err(Errno::from_raw_os_error(errno)),
                    _ => Err(Errno::CHILD),
                }
            }
        }
    }
}

/// What must be so before anybody relies on it.
fn begin() -> Result<(), Errno> {
    rustix::thread::set_name(c"longshore-scope")?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
}

/// For ever: what systemd sends to the processes of a scope that is stopped ends it.
fn hold() -> ! {
    let _ = sys::reset_signals();
    loop {
        let _ = rustix::event::poll(&mut [], None);
    }
}
