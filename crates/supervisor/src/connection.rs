use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::SocketFlags;
use supervisor_api::{
    ErrorKind, Event, Message, Outgoing, ReceiveError, ReplyBody, Request, RequestBody, WireError,
    receive,
};

use crate::poll::{Deadline, Interest, Poll, Source};

/// Messages that wait for a daemon to read them; one that is further behind is disconnected.
const MOST_UNREAD: usize = 512;

/// How long no connection is accepted after a failure such as EMFILE.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Where a reply goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(crate) connection: u32,
    sequence: u64,
}

#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) asker: Asker,
    pub(crate) body: RequestBody,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// The daemons that are connected: one, or two while one replaces the other.
#[derive(Debug)]
pub(crate) struct Connections {
    listener: OwnedFd,
    open: Vec<Connection>,
    next: u32,
    closed: Vec<u32>,
}

#[derive(Debug)]
struct Connection {
    id: u32,
    socket: OwnedFd,
    /// Has said Hello: gets events.
    greeted: bool,
    unsent: VecDeque<Outgoing>,
    armed: bool,
}

impl Connections {
    /// Takes a listening socket.
    pub(crate) fn new(listener: OwnedFd, poll: &Poll) -> Result<Self, Errno> {
        rustix::io::ioctl_fionbio(&listener, true)?;
        poll.add(listener.as_fd(), Source::Listener, Interest::Read)?;
        Ok(Self {
            listener,
            open: Vec::new(),
            next: 0,
            closed: Vec::new(),
        })
    }

    pub(crate) fn accept(&mut self, poll: &mut Poll) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match rustix::net::accept_with(&self.listener, flags) {
            Ok(socket) => socket,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return,
            // The connection stays in the queue, and epoll would report it at once.
            Err(_) => {
                poll.remove(&self.listener);
                poll.after(ACCEPT_PAUSE, Deadline::Accept);
                return;
            }
        };
        // The socket's directory keeps others out; this is the second lock.
        let peer = rustix::net::sockopt::socket_peercred(&socket);
        if !peer.is_ok_and(|peer| peer.uid == rustix::process::geteuid()) {
            return;
        }
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        if poll
            .add(socket.as_fd(), Source::Connection(id), Interest::Read)
            .is_ok()
        {
            self.open.push(Connection {
                id,
                socket,
                greeted: false,
                unsent: VecDeque::new(),
                armed: false,
            });
        }
    }

    pub(crate) fn accept_again(&self, poll: &Poll) {
        // Fails if it is there already.
        let _ = poll.add(self.listener.as_fd(), Source::Listener, Interest::Read);
    }

    /// The connection is readable or writable.
    pub(crate) fn ready(&mut self, poll: &Poll, id: u32) -> Option<Arrival> {
        let connection = self.open.iter_mut().find(|one| one.id == id)?;
        if connection.flush(poll).is_none() {
            self.close(poll, id);
            return None;
        }
        match receive::<Request>(connection.socket.as_fd()) {
            Ok(Some((request, descriptors))) => {
                let asker = Asker {
                    connection: id,
                    sequence: request.sequence,
                };
                if matches!(request.body, RequestBody::Hello) {
                    connection.greeted = true;
                } else if !connection.greeted {
                    self.refuse(poll, id, "the first request on a connection must be Hello");
                    return None;
                }
                Some(Arrival {
                    asker,
                    body: request.body,
                    descriptors,
                })
            }
            Err(ReceiveError::Socket(Errno::AGAIN)) => None,
            Ok(None) | Err(ReceiveError::Socket(_)) => {
                self.close(poll, id);
                None
            }
            Err(error) => {
                self.refuse(poll, id, &chain(&error));
                None
            }
        }
    }

    pub(crate) fn reply(
        &mut self,
        poll: &Poll,
        asker: Asker,
        result: Result<ReplyBody, WireError>,
        descriptors: Vec<OwnedFd>,
    ) {
        let message = Message::Reply {
            sequence: asker.sequence,
            result,
        };
        self.send(poll, asker.connection, &message, descriptors);
    }

    /// Tells every daemon.
    pub(crate) fn tell(&mut self, poll: &Poll, event: Event) {
        let greeted = self.open.iter().filter(|one| one.greeted);
        let ids: Vec<u32> = greeted.map(|one| one.id).collect();
        let message = Message::Event(event);
        for id in ids {
            self.send(poll, id, &message, Vec::new());
        }
    }

    /// Connections that have closed since the last call.
    pub(crate) fn take_closed(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.closed)
    }

    /// Gives unsent messages a last chance, bounded.
    pub(crate) fn flush_before_exit(&mut self, poll: &Poll, bound: Duration) {
        let until = std::time::Instant::now() + bound;
        while std::time::Instant::now() < until {
            let unsent = |one: &Connection| !one.unsent.is_empty();
            if !self.open.iter().any(unsent) {
                return;
            }
            for connection in &mut self.open {
                if connection.flush(poll).is_none() {
                    connection.unsent.clear();
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Says why, and closes.
    fn refuse(&mut self, poll: &Poll, id: u32, why: &str) {
        let error = WireError {
            kind: ErrorKind::InvalidArgument,
            message: format!("the connection is closed: {why}"),
        };
        let message = Message::Reply {
            sequence: 0,
            result: Err(error),
        };
        self.send(poll, id, &message, Vec::new());
        self.close(poll, id);
    }

    fn send(&mut self, poll: &Poll, id: u32, message: &Message, descriptors: Vec<OwnedFd>) {
        // Whoever asked is gone: the answer is for nobody.
        let Some(connection) = self.open.iter_mut().find(|one| one.id == id) else {
            return;
        };
        let Ok(outgoing) = Outgoing::new(message, descriptors) else {
            return self.close(poll, id);
        };
        connection.unsent.push_back(outgoing);
        if connection.flush(poll).is_none() || connection.unsent.len() > MOST_UNREAD {
            self.close(poll, id);
        }
    }

    fn close(&mut self, poll: &Poll, id: u32) {
        if let Some(index) = self.open.iter().position(|one| one.id == id) {
            poll.remove(&self.open[index].socket);
            self.open.swap_remove(index);
            self.closed.push(id);
        }
    }
}

impl Connection {
    /// `None`: the peer is gone.
    fn flush(&mut self, poll: &Poll) -> Option<()> {
        while let Some(outgoing) = self.unsent.front() {
            match outgoing.send(self.socket.as_fd()) {
                Ok(()) => drop(self.unsent.pop_front()),
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::TOOMANYREFS) => break,
                Err(_) => return None,
            }
        }
        let wanted = !self.unsent.is_empty();
        if wanted != self.armed {
            self.armed = wanted;
            let interest = match wanted {
                true => Interest::ReadWrite,
                false => Interest::Read,
            };
            poll.change(self.socket.as_fd(), Source::Connection(self.id), interest)
                .ok()?;
        }
        Some(())
    }
}

/// An error and its causes, outermost first.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
