//! Frames of WebSocket (RFC 6455, 5), read from bytes as they come, and unmasked where these are.

use std::ops::Range;

use crate::outgoing::Head;

/// An end of a connection. What clients send is masked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

/// What a message says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Binary,
}

/// Why a connection is closed (RFC 6455, 7.4.1).
pub mod close {
    pub const NORMAL: u16 = 1000;
    pub const PROTOCOL: u16 = 1002;
    pub const UNSUPPORTED: u16 = 1003;
    pub const INVALID: u16 = 1007;
    pub const POLICY: u16 = 1008;
    pub const TOO_LONG: u16 = 1009;
}

/// What bytes turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A part of a message, as far as it has come: where it is. `end` comes with its last part, which may be empty.
    Part {
        kind: Kind,
        bytes: Range<usize>,
        end: bool,
    },
    Ping(Vec<u8>),
    Pong,
    /// The peer's last words, and the reason if it gives one.
    Close(Option<u16>),
}

/// What cannot be a frame. The connection is beyond help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame with reserved bits, which were not agreed on")]
    Reserved,
    #[error("a frame with the invalid opcode {0}")]
    Opcode(u8),
    #[error("an unmasked frame, from a client")]
    Unmasked,
    #[error("a masked frame, from a server")]
    Masked,
    #[error("a control frame in parts, or of more than {LONGEST_CONTROL} bytes")]
    Control,
    #[error("a message that begins within another")]
    Interrupted,
    #[error("the continuation of no message")]
    Continuation,
    #[error("a message that is too long: {0} bytes are the most")]
    TooLong(u64),
    #[error("a close with a reason that is none")]
    Close,
}

impl FrameError {
    /// What the connection is closed with.
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Self::TooLong(_) => close::TOO_LONG,
            _ => close::PROTOCOL,
        }
    }
}

pub(super) const CONTINUATION: u8 = 0;
pub(super) const TEXT: u8 = 1;
pub(super) const BINARY: u8 = 2;
pub(super) const CLOSE: u8 = 8;
pub(super) const PING: u8 = 9;
pub(super) const PONG: u8 = 10;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

/// Bytes that a control frame may carry.
pub(super) const LONGEST_CONTROL: usize = 125;

/// Reads frames from one direction of a connection.
#[derive(Debug)]
pub struct Decoder {
    /// Who reads.
    side: Side,
    longest: u64,
    head: [u8; 14],
    /// Bytes of the head that are there.
    have: usize,
    body: Option<Body>,
    /// The message that has begun, and how long it is so far.
    message: Option<Kind>,
    length: u64,
    /// Bytes of a control frame that came in parts.
    control: Vec<u8>,
}

/// What is left of a frame whose head has come.
#[derive(Debug, Clone, Copy)]
struct Body {
    meaning: Meaning,
    left: u64,
    /// What the next bytes are masked with.
    key: [u8; 4],
}

#[derive(Debug, Clone, Copy)]
enum Meaning {
    Part { kind: Kind, last: bool },
    Ping,
    Pong,
    Close,
}

impl Decoder {
    /// `longest`: bytes that a message may have.
    #[must_use]
    pub fn new(side: Side, longest: u64) -> Self {
        Self {
            side,
            longest,
            head: [0; 14],
            have: 0,
            body: None,
            message: None,
            length: 0,
            control: Vec::new(),
        }
    }

    /// Takes the next event off `bytes` from `at` on, and unmasks what it is about; `None` when all of them have been used.
    ///
    /// # Errors
    ///
    /// The bytes are no frames. Nothing sensible can come after that.
    pub fn decode(
        &mut self,
        bytes: &mut [u8],
        at: &mut usize,
    ) -> Result<Option<Event>, FrameError> {
        loop {
            let Some(mut body) = self.body else {
                if !self.take_head(bytes, at)? {
                    return Ok(None);
                }
                self.body = Some(self.begin()?);
                continue;
            };
            let room = bytes.len() - *at;
            let count = usize::try_from(body.left).unwrap_or(usize::MAX).min(room);
            if count == 0 && body.left > 0 {
                return Ok(None);
            }
            let range = *at..*at + count;
            *at = range.end;
            let some = &mut bytes[range.clone()];
            mask(some, body.key);
            body.key.rotate_left(count % 4);
            body.left -= count as u64;
            let over = body.left == 0;
            self.body = (!over).then_some(body);
            match body.meaning {
                Meaning::Part { kind, last } => {
                    let end = last && over;
                    if end {
                        (self.message, self.length) = (None, 0);
                    }
                    if end || !range.is_empty() {
                        let bytes = range;
                        return Ok(Some(Event::Part { kind, bytes, end }));
                    }
                }
                Meaning::Pong if over => return Ok(Some(Event::Pong)),
                Meaning::Pong => {}
                Meaning::Ping | Meaning::Close => {
                    self.control.extend_from_slice(some);
                    if over {
                        let said = std::mem::take(&mut self.control);
                        return match body.meaning {
                            Meaning::Ping => Ok(Some(Event::Ping(said))),
                            _ => reason(&said).map(|code| Some(Event::Close(code))),
                        };
                    }
                }
            }
        }
    }

