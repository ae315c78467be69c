//! What a child and its parent say to each other before the child is its program.
//!
//! A `SOCK_SEQPACKET` pair, one message a datagram, its first byte the kind:
//!
//! ```text
//! child → parent   P  pid, pidfd      a clone in between has made the real child
//!                  T  terminal        the master side of the child's terminal
//!                  H                  on the host's tree, its root not entered yet: waiting for R
//!                  C                  created: waiting for S
//!                  L  number           its filter has a listener, at this descriptor: waiting for L
//!                  G                  about to execute; the end of the stream now means that it has
//!                  F  stage errno subject,  R field reason       it failed, and ends
//! parent → child   M                  the id mappings are written
//!                  R                  enter the root
//!                  S                  start
//!                  L                  the listener has been taken
//! ```

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use crate::error::{Error, Stage};

/// The longest message: a subject is a path, or a sentence with one.
const MESSAGE_BYTES: usize = 8192;

/// What a parent gives a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Mapped,
    Resume,
    Start,
    Listening,
}

/// What a child says.
#[derive(Debug)]
pub(crate) enum Word {
    Clone {
        pid: i32,
        pidfd: OwnedFd,
    },
    Console(OwnedFd),
    Paused,
    Created,
    Going,
    /// The child's descriptor.
    Listening(i32),
    Failed(Error),
    /// The child's side is closed.
    End,
    /// Nothing yet.
    Nothing,
}

/// The parent's end and the child's.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
}

/// To the child. `EPIPE` if it is gone.
pub(crate) fn order(socket: BorrowedFd<'_>, order: Order) -> Result<(), Errno> {
    let byte = match order {
        Order::Mapped => b'M',
        Order::Resume => b'R',
        Order::Start => b'S',
        Order::Listening => b'L',
    };
    rustix::net::send(socket, &[byte], SendFlags::NOSIGNAL | SendFlags::DONTWAIT).map(|_| ())
}

/// In the child: waits for one order and no other. A parent that is gone is `EPIPE`.
pub(crate) fn obey(socket: BorrowedFd<'_>, expected: Order) -> Result<(), Errno> {
    let mut byte = [0_u8; 1];
    let (count, _) =
        rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut byte, RecvFlags::empty()))?;
    judge(count, byte[0], expected)
}

/// As [`obey`], by `read(2)`: seccomp filters know it.
pub(crate) fn obey_filtered(socket: BorrowedFd<'_>, expected: Order) -> Result<(), Errno> {
    let mut byte = [0_u8; 1];
    let count = rustix::io::retry_on_intr(|| rustix::io::read(socket, &mut byte))?;
    judge(count, byte[0], expected)
}

fn judge(count: usize, byte: u8, expected: Order) -> Result<(), Errno> {
    match (count, byte, expected) {
        (0, _, _) => Err(Errno::PIPE),
        (_, b'M', Order::Mapped)
        | (_, b'R', Order::Resume)
        | (_, b'S', Order::Start)
        | (_, b'L', Order::Listening) => Ok(()),
        _ => Err(Errno::PROTO),
    }
}

pub(crate) fn say_clone(
    socket: BorrowedFd<'_>,
    pid: i32,
    pidfd: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let mut message = [b'P', 0, 0, 0, 0];
    message[1..].copy_from_slice(&pid.to_ne_bytes());
    send_with(socket, &message, pidfd)
}

pub(crate) fn say_console(socket: BorrowedFd<'_>, master: BorrowedFd<'_>) -> Result<(), Errno> {
    send_with(socket, b"T", master)
}

pub(crate) fn say_paused(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::io::write(socket, b"H").map(|_| ())
}

pub(crate) fn say_created(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::io::write(socket, b"C").map(|_| ())
}

/// By `write(2)`, as everything that comes late: seccomp filters know it.
pub(crate) fn say_going(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::io::write(socket, b"G").map(|_| ())
}

