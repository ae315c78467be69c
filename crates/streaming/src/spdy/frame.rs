//! Frames of SPDY/3.1, read from bytes as they come, and written (SPDY/3 draft, 2.2 and 2.6).

use super::header_block::{Headers, Inflater, Storer};

const VERSION: u16 = 3;

/// Flag of data and control frames: the sender will send no more on this stream.
const FIN: u8 = 1;

/// `SETTINGS_INITIAL_WINDOW_SIZE`.
const INITIAL_WINDOW: u32 = 7;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// Statuses of `RST_STREAM`.
pub mod status {
    pub const PROTOCOL_ERROR: u32 = 1;
    pub const INVALID_STREAM: u32 = 2;
    pub const REFUSED_STREAM: u32 = 3;
    pub const CANCEL: u32 = 5;
    pub const INTERNAL_ERROR: u32 = 6;
    pub const FLOW_CONTROL_ERROR: u32 = 7;
    pub const STREAM_IN_USE: u32 = 8;
    pub const STREAM_ALREADY_CLOSED: u32 = 9;
}

/// Statuses of `GOAWAY`.
pub mod goodbye {
    pub const OK: u32 = 0;
    pub const PROTOCOL_ERROR: u32 = 1;
    pub const INTERNAL_ERROR: u32 = 2;
}

/// A control frame. Fields that Kubernetes has no use for (priorities, credential slots) are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    SynStream {
        stream: u32,
        end: bool,
        headers: Headers,
    },
    SynReply {
        stream: u32,
        end: bool,
        headers: Headers,
    },
    RstStream {
        stream: u32,
        status: u32,
    },
    Settings {
        initial_window: Option<u32>,
    },
    Ping(u32),
    GoAway {
        last: u32,
        status: u32,
    },
    Headers {
        stream: u32,
        end: bool,
        headers: Headers,
    },
    WindowUpdate {
        stream: u32,
        delta: u32,
    },
    /// Of a type that the draft does not know: to be passed over.
    Unknown(u16),
}

/// What bytes turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    Control(Frame),
    /// A part of a data frame, as far as it has come. `end` comes with the last part of a frame that ends its stream.
    Data {
        stream: u32,
        bytes: &'a [u8],
        end: bool,
    },
}

/// What cannot be a frame. The connection is beyond help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of SPDY version {0}, where version 3 was agreed on")]
    Version(u16),
    #[error("a control frame of {length} bytes, where {most} are the most")]
    TooLong { length: usize, most: usize },
    #[error("a control frame of type {0} that is too short for what it must hold")]
    Truncated(u16),
    #[error("a frame for stream 0")]
    StreamZero,
    #[error("headers that are not compressed as agreed")]
    Compression,
    #[error("headers of more than {0} bytes")]
    HeadersTooLarge(usize),
    #[error("more than {0} headers")]
    TooManyHeaders(usize),
    #[error("headers that are cut short, repeated, or no text")]
    Headers,
}

/// Reads frames from one direction of a connection.
#[allow(
    missing_debug_implementations,
    reason = "a zlib stream has nothing to show"
)]
pub struct Decoder {
    inflater: Inflater,
    longest: usize,
    head: [u8; 8],
    /// Bytes of the head that are there.
    have: usize,
    /// Bytes of a control frame that came in parts.
    body: Vec<u8>,
    within: Within,
}

#[derive(Debug, Clone, Copy)]
enum Within {
    Head,
    Data { stream: u32, left: usize, end: bool },
    Control { kind: u16, flags: u8, length: usize },
}

impl Decoder {
    /// `headers`: bytes that a block of headers may have, inflated or not.
    #[must_use]
    pub fn new(headers: usize) -> Self {
        Self {
            inflater: Inflater::new(headers),
            longest: headers + 16,
            head: [0; 8],
            have: 0,
            body: Vec::new(),
            within: Within::Head,
        }
    }

