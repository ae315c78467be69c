//! Messages and attributes (`netlink(7)`): native byte order, everything aligned to four bytes.

pub(crate) const REQUEST: u16 = 1;
pub(crate) const ACK: u16 = 4;
pub(crate) const REPLACE: u16 = 0x100;
pub(crate) const EXCL: u16 = 0x200;
pub(crate) const DUMP: u16 = 0x300;
pub(crate) const CREATE: u16 = 0x400;

/// Types below 16 are netlink's own.
pub(crate) const TYPE_ERROR: u16 = 2;
pub(crate) const TYPE_DONE: u16 = 3;

const HEADER: usize = 16;
const NESTED: u16 = 0x8000;

/// One or more messages, for one `send(2)`. The `index`th has `index` as its sequence number.
#[derive(Debug, Default)]
pub(crate) struct Request {
    bytes: Vec<u8>,
    /// Where the current message starts.
    start: usize,
    messages: u32,
    acks: u32,
}

impl Request {
    pub(crate) fn new() -> Request {
        Request {
            bytes: Vec::with_capacity(512),
            ..Request::default()
        }
    }

    /// Begins a message. `body` is the fixed part that comes before the attributes.
    pub(crate) fn message(&mut self, kind: u16, flags: u16, body: &[u8]) -> &mut Request {
        self.start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes
            .extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&self.messages.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(body);
        self.messages += 1;
        if flags & ACK != 0 {
            self.acks += 1;
        }
        self.pad();
        self
    }

    /// Asks for an acknowledgement of the current message.
    pub(crate) fn acknowledge(&mut self) {
        let at = self.start + 6;
        let flags = [self.bytes[at], self.bytes[at + 1]];
        let flags = u16::from_ne_bytes(flags) | ACK;
        self.bytes[at..at + 2].copy_from_slice(&flags.to_ne_bytes());
        self.acks += 1;
    }

    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Request {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// A text with the NUL byte that the kernel wants at its end.
    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Request {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    pub(crate) fn u32(&mut self, kind: u16, value: u32) -> &mut Request {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// nf_tables has its numbers in network byte order.
    pub(crate) fn be32(&mut self, kind: u16, value: u32) -> &mut Request {
        self.attribute(kind, &value.to_be_bytes())
    }

    pub(crate) fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Request)) -> &mut Request {
        self.nest_after(kind, &[], inside)
    }

    /// A nest whose attributes come after a fixed part.
    pub(crate) fn nest_after(
        &mut self,
        kind: u16,
        fixed: &[u8],
        inside: impl FnOnce(&mut Request),
    ) -> &mut Request {
        let start = self.bytes.len();
        self.attribute(kind | NESTED, fixed);
        inside(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Aligns, and brings the message's length up to date.
    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
        let length = u32::try_from(self.bytes.len() - self.start).unwrap_or(u32::MAX);
        self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn messages(&self) -> u32 {
        self.messages
    }

    pub(crate) fn acks(&self) -> u32 {
        self.acks
    }
}

/// A message as received.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) sequence: u32,
    pub(crate) body: &'a [u8],
}

impl Message<'_> {
    /// The `errno` of an error message, 0 for an acknowledgement.
    pub(crate) fn errno(&self) -> Option<i32> {
        let code: [u8; 4] = self.body.get(..4)?.try_into().ok()?;
        Some(i32::from_ne_bytes(code).wrapping_neg())
    }
}

/// The messages of a datagram; ends at the first malformed one.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.get(..HEADER)?;
        let length = u32::from_ne_bytes(header[..4].try_into().ok()?) as usize;
        let message = Message {
            kind: u16::from_ne_bytes(header[4..6].try_into().ok()?),
            sequence: u32::from_ne_bytes(header[8..12].try_into().ok()?),
            body: bytes.get(HEADER..length)?,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(message)
    })
}

/// Attributes with their types, less the flag bits; ends at the first malformed one.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.get(..4)?;
        let length = usize::from(u16::from_ne_bytes(header[..2].try_into().ok()?));
        let kind = u16::from_ne_bytes(header[2..4].try_into().ok()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

pub(crate) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(kind, value)| (kind == wanted).then_some(value))
}

/// A text attribute, with or without its NUL byte.
pub(crate) fn text(value: &[u8]) -> String {
    let value = value.strip_suffix(&[0]).unwrap_or(value);
    String::from_utf8_lossy(value).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_parses() {
        let mut request = Request::new();
        request
            .message(16, CREATE | ACK, &[1, 2])
            .text(3, "eth0")
            .nest(18, |nest| {
                nest.attribute(1, b"x").u32(2, 7);
            });
        request.message(17, 0, &[0; 16]);
        let parsed: Vec<_> = messages(request.bytes()).collect();
        assert_eq!(parsed.len(), 2);
        assert_eq!((parsed[0].kind, parsed[0].sequence), (16, 0));
        assert_eq!((parsed[1].kind, parsed[1].sequence), (17, 1));
        let inside = &parsed[0].body[4..];
        assert_eq!(text(attribute(inside, 3).unwrap()), "eth0");
        let nest = attribute(inside, 18).unwrap();
        assert_eq!(attribute(nest, 1).unwrap(), b"x");
        assert_eq!(attribute(nest, 2).unwrap(), 7u32.to_ne_bytes());
        assert_eq!((request.messages(), request.acks()), (2, 1));
    }

    #[test]
    fn malformed_input_ends_the_iteration() {
        assert_eq!(messages(&[255; 16]).count(), 0);
        assert_eq!(messages(&[0; 16]).count(), 0);
        assert_eq!(attributes(&[0; 8]).count(), 0);
        assert_eq!(attributes(&[8, 0, 1, 0, 1]).count(), 0);
    }
}
