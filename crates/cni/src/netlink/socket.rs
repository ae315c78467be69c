use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_send_buffer_size_force, set_socket_timeout};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, socket_with,
};

use super::NetlinkError;
use super::message::{Message, Request, TYPE_DONE, TYPE_ERROR, messages};

/// The kernel answers while `send(2)` lasts, so this only bounds what should not happen.
const RECEIVE_BOUND: Duration = Duration::from_secs(5);

/// The kernel makes a datagram of a dump no larger than this.
const DATAGRAM: usize = 32 * 1024;

/// Room for all host ports of a node at once. The kernel reserves nothing for it.
const LONGEST_REQUEST: usize = 32 << 20;

/// A socket to the kernel in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl Socket {
    /// rtnetlink: links, addresses, routes.
    pub(crate) fn route() -> Result<Socket, NetlinkError> {
        Socket::open(None)
    }

    /// nfnetlink, and so nf_tables.
    pub(crate) fn netfilter() -> Result<Socket, NetlinkError> {
        Socket::open(Some(netlink::NETFILTER))
    }

    fn open(protocol: Option<Protocol>) -> Result<Socket, NetlinkError> {
        let fd = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )
        .map_err(NetlinkError::Open)?;
        // A table with thousands of host ports is one request. Needs CAP_NET_ADMIN, without which there is nothing to do here.
        set_socket_send_buffer_size_force(&fd, LONGEST_REQUEST).map_err(NetlinkError::Open)?;
        set_socket_timeout(&fd, Timeout::Recv, Some(RECEIVE_BOUND)).map_err(NetlinkError::Open)?;
        Ok(Socket {
            fd,
            buffer: vec![0; DATAGRAM],
        })
    }

    /// For ioctls about the namespace's links.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Sends the request and returns the first refusal, if any. rtnetlink goes on after one that it refuses; an nf_tables batch is
    /// undone as a whole.
    pub(crate) fn run(&mut self, request: &Request) -> Result<(), NetlinkError> {
        match self.refusals(request)?.first() {
            Some(&(index, errno)) => Err(NetlinkError::Refused { index, errno }),
            None => Ok(()),
        }
    }

    /// Sends the request; which messages the kernel refused, in order.
    pub(crate) fn refusals(
        &mut self,
        request: &Request,
    ) -> Result<Vec<(usize, Errno)>, NetlinkError> {
        self.send(request)?;
        let mut refused = Vec::new();
        let mut acknowledged = 0;
        // All answers are queued by now: an empty queue is the end of them.
        while let Some(length) = self.receive(RecvFlags::DONTWAIT)? {
            for message in messages(&self.buffer[..length]) {
                if message.kind != TYPE_ERROR || message.sequence >= request.messages() {
                    continue;
                }
                match message.errno().ok_or(NetlinkError::Malformed)? {
                    0 => acknowledged += 1,
                    errno => {
                        refused.push((message.sequence as usize, Errno::from_raw_os_error(errno)))
                    }
                }
            }
        }
        refused.sort_by_key(|(index, _)| *index);
        if refused.is_empty() && acknowledged < request.acks() {
            return Err(NetlinkError::Malformed);
        }
        Ok(refused)
    }

    /// Sends a request for one object and returns the reply's body.
    pub(crate) fn get(&mut self, request: &Request) -> Result<Vec<u8>, NetlinkError> {
        let mut found = None;
        self.send(request)?;
        while found.is_none() {
            let Some(length) = self.receive(RecvFlags::empty())? else {
                return Err(NetlinkError::Malformed);
            };
            for message in messages(&self.buffer[..length]) {
                match message.kind {
                    TYPE_ERROR => return Err(refusal(&message)),
                    _ => found = Some(message.body.to_vec()),
                }
            }
        }
        found.ok_or(NetlinkError::Malformed)
    }

    /// Sends a dump request and shows each object's body.
    pub(crate) fn dump(
        &mut self,
        request: &Request,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), NetlinkError> {
        self.send(request)?;
        loop {
            let Some(length) = self.receive(RecvFlags::empty())? else {
                return Err(NetlinkError::Malformed);
            };
            for message in messages(&self.buffer[..length]) {
                match message.kind {
                    TYPE_DONE => return Ok(()),
                    TYPE_ERROR => return Err(refusal(&message)),
                    _ => each(message.body),
                }
            }
        }
    }

    fn send(&mut self, request: &Request) -> Result<(), NetlinkError> {
        let bytes = request.bytes();
        rustix::io::retry_on_intr(|| rustix::net::send(&self.fd, bytes, SendFlags::empty()))
            .map_err(|errno| NetlinkError::Send {
                length: bytes.len(),
                errno,
            })?;
        Ok(())
    }

    /// `None`: nothing is queued.
    fn receive(&mut self, flags: RecvFlags) -> Result<Option<usize>, NetlinkError> {
        let buffer = self.buffer.as_mut_slice();
        match rustix::io::retry_on_intr(|| rustix::net::recv(&self.fd, &mut *buffer, flags)) {
            Ok((length, _)) => Ok(Some(length)),
            Err(Errno::AGAIN) if flags.contains(RecvFlags::DONTWAIT) => Ok(None),
            Err(errno) => Err(NetlinkError::Receive(errno)),
        }
    }
}

fn refusal(message: &Message<'_>) -> NetlinkError {
    match message.errno() {
        Some(errno) if errno != 0 => NetlinkError::Refused {
            index: message.sequence as usize,
            errno: Errno::from_raw_os_error(errno),
        },
        _ => NetlinkError::Malformed,
    }
}