    /// Takes the next event off `input`; `None` when all of it has been used.
    ///
    /// # Errors
    ///
    /// The bytes are no frames. Nothing sensible can come after that.
    pub fn decode<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, FrameError> {
        loop {
            match self.within {
                Within::Head => {
                    let count = input.len().min(8 - self.have);
                    self.head[self.have..self.have + count].copy_from_slice(&input[..count]);
                    *input = &input[count..];
                    self.have += count;
                    if self.have < 8 {
                        return Ok(None);
                    }
                    self.have = 0;
                    self.begin()?;
                }
                Within::Data { stream, left, end } => {
                    if input.is_empty() && left > 0 {
                        return Ok(None);
                    }
                    let (bytes, rest) = input.split_at(left.min(input.len()));
                    *input = rest;
                    let left = left - bytes.len();
                    if left == 0 {
                        self.within = Within::Head;
                    } else {
                        self.within = Within::Data { stream, left, end };
                    }
                    let end = end && left == 0;
                    return Ok(Some(Event::Data { stream, bytes, end }));
                }
                Within::Control {
                    kind,
                    flags,
                    length,
                } => {
                    let (more, rest) = input.split_at(input.len().min(length - self.body.len()));
                    *input = rest;
                    if self.body.len() + more.len() < length {
                        self.body.extend_from_slice(more);
                        return Ok(None);
                    }
                    self.within = Within::Head;
                    let frame = if self.body.is_empty() {
                        self.control(kind, flags, more)?
                    } else {
                        let mut body = std::mem::take(&mut self.body);
                        body.extend_from_slice(more);
                        self.control(kind, flags, &body)?
                    };
                    return Ok(Some(Event::Control(frame)));
                }
            }
        }
    }

    fn begin(&mut self) -> Result<(), FrameError> {
        let [a, b, c, d, flags, x, y, z] = self.head;
        let length = usize::from(x) << 16 | usize::from(y) << 8 | usize::from(z);
        if a & 0x80 == 0 {
            let stream = u32::from_be_bytes([a, b, c, d]);
            if stream == 0 {
                return Err(FrameError::StreamZero);
            }
            let end = flags & FIN != 0;
            let left = length;
            self.within = Within::Data { stream, left, end };
            return Ok(());
        }
        let version = u16::from_be_bytes([a & 0x7f, b]);
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        if length > self.longest {
            let most = self.longest;
            return Err(FrameError::TooLong { length, most });
        }
        self.within = Within::Control {
            kind: u16::from_be_bytes([c, d]),
            flags,
            length,
        };
        Ok(())
    }

    fn control(&mut self, kind: u16, flags: u8, mut body: &[u8]) -> Result<Frame, FrameError> {
        let end = flags & FIN != 0;
        let rest = &mut body;
        Ok(match kind {
            SYN_STREAM => {
                let stream = stream(kind, rest)?;
                word(kind, rest)?; // the stream it belongs to
                half_word(kind, rest)?; // priority and credential slot
                let headers = self.inflater.read(rest)?;
                Frame::SynStream {
                    stream,
                    end,
                    headers,
                }
            }
            SYN_REPLY => {
                let stream = stream(kind, rest)?;
                let headers = self.inflater.read(rest)?;
                Frame::SynReply {
                    stream,
                    end,
                    headers,
                }
            }
            HEADERS => {
                let stream = stream(kind, rest)?;
                let headers = self.inflater.read(rest)?;
                Frame::Headers {
                    stream,
                    end,
                    headers,
                }
            }
            RST_STREAM => Frame::RstStream {
                stream: stream(kind, rest)?,
                status: word(kind, rest)?,
            },
            SETTINGS => {
                let mut initial_window = None;
                for _ in 0..word(kind, rest)? {
                    let (id, value) = (word(kind, rest)?, word(kind, rest)?);
                    if id & 0x00ff_ffff == INITIAL_WINDOW {
                        initial_window = Some(value & 0x7fff_ffff);
                    }
                }
                Frame::Settings { initial_window }
            }
            PING => Frame::Ping(word(kind, rest)?),
            GOAWAY => Frame::GoAway {
                last: word(kind, rest)? & 0x7fff_ffff,
                status: word(kind, rest)?,
            },
            WINDOW_UPDATE => Frame::WindowUpdate {
                // 0 is the connection as a whole.
                stream: word(kind, rest)? & 0x7fff_ffff,
                delta: word(kind, rest)? & 0x7fff_ffff,
            },
            other => Frame::Unknown(other),
        })
    }
}

