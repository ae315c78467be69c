//! D-Bus messages, as far as a client of systemd needs them: calls out, replies and signals in. The format is in the D-Bus
//! specification, "Message Protocol"; everything here is little-endian.

/// No message that concerns us is near it; the specification allows 128 MiB.
pub(super) const LONGEST: usize = 1 << 20;

/// The fixed part of the header, with the length of the fields' array.
pub(super) const FIXED: usize = 16;

const CALL: u8 = 1;
const REPLY: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// What a method call is addressed to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Method {
    pub(super) path: &'static str,
    pub(super) interface: &'static str,
    pub(super) member: &'static str,
}

/// A value in a dictionary of properties.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    Text(&'a str),
    Flag(bool),
    Number(u64),
    Numbers(&'a [u32]),
}

/// A message's body, or a part of one, as it grows.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    fn u32(&mut self, value: u32) {
        self.align(4);
        self.bytes.extend(value.to_le_bytes());
    }

    #[cfg(test)]
    pub(super) fn number(&mut self, value: u32) {
        self.u32(value);
    }

    fn u64(&mut self, value: u64) {
        self.align(8);
        self.bytes.extend(value.to_le_bytes());
    }

    /// Lengths are of what we write ourselves, far below the format's limit.
    fn length(&mut self, length: usize) {
        self.u32(u32::try_from(length).unwrap_or(u32::MAX));
    }

    pub(super) fn string(&mut self, text: &str) {
        self.length(text.len());
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.bytes.push(text.len() as u8);
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }

    /// An array: its length counts from behind the padding of its first element.
    pub(super) fn array(&mut self, element_alignment: usize, content: impl FnOnce(&mut Self)) {
        self.u32(0);
        let length_at = self.bytes.len() - 4;
        self.align(element_alignment);
        let start = self.bytes.len();
        content(self);
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.bytes[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// `(sv)`.
    pub(super) fn property(&mut self, name: &str, value: Value<'_>) {
        self.align(8);
        self.string(name);
        match value {
            Value::Text(text) => {
                self.signature("s");
                self.string(text);
            }
            Value::Flag(flag) => {
                self.signature("b");
                self.u32(flag.into());
            }
            Value::Number(number) => {
                self.signature("t");
                self.u64(number);
            }
            Value::Numbers(numbers) => {
                self.signature("au");
                self.array(4, |array| numbers.iter().for_each(|one| array.u32(*one)));
            }
        }
    }

    fn text_field(&mut self, code: u8, signature: &str, text: &str) {
        self.align(8);
        self.bytes.push(code);
        self.signature(signature);
        self.string(text);
    }
}

/// A method call; `destination` is empty where there is no bus between.
pub(super) fn call(
    serial: u32,
    method: Method,
    destination: &str,
    signature: &str,
    body: Writer,
) -> Vec<u8> {
    let mut message = Writer::default();
    message.bytes.extend([b'l', CALL, 0, 1]);
    message.length(body.bytes.len());
    message.u32(serial);
    message.array(8, |fields| {
        fields.text_field(PATH, "o", method.path);
        fields.text_field(INTERFACE, "s", method.interface);
        fields.text_field(MEMBER, "s", method.member);
        if !destination.is_empty() {
            fields.text_field(DESTINATION, "s", destination);
        }
        if !signature.is_empty() {
            fields.align(8);
            fields.bytes.push(SIGNATURE);
            fields.signature("g");
            fields.signature(signature);
        }
    });
    message.align(8);
    message.bytes.extend(body.bytes);
    message.bytes
}

/// What systemd sends, for tests.
#[cfg(test)]
pub(super) fn signal(member: &'static str, signature: &str, body: Writer) -> Vec<u8> {
    let method = Method {
        path: "/org/freedesktop/systemd1",
        interface: "org.freedesktop.systemd1.Manager",
        member,
    };
    let mut bytes = call(9, method, "", signature, body);
    bytes[1] = SIGNAL;
    bytes
}

/// An error that answers a call.
#[cfg(test)]
pub(super) fn error(to: u32, name: &str, signature: &str, body: Writer) -> Vec<u8> {
    let mut message = Writer::default();
    message.bytes.extend([b'l', ERROR, 0, 1]);
    message.length(body.bytes.len());
    message.u32(9);
    message.array(8, |fields| {
        fields.text_field(ERROR_NAME, "s", name);
        fields.align(8);
        fields.bytes.push(REPLY_SERIAL);
        fields.signature("u");
        fields.u32(to);
        fields.align(8);
        fields.bytes.push(SIGNATURE);
        fields.signature("g");
        fields.signature(signature);
    });
    message.align(8);
    message.bytes.extend(body.bytes);
    message.bytes
}

/// What is said to a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Incoming {
    pub(super) kind: Kind,
    /// Of a signature of `s`, `o`, `u` alone, the values; else those before the first other type.
    pub(super) body: Vec<Argument>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Reply {
        to: u32,
    },
    Error {
        to: u32,
        name: String,
    },
    Signal {
        member: String,
    },
    /// A call, or a kind of the future: not for us.
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Argument {
    Text(String),
    Number(u32),
}

/// Bytes that are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what arrived is no D-Bus message")]
pub(crate) struct Malformed;

/// How long the message is that begins with these [`FIXED`] bytes.
pub(super) fn length(fixed: &[u8; FIXED]) -> Result<usize, Malformed> {
    if fixed[0] != b'l' || fixed[3] != 1 {
        return Err(Malformed);
    }
    let mut reader = Reader {
        bytes: fixed,
        at: 4,
    };
    let body = reader.u32()? as usize;
    reader.u32()?;
    let fields = reader.u32()? as usize;
    if body > LONGEST || fields > LONGEST {
        return Err(Malformed);
    }
    Ok((FIXED + fields).next_multiple_of(8) + body)
}

/// A whole message.
pub(super) fn parse(bytes: &[u8]) -> Result<Incoming, Malformed> {
    let fixed = bytes.first_chunk::<FIXED>().ok_or(Malformed)?;
    if length(fixed)? != bytes.len() {
        return Err(Malformed);
    }
    let mut reader = Reader { bytes, at: 12 };
    let end = FIXED + reader.u32()? as usize;
    let (mut member, mut error, mut reply, mut signature) = (None, None, None, "");
    while reader.at < end {
        reader.align(8)?;
        let code = reader.byte()?;
        // Every field that the specification knows is of one of these types.
        match (code, reader.signature()?) {
            (MEMBER, "s") => member = Some(reader.string()?),
            (ERROR_NAME, "s") => error = Some(reader.string()?),
            (SIGNATURE, "g") => signature = reader.signature()?,
            (REPLY_SERIAL, "u") => reply = Some(reader.u32()?),
            (_, "s" | "o") => drop(reader.string()?),
            (_, "u") => drop(reader.u32()?),
            (_, "g") => drop(reader.signature()?),
            _ => return Err(Malformed),
        }
    }
    reader.align(8)?;
    let kind = match (bytes[1], reply, error, member) {
        (REPLY, Some(to), _, _) => Kind::Reply { to },
        (ERROR, Some(to), Some(name), _) => Kind::Error {
            to,
            name: name.to_owned(),
        },
        (SIGNAL, _, _, Some(member)) => Kind::Signal {
            member: member.to_owned(),
        },
        (REPLY | ERROR | SIGNAL, ..) => return Err(Malformed),
        _ => Kind::Other,
    };
    let mut body = Vec::new();
    for one in signature.bytes() {
        body.push(match one {
            b's' | b'o' => Argument::Text(reader.string()?.to_owned()),
            b'u' => Argument::Number(reader.u32()?),
            _ => break,
        });
    }
    Ok(Incoming { kind, body })
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(count).ok_or(Malformed)?;
        let taken = self.bytes.get(self.at..end).ok_or(Malformed)?;
        self.at = end;
        Ok(taken)
    }

    fn align(&mut self, to: usize) -> Result<(), Malformed> {
        let padding = self.at.next_multiple_of(to) - self.at;
        self.take(padding).map(drop)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.align(4)?;
        let bytes = self.take(4)?.first_chunk().ok_or(Malformed)?;
        Ok(u32::from_le_bytes(*bytes))
    }

    fn string(&mut self) -> Result<&'a str, Malformed> {
        let length = self.u32()? as usize;
        self.text(length)
    }

    fn signature(&mut self) -> Result<&'a str, Malformed> {
        let length = self.byte()?;
        self.text(length.into())
    }

    fn text(&mut self, length: usize) -> Result<&'a str, Malformed> {
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| Malformed)?;
        match self.byte()? {
            0 => Ok(text),
            _ => Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn done() -> Vec<u8> {
        let mut body = Writer::default();
        body.u32(7);
        body.string("/job/7");
        body.string("x.scope");
        body.string("done");
        signal("Done", "uoss", body)
    }

    #[test]
    fn what_is_written_can_be_read() {
        let bytes = done();
        let fixed = bytes.first_chunk().unwrap();
        assert_eq!(length(fixed), Ok(bytes.len()));
        let text = |text: &str| Argument::Text(text.to_owned());
        let body = vec![
            Argument::Number(7),
            text("/job/7"),
            text("x.scope"),
            text("done"),
        ];
        let member = "Done".to_owned();
        let kind = Kind::Signal { member };
        assert_eq!(parse(&bytes), Ok(Incoming { kind, body }));
    }

    /// The bytes of the example that every implementation agrees on: a call of `org.freedesktop.DBus.Hello`.
    #[test]
    fn a_call_is_as_the_specification_has_it() {
        let hello = Method {
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member: "Hello",
        };
        let bytes = call(1, hello, "org.freedesktop.DBus", "", Writer::default());
        assert_eq!(&bytes[..16], b"l\x01\0\x01\0\0\0\0\x01\0\0\0\x6d\0\0\0");
        assert_eq!(&bytes[16..24], b"\x01\x01o\0\x15\0\0\0");
        assert_eq!(bytes.len(), 128);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn no_damage_makes_it_panic(at in 0usize..100, value in any::<u8>(), cut in 0usize..120) {
            let mut bytes = done();
            let at = at % bytes.len();
            bytes[at] = value;
            let _ = parse(&bytes);
            bytes.truncate(cut);
            let _ = parse(&bytes);
        }
    }
}
