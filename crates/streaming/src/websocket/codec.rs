//! What a message says: which channel, and its bytes.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;

use super::frame::{Kind, close};

/// The channel of v5's messages about channels.
const CLOSE: u8 = 255;

/// How a subprotocol writes its messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Codec {
    /// The channel is a digit, the bytes are in base64, and messages are text.
    pub base64: bool,
    /// A message on channel 255 says that its sender will write no more on the channel that it names.
    pub closes: bool,
}

/// What came in a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    Data {
        channel: u8,
        bytes: Bytes,
    },
    /// The channel's half-close.
    End {
        channel: u8,
    },
}

/// A message that means nothing. The connection is closed with this as its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("a message without a channel")]
    Empty,
    #[error("channel {0}, which this session does not have")]
    Channel(u8),
    #[error("base64 that is none")]
    Base64,
    #[error("a close of no channel")]
    Close,
    #[error("text that is not UTF-8")]
    Text,
}

impl MessageError {
    /// What the connection is closed with.
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Self::Text => close::INVALID,
            _ => close::POLICY,
        }
    }
}

impl Codec {
    /// `channels` is how many there are.
    ///
    /// # Errors
    ///
    /// The message has no channel, or one that is not there, or bytes that are not in base64.
    pub fn decode(self, message: &Bytes, channels: usize) -> Result<Message, MessageError> {
        let (&first, rest) = message.split_first().ok_or(MessageError::Empty)?;
        let known = |channel: u8| {
            let known = usize::from(channel) < channels;
            known
                .then_some(channel)
                .ok_or(MessageError::Channel(channel))
        };
        if self.closes && first == CLOSE {
            let [channel] = rest else {
                return Err(MessageError::Close);
            };
            let channel = known(*channel)?;
            return Ok(Message::End { channel });
        }
        if !self.base64 {
            let channel = known(first)?;
            let bytes = message.slice(1..);
            return Ok(Message::Data { channel, bytes });
        }
        let channel = known(first.wrapping_sub(b'0'))?;
        let bytes = BASE64_STANDARD.decode(rest.trim_ascii());
        let bytes = bytes.map_err(|_| MessageError::Base64)?.into();
        Ok(Message::Data { channel, bytes })
    }

    /// The bytes of a message. They are text if the subprotocol is one of base64's.
    #[must_use]
    pub fn encode(self, channel: u8, bytes: &[u8]) -> Vec<u8> {
        if self.base64 {
            let mut text = String::with_capacity(bytes.len() * 4 / 3 + 5);
            text.push(char::from(b'0'.wrapping_add(channel)));
            BASE64_STANDARD.encode_string(bytes, &mut text);
            return text.into_bytes();
        }
        let mut message = Vec::with_capacity(bytes.len() + 1);
        message.push(channel);
        message.extend_from_slice(bytes);
        message
    }

    /// The message of a half-close, if the subprotocol has one.
    #[must_use]
    pub fn encode_end(self, channel: u8) -> Option<Vec<u8>> {
        self.closes.then(|| vec![CLOSE, channel])
    }
}

/// Understands messages while they come: those of bytes in parts, those of text when they are whole.
#[derive(Debug)]
pub struct Messages {
    codec: Codec,
    /// How many there are.
    channels: usize,
    within: Within,
}

#[derive(Debug)]
enum Within {
    /// Between two messages.
    Nothing,
    Bytes {
        channel: u8,
    },
    /// What has come of a message that says nothing before its end.
    Whole(Vec<u8>),
}

impl Messages {
    #[must_use]
    pub fn new(codec: Codec, channels: usize) -> Self {
        let within = Within::Nothing;
        Self {
            codec,
            channels,
            within,
        }
    }

    /// What the next part of a message says; `end` if it is the last. `None` where more has to come first.
    ///
    /// # Errors
    ///
    /// As [`Codec::decode`]; or text is none.
    pub fn read(
        &mut self,
        kind: Kind,
        part: Bytes,
        end: bool,
    ) -> Result<Option<Message>, MessageError> {
        let within = std::mem::replace(&mut self.within, Within::Nothing);
        match within {
            Within::Nothing if part.is_empty() && !end => Ok(None),
            Within::Nothing if !end => {
                let closes = self.codec.closes && part.first() == Some(&CLOSE);
                if kind == Kind::Text || self.codec.base64 || closes {
                    self.within = Within::Whole(part.to_vec());
                    return Ok(None);
                }
                let message = self.codec.decode(&part, self.channels)?;
                if let Message::Data { channel, .. } = message {
                    self.within = Within::Bytes { channel };
                }
                Ok(Some(message))
            }
            Within::Nothing => self.whole(kind, &part).map(Some),
            Within::Bytes { channel } => {
                if !end {
                    self.within = Within::Bytes { channel };
                }
                let bytes = part;
                Ok(Some(Message::Data { channel, bytes }))
            }
            Within::Whole(mut all) => {
                all.extend_from_slice(&part);
                if end {
                    return self.whole(kind, &Bytes::from(all)).map(Some);
                }
                self.within = Within::Whole(all);
                Ok(None)
            }
        }
    }

