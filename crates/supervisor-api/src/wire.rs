use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The first byte of every datagram.
pub const PROTOCOL_VERSION: u8 = 1;

/// Second byte: the message follows.
const INLINE: u8 = 0;

/// Second byte: the message is in the datagram's last descriptor, a sealed memfd.
pub const SPILLED: u8 = 1;

/// The largest encoding that travels in a datagram.
pub const INLINE_BYTES: usize = 32 * 1024;

/// A failure as it crosses the socket: what was being done, to what, and why it failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct WireError {
    pub kind: ErrorKind,
    /// The whole chain, outermost first, joined by `: `.
    pub message: String,
}

/// What a caller may do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorKind {
    /// The request names something that is not there.
    NotFound,
    /// The request is wrong: a field that cannot be honoured, a path that cannot be a mount point.
    InvalidArgument,
    /// The thing is in a state that does not allow it.
    FailedPrecondition,
    /// The program to run is missing, not executable, or not for this machine.
    CannotExecute,
    /// Out of memory, pids, descriptors or space.
    ResourceExhausted,
    Internal,
    /// The request's own time was over before the thing was done: an exec's timeout that falls into its launch.
    DeadlineExceeded,
    /// Somebody else who is needed is not there at the moment: systemd while it executes itself anew. Worth another try.
    Unavailable,
}

/// A datagram's payload after descriptors have been taken off.
#[derive(Debug)]
pub enum Encoded {
    /// The whole datagram.
    Inline(Vec<u8>),
    /// The datagram's two bytes, and what belongs in the memfd.
    Spilled([u8; 2], Vec<u8>),
}

/// Why a datagram could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the peer speaks supervisor protocol {0}, this side speaks {PROTOCOL_VERSION}")]
    Version(u8),
    #[error("the datagram ends after {0} bytes")]
    Truncated(usize),
    #[error("the datagram announces encoding {0}, which is unknown")]
    Encoding(u8),
    #[error("the message does not decode")]
    Postcard(#[source] postcard::Error),
}

/// What the first two bytes of a datagram say.
#[derive(Debug)]
pub enum Frame<'a> {
    Inline(&'a [u8]),
    /// Read the message from the last descriptor.
    Spilled,
}

pub fn encode<T: Serialize>(message: &T) -> Result<Encoded, postcard::Error> {
    let datagram = postcard::to_extend(message, vec![PROTOCOL_VERSION, INLINE])?;
    if datagram.len() <= INLINE_BYTES {
        return Ok(Encoded::Inline(datagram));
    }
    Ok(Encoded::Spilled(
        [PROTOCOL_VERSION, SPILLED],
        datagram[2..].to_vec(),
    ))
}

/// Checks the version before anything else is looked at.
pub fn open_frame(datagram: &[u8]) -> Result<Frame<'_>, DecodeError> {
    match *datagram {
        [] => Err(DecodeError::Truncated(0)),
        [version, ..] if version != PROTOCOL_VERSION => Err(DecodeError::Version(version)),
        [_] => Err(DecodeError::Truncated(1)),
        [_, INLINE, ref message @ ..] => Ok(Frame::Inline(message)),
        [_, SPILLED, ..] => Ok(Frame::Spilled),
        [_, other, ..] => Err(DecodeError::Encoding(other)),
    }
}

/// A record that one side writes to a file and the other reads with [`decode`].
pub fn encode_record<T: Serialize>(record: &T) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_extend(record, Vec::new())
}

pub fn decode<T: DeserializeOwned>(message: &[u8]) -> Result<T, DecodeError> {
    postcard::from_bytes(message).map_err(DecodeError::Postcard)
}
