use super::Stream;
use crate::output::time;

/// One record of a CRI log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    /// As it stands in the log: RFC 3339 with nanoseconds.
    pub(super) time: &'a str,
    pub(super) stream: Stream,
    /// The line ends with this record.
    pub(super) ends: bool,
    pub(super) text: &'a [u8],
}

impl<'a> Record<'a> {
    /// Reads a record without its line feed; `None` for what is not one.
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        let (time, rest) = split(line)?;
        let (stream, rest) = split(rest)?;
        let stream = match stream {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        let (tags, text) = split(rest).unwrap_or((rest, b""));
        // Tags are separated by colons; only the first is defined.
        let ends = match tags.split(|&b| b == b':').next() {
            Some(b"F") => true,
            Some(b"P") => false,
            _ => return None,
        };
        let time = std::str::from_utf8(time).ok()?;
        Some(Self {
            time,
            stream,
            ends,
            text,
        })
    }

    /// `None` where the time cannot be read.
    pub(super) fn time_ns(&self) -> Option<i64> {
        time::parse_rfc3339(self.time)
    }
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&b| b == b' ')?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_four_parts() {
        let record =
            Record::parse(b"2026-11-21T08:00:00.000000001Z stdout F hello  world ").unwrap();
        assert_eq!(record.time_ns(), Some(1_795_248_000_000_000_001));
        assert_eq!(record.stream, Stream::Stdout);
        assert!(record.ends);
        assert_eq!(record.text, b"hello  world ");
        let partial = Record::parse(b"t stderr P:x ab").unwrap();
        assert!(!partial.ends);
        assert_eq!(partial.time_ns(), None);
        assert_eq!(Record::parse(b"t stdout F ").unwrap().text, b"");
        assert_eq!(Record::parse(b"t stdout F").unwrap().text, b"");
        for wrong in [
            &b""[..],
            b"t",
            b"t stdout",
            b"t stdin F x",
            b"t stdout X x",
            b"\xff stdout F x",
        ] {
            assert_eq!(Record::parse(wrong), None);
        }
    }
}