    fn whole(&self, kind: Kind, message: &Bytes) -> Result<Message, MessageError> {
        if kind == Kind::Text && std::str::from_utf8(message).is_err() {
            return Err(MessageError::Text);
        }
        self.codec.decode(message, self.channels)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BINARY: Codec = Codec {
        base64: false,
        closes: true,
    };
    const TEXT: Codec = Codec {
        base64: true,
        closes: false,
    };

    proptest! {
        #[test]
        fn what_is_written_is_read(channel in 0..5_u8, bytes in proptest::collection::vec(any::<u8>(), 0..99)) {
            for codec in [BINARY, TEXT] {
                let message = Bytes::from(codec.encode(channel, &bytes));
                let bytes = Bytes::from(bytes.clone());
                prop_assert_eq!(codec.decode(&message, 5), Ok(Message::Data { channel, bytes }));
            }
        }

        /// The channel and its bytes are the same in however many parts they come.
        #[test]
        fn parts_are_as_good_as_the_whole(
            message in proptest::collection::vec(prop_oneof![Just(0_u8), Just(CLOSE), Just(b'0'), any::<u8>()], 0..30),
            step in 1..30_usize,
            text in any::<bool>(),
        ) {
            let kind = if text { Kind::Text } else { Kind::Binary };
            for codec in [Codec::default(), BINARY, TEXT] {
                let whole = Messages::new(codec, 5).read(kind, Bytes::from(message.clone()), true);
                let (mut messages, mut last) = (Messages::new(codec, 5), None);
                let mut parts = message.chunks(step).peekable();
                let mut outcome = Ok(());
                while let Some(part) = parts.next() {
                    let end = parts.peek().is_none();
                    match (messages.read(kind, Bytes::copy_from_slice(part), end), &mut last) {
                        (Ok(Some(Message::Data { bytes, .. })), Some(Message::Data { bytes: before, .. })) => {
                            *before = [&before[..], &bytes].concat().into();
                        }
                        (Ok(said), last) => *last = said.or(last.take()),
                        (Err(error), _) => {
                            outcome = Err(error);
                            break;
                        }
                    }
                }
                match whole {
                    Ok(said) => prop_assert_eq!(said, last),
                    Err(MessageError::Empty) => prop_assert!(message.is_empty()),
                    Err(error) => prop_assert_eq!(outcome, Err(error)),
                }
            }
        }

        #[test]
        fn no_message_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..99)) {
            for codec in [BINARY, TEXT] {
                drop(codec.decode(&Bytes::from(bytes.clone()), 5));
            }
        }
    }

    #[test]
    fn closing_is_v5_s_alone() {
        let close = Bytes::from_static(&[255, 0]);
        assert_eq!(BINARY.decode(&close, 5), Ok(Message::End { channel: 0 }));
        assert_eq!(
            Codec::default().decode(&close, 5),
            Err(MessageError::Channel(255))
        );
        assert_eq!(BINARY.encode_end(0).unwrap(), close);
        for bad in [&[255][..], &[255, 0, 0]] {
            assert_eq!(
                BINARY.decode(&Bytes::from(bad), 5),
                Err(MessageError::Close)
            );
        }
    }

    #[test]
    fn messages_without_meaning_are_named() {
        assert_eq!(BINARY.decode(&Bytes::new(), 5), Err(MessageError::Empty));
        assert_eq!(
            BINARY.decode(&Bytes::from_static(&[5]), 5),
            Err(MessageError::Channel(5))
        );
        assert_eq!(
            TEXT.decode(&Bytes::from_static(b"0="), 5),
            Err(MessageError::Base64)
        );
        assert_eq!(
            TEXT.decode(&Bytes::from_static(b" aaaa"), 5),
            Err(MessageError::Channel(240))
        );
    }
}