    /// Whether the whole head is there.
    fn take_head(&mut self, bytes: &[u8], at: &mut usize) -> Result<bool, FrameError> {
        loop {
            let wanted = self.head_length();
            let count = (wanted - self.have).min(bytes.len() - *at);
            self.head[self.have..self.have + count].copy_from_slice(&bytes[*at..*at + count]);
            *at += count;
            self.have += count;
            if self.have < wanted {
                return Ok(false);
            }
            if wanted == 2 {
                self.check()?;
            }
            if self.have == self.head_length() {
                return Ok(true);
            }
        }
    }

    /// As far as it is known.
    fn head_length(&self) -> usize {
        if self.have < 2 {
            return 2;
        }
        let length = match self.head[1] & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let key = if self.head[1] & MASKED == 0 { 0 } else { 4 };
        2 + length + key
    }

    /// Looks at the first two bytes: whoever breaks the rules may never send the rest.
    fn check(&self) -> Result<(), FrameError> {
        let [first, second, ..] = self.head;
        if first & RESERVED != 0 {
            return Err(FrameError::Reserved);
        }
        match (first & 0xf, self.message) {
            (CONTINUATION, None) => return Err(FrameError::Continuation),
            (TEXT | BINARY, Some(_)) => return Err(FrameError::Interrupted),
            (CONTINUATION | TEXT | BINARY, _) => {}
            (CLOSE | PING | PONG, _) => {
                if first & FIN == 0 || usize::from(second & !MASKED) > LONGEST_CONTROL {
                    return Err(FrameError::Control);
                }
            }
            (other, _) => return Err(FrameError::Opcode(other)),
        }
        match (self.side, second & MASKED != 0) {
            (Side::Server, false) => Err(FrameError::Unmasked),
            (Side::Client, true) => Err(FrameError::Masked),
            _ => Ok(()),
        }
    }

    /// What the head that is there announces.
    fn begin(&mut self) -> Result<Body, FrameError> {
        let head = &self.head[..std::mem::take(&mut self.have)];
        let (length, key) = match self.side {
            Side::Server => head[1..].split_at(head.len() - 5),
            Side::Client => (&head[1..], &[][..]),
        };
        let left = match length {
            [_, more @ ..] if !more.is_empty() => more
                .iter()
                .fold(0, |length, byte| length << 8 | u64::from(*byte)),
            _ => u64::from(head[1] & !MASKED),
        };
        let last = head[0] & FIN != 0;
        let meaning = match (head[0] & 0xf, self.message) {
            (PING, _) => Meaning::Ping,
            (PONG, _) => Meaning::Pong,
            (CLOSE, _) => Meaning::Close,
            (CONTINUATION, Some(kind)) => Meaning::Part { kind, last },
            (TEXT, _) => Meaning::Part {
                kind: Kind::Text,
                last,
            },
            (_, _) => Meaning::Part {
                kind: Kind::Binary,
                last,
            },
        };
        if let Meaning::Part { kind, .. } = meaning {
            self.message = Some(kind);
            self.length = self.length.saturating_add(left);
            if self.length > self.longest {
                return Err(FrameError::TooLong(self.longest));
            }
        }
        let key = key.try_into().unwrap_or_default();
        Ok(Body { meaning, left, key })
    }
}

/// A close has two bytes of code and then words, or nothing.
fn reason(said: &[u8]) -> Result<Option<u16>, FrameError> {
    let Some((code, words)) = said.split_first_chunk() else {
        return if said.is_empty() {
            Ok(None)
        } else {
            Err(FrameError::Close)
        };
    };
    let code = u16::from_be_bytes(*code);
    // 7.4: the others are never sent.
    let known = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
    if known && std::str::from_utf8(words).is_ok() {
        Ok(Some(code))
    } else {
        Err(FrameError::Close)
    }
}

/// What goes before `length` bytes, which are a frame by themselves.
pub(super) fn head(opcode: u8, length: usize, key: Option<[u8; 4]>) -> Head {
    let mut head = Head::default();
    let masked = if key.is_some() { MASKED } else { 0 };
    head.extend(&[FIN | opcode]);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(length @ ..126), _) => head.extend(&[masked | length]),
        (_, Ok(length)) => {
            head.extend(&[masked | 126]);
            head.extend(&length.to_be_bytes());
        }
        _ => {
            head.extend(&[masked | 127]);
            head.extend(&(length as u64).to_be_bytes());
        }
    }
    head.extend(key.as_ref().map_or(&[], |key| &key[..]));
    head
}

/// Masks bytes, or unmasks them: it is the same.
pub(super) fn mask(bytes: &mut [u8], key: [u8; 4]) {
    if key == [0; 4] {
        return;
    }
    let word = u64::from(u32::from_ne_bytes(key));
    let word = word << 32 | word;
    let (words, rest) = bytes.as_chunks_mut();
    for eight in words {
        *eight = (u64::from_ne_bytes(*eight) ^ word).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(word.to_ne_bytes()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests;
