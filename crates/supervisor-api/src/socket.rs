use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::wire::{DecodeError, Encoded, Frame, INLINE_BYTES, decode, encode, open_frame};

/// The most descriptors that may ride on one message: the kernel's limit of 253 (`SCM_MAX_FD`), less one for a spilled message.
pub const MAX_DESCRIPTORS: usize = 252;

/// The largest message that is read from a memfd, bytes.
pub const SPILLED_BYTES: u64 = 16 * 1024 * 1024;

/// One message as it goes into the socket. It is kept whole, so that a sender whose socket is full can try again later.
#[derive(Debug)]
pub struct Outgoing {
    datagram: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

/// Why a message cannot be sent at all.
#[derive(Debug, thiserror::Error)]
pub enum OutgoingError {
    #[error("the message does not encode")]
    Postcard(#[source] postcard::Error),
    #[error("{0} descriptors do not fit in one message ({MAX_DESCRIPTORS} do)")]
    TooManyDescriptors(usize),
    #[error("cannot put the message in a sealed memfd")]
    Spill(#[source] Errno),
}

/// Why no message was received.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// `Errno::AGAIN` on a non-blocking socket without a message.
    #[error("cannot receive from the supervisor's socket")]
    Socket(#[source] Errno),
    #[error("the datagram or its descriptors were cut off")]
    CutOff,
    #[error("the message in a memfd cannot be read")]
    Spill(#[source] Errno),
    #[error("the message in a memfd is {0}")]
    SpillRefused(&'static str),
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl Outgoing {
    /// Encodes `message`; slots in it are indices into `descriptors`.
    pub fn new<T: Serialize>(
        message: &T,
        mut descriptors: Vec<OwnedFd>,
    ) -> Result<Self, OutgoingError> {
        if descriptors.len() > MAX_DESCRIPTORS {
            return Err(OutgoingError::TooManyDescriptors(descriptors.len()));
        }
        let datagram = match encode(message).map_err(OutgoingError::Postcard)? {
            Encoded::Inline(datagram) => datagram,
            Encoded::Spilled(header, body) => {
                descriptors.push(sealed_memfd(&body).map_err(OutgoingError::Spill)?);
                header.to_vec()
            }
        };
        Ok(Self {
            datagram,
            descriptors,
        })
    }

    /// Sends the message whole or not at all. `Errno::AGAIN`: a non-blocking socket is full.
    pub fn send(&self, socket: BorrowedFd<'_>) -> Result<(), Errno> {
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS + 1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<BorrowedFd<'_>> = self.descriptors.iter().map(AsFd::as_fd).collect();
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(Errno::INVAL);
        }
        loop {
            match rustix::net::sendmsg(
                socket,
                &[IoSlice::new(&self.datagram)],
                &mut control,
                SendFlags::NOSIGNAL,
            ) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Receives one message and its descriptors (close-on-exec; that of a spilled message taken off). `None`: the peer has
/// closed.
///
/// After an error other than `Socket` the rest of the stream is intact, but the peer is broken or of another version: close.
pub fn receive<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
) -> Result<Option<(T, Vec<OwnedFd>)>, ReceiveError> {
    // As long as the message: the longest would be most of what a supervisor has touched of its stack.
    let mut datagram = vec![0; next_length(socket)?.min(INLINE_BYTES)];
    let Some((length, mut descriptors)) = receive_datagram(socket, &mut datagram)? else {
        return Ok(None);
    };
    let message = match open_frame(&datagram[..length])? {
        Frame::Inline(message) => decode(message)?,
        Frame::Spilled => {
            let memfd = descriptors
                .pop()
                .ok_or(ReceiveError::SpillRefused("missing"))?;
            decode(&read_sealed(memfd.as_fd())?)?
        }
    };
    Ok(Some((message, descriptors)))
}

/// Of the message that comes next, which stays. 0 at the end.
fn next_length(socket: BorrowedFd<'_>) -> Result<usize, ReceiveError> {
    let flags = RecvFlags::PEEK | RecvFlags::TRUNC;
    let mut none = [0_u8; 0];
    match rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut none[..], flags)) {
        Ok((_, length)) => Ok(length),
        // As below.
        Err(Errno::CONNRESET) => Ok(0),
        Err(error) => Err(ReceiveError::Socket(error)),
    }
}

fn receive_datagram(
    socket: BorrowedFd<'_>,
    datagram: &mut [u8],
) -> Result<Option<(usize, Vec<OwnedFd>)>, ReceiveError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS + 1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(datagram)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Err(Errno::INTR) => {}
            // A peer that closed with messages of ours unread; nothing of its own is lost.
            Err(Errno::CONNRESET) => return Ok(None),
            other => break other.map_err(ReceiveError::Socket)?,
        }
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(ReceiveError::CutOff);
    }
    // An empty datagram cannot be told from an end of file; nobody sends one.
    if received.bytes == 0 {
        return Ok(None);
    }
    Ok(Some((received.bytes, descriptors)))
}

/// A memfd with these contents that nobody can change any more.
pub fn sealed_memfd(body: &[u8]) -> Result<OwnedFd, Errno> {
    let memfd = rustix::fs::memfd_create(
        c"longshore-message",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )?;
    let mut rest = body;
    while !rest.is_empty() {
        let written = rustix::io::write(&memfd, rest)?;
        rest = &rest[written..];
    }
    seal(&memfd)?;
    Ok(memfd)
}

/// Nobody maps the file or holds its pages, yet F_SEAL_WRITE answers EBUSY while the kernel itself
/// holds one of them for a moment (migration, compaction): so a few times again, then the error.
fn seal(memfd: &OwnedFd) -> Result<(), Errno> {
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    for pause in [1, 5, 25, 125, 500] {
        match rustix::fs::fcntl_add_seals(memfd, seals) {
            Err(Errno::BUSY) => std::thread::sleep(std::time::Duration::from_millis(pause)),
            answer => return answer,
        }
    }
    rustix::fs::fcntl_add_seals(memfd, seals)
}

/// Seals come first: any other kind of file could block, or change while it is read.
fn read_sealed(memfd: BorrowedFd<'_>) -> Result<Vec<u8>, ReceiveError> {
    let wanted = SealFlags::WRITE | SealFlags::SHRINK;
    let seals = rustix::fs::fcntl_get_seals(memfd)
        .map_err(|_| ReceiveError::SpillRefused("not a memfd"))?;
    if !seals.contains(wanted) {
        return Err(ReceiveError::SpillRefused("not sealed"));
    }
    let size = rustix::fs::fstat(memfd)
        .map_err(ReceiveError::Spill)?
        .st_size;
    let size = u64::try_from(size).unwrap_or(u64::MAX);
    if size > SPILLED_BYTES {
        return Err(ReceiveError::SpillRefused("too large"));
    }
    let mut body = vec![0; usize::try_from(size).unwrap_or_default()];
    let mut filled = 0;
    while filled < body.len() {
        match rustix::io::pread(memfd, &mut body[filled..], filled as u64) {
            Ok(0) => return Err(ReceiveError::SpillRefused("shorter than its size")),
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(ReceiveError::Spill(error)),
        }
    }
    Ok(body)
}