pub(crate) fn say_listening(socket: BorrowedFd<'_>, descriptor: i32) -> Result<(), Errno> {
    let mut message = [b'L', 0, 0, 0, 0];
    message[1..].copy_from_slice(&descriptor.to_ne_bytes());
    rustix::io::write(socket, &message).map(|_| ())
}

/// A failure to say so leaves the end of the stream to speak.
pub(crate) fn say_failed(socket: BorrowedFd<'_>, error: &Error) {
    let mut message = Vec::with_capacity(256);
    match error {
        Error::Step {
            stage,
            subject,
            source,
        } => {
            message.extend_from_slice(&[b'F', stage.code()]);
            message.extend_from_slice(&source.raw_os_error().to_ne_bytes());
            message.extend_from_slice(subject.as_bytes());
        }
        Error::Refused { field, reason } => {
            message.push(b'R');
            message.extend_from_slice(field.as_bytes());
            message.push(0);
            message.extend_from_slice(reason.as_bytes());
        }
        // No child makes these.
        Error::NoSuchContainer { .. } | Error::Died { .. } | Error::Handshake(_) => {
            message.push(b'R');
            message.extend_from_slice(b"process\0");
            message.extend_from_slice(error.to_string().as_bytes());
        }
    }
    message.truncate(MESSAGE_BYTES);
    let _ = rustix::io::write(socket, &message);
}

/// In the parent: the next word, without waiting for it.
pub(crate) fn listen(socket: BorrowedFd<'_>) -> Result<Word, Error> {
    let mut buffer = [0_u8; MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut buffer)],
            &mut control,
            RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
        )
    });
    let count = match received {
        Ok(message) => message.bytes,
        Err(Errno::AGAIN) => return Ok(Word::Nothing),
        Err(Errno::CONNRESET) => return Ok(Word::End),
        Err(source) => {
            return Err(Error::Step {
                stage: Stage::Handshake,
                subject: "its progress".to_owned(),
                source,
            });
        }
    };
    let descriptor = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .next();
    decode(&buffer[..count], descriptor)
}

fn decode(message: &[u8], descriptor: Option<OwnedFd>) -> Result<Word, Error> {
    let word = match (message, descriptor) {
        ([], _) => Word::End,
        ([b'P', pid @ ..], Some(pidfd)) if pid.len() == 4 => Word::Clone {
            pid: i32::from_ne_bytes([pid[0], pid[1], pid[2], pid[3]]),
            pidfd,
        },
        ([b'T'], Some(master)) => Word::Console(master),
        ([b'H'], None) => Word::Paused,
        ([b'C'], None) => Word::Created,
        ([b'G'], None) => Word::Going,
        ([b'L', a, b, c, d], None) => Word::Listening(i32::from_ne_bytes([*a, *b, *c, *d])),
        ([b'F', stage, a, b, c, d, subject @ ..], None) => {
            let stage = Stage::from_code(*stage).ok_or(Error::Handshake(message.len()))?;
            Word::Failed(Error::Step {
                stage,
                subject: String::from_utf8_lossy(subject).into_owned(),
                source: Errno::from_raw_os_error(i32::from_ne_bytes([*a, *b, *c, *d])),
            })
        }
        ([b'R', text @ ..], None) => {
            let text = String::from_utf8_lossy(text);
            let (field, reason) = text
                .split_once('\0')
                .ok_or(Error::Handshake(message.len()))?;
            Word::Failed(Error::refused(field, reason))
        }
        _ => return Err(Error::Handshake(message.len())),
    };
    Ok(word)
}

fn send_with(
    socket: BorrowedFd<'_>,
    message: &[u8],
    descriptor: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let descriptors = [descriptor.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(Errno::NOBUFS);
    }
    let message = [IoSlice::new(message)];
    rustix::net::sendmsg(socket, &message, &mut control, SendFlags::NOSIGNAL).map(|_| ())
}