fn stream(kind: u16, bytes: &mut &[u8]) -> Result<u32, FrameError> {
    match word(kind, bytes)? & 0x7fff_ffff {
        0 => Err(FrameError::StreamZero),
        stream => Ok(stream),
    }
}

fn word(kind: u16, bytes: &mut &[u8]) -> Result<u32, FrameError> {
    let (word, rest) = bytes
        .split_first_chunk()
        .ok_or(FrameError::Truncated(kind))?;
    *bytes = rest;
    Ok(u32::from_be_bytes(*word))
}

fn half_word(kind: u16, bytes: &mut &[u8]) -> Result<u16, FrameError> {
    let (half, rest) = bytes
        .split_first_chunk()
        .ok_or(FrameError::Truncated(kind))?;
    *bytes = rest;
    Ok(u16::from_be_bytes(*half))
}

/// Writes frames for one direction of a connection.
#[derive(Debug, Default)]
pub struct Encoder {
    storer: Storer,
}

impl Encoder {
    /// Appends a control frame.
    pub fn control(&mut self, frame: &Frame, target: &mut Vec<u8>) {
        let start = target.len();
        let (kind, end) = match frame {
            Frame::SynStream { end, .. } => (SYN_STREAM, *end),
            Frame::SynReply { end, .. } => (SYN_REPLY, *end),
            Frame::Headers { end, .. } => (HEADERS, *end),
            Frame::RstStream { .. } => (RST_STREAM, false),
            Frame::Settings { .. } => (SETTINGS, false),
            Frame::Ping(_) => (PING, false),
            Frame::GoAway { .. } => (GOAWAY, false),
            Frame::WindowUpdate { .. } => (WINDOW_UPDATE, false),
            Frame::Unknown(kind) => (*kind, false),
        };
        put(
            target,
            &[u32::from(0x8000 | VERSION) << 16 | u32::from(kind), 0],
        );
        match frame {
            Frame::SynStream {
                stream, headers, ..
            } => {
                put(target, &[*stream, 0]);
                target.extend_from_slice(&[0, 0]);
                self.storer.write(headers, target);
            }
            Frame::SynReply {
                stream, headers, ..
            }
            | Frame::Headers {
                stream, headers, ..
            } => {
                put(target, &[*stream]);
                self.storer.write(headers, target);
            }
            Frame::RstStream { stream, status } => put(target, &[*stream, *status]),
            Frame::Settings { initial_window } => match initial_window {
                Some(size) => put(target, &[1, INITIAL_WINDOW, *size]),
                None => put(target, &[0]),
            },
            Frame::Ping(id) => put(target, &[*id]),
            Frame::GoAway { last, status } => put(target, &[*last, *status]),
            Frame::WindowUpdate { stream, delta } => put(target, &[*stream, *delta]),
            Frame::Unknown(_) => {}
        }
        let length = target.len() - start - 8;
        target[start + 4..start + 8].copy_from_slice(&flags_and_length(end, length));
    }
}

/// What goes before the bytes of a data frame, of which there are fewer than 2^24.
#[must_use]
pub fn data_head(stream: u32, length: usize, end: bool) -> [u8; 8] {
    let [a, b, c, d] = stream.to_be_bytes();
    let [e, f, g, h] = flags_and_length(end, length);
    [a, b, c, d, e, f, g, h]
}

fn flags_and_length(end: bool, length: usize) -> [u8; 4] {
    debug_assert!(length < 1 << 24, "a frame's length has three bytes");
    let [_, a, b, c] = u32::try_from(length).unwrap_or_default().to_be_bytes();
    [u8::from(end) * FIN, a, b, c]
}

fn put(target: &mut Vec<u8>, words: &[u32]) {
    for word in words {
        target.extend_from_slice(&word.to_be_bytes());
    }
}

#[cfg(test)]
mod tests;
