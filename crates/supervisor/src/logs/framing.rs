//! From the bytes of a stream to the lines of a CRI log.
//!
//! A line is `<RFC 3339 time> <stream> <tag> <content>`. Tag `F` ends a line of the program; `P` is a piece of a line whose rest
//! follows in the next entry of that stream. Readers (the kubelet's above all) drop the newline after a `P` entry and keep that
//! after an `F`. So:
//!
//! - Lines longer than [`MAX_LINE_BYTES`] are split into `P` entries of that size and a last `F`. A line of exactly that size is
//!   one `F`.
//! - An unterminated last line is a `P` as well: `kubectl logs` then shows byte for byte what the program wrote, with no newline it
//!   never printed. containerd does the same.

use super::timestamp::Timestamp;

/// The longest content of an entry, bytes.
pub(crate) const MAX_LINE_BYTES: usize = 16 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

#[derive(Debug, Clone, Copy)]
enum Tag {
    Partial,
    Full,
}

/// One stream's state between reads.
#[derive(Debug)]
pub(crate) struct Framer {
    stream: Stream,
    /// The beginning of a line whose end has not been read; at most [`MAX_LINE_BYTES`].
    pending: Vec<u8>,
}

impl Framer {
    pub(crate) fn new(stream: Stream) -> Self {
        Self {
            stream,
            pending: Vec::new(),
        }
    }

    /// Appends to `entries` those that `input` completes; keeps the rest.
    pub(crate) fn push(&mut self, mut input: &[u8], now: &Timestamp, entries: &mut Vec<u8>) {
        while !input.is_empty() {
            let room = MAX_LINE_BYTES - self.pending.len();
            // One byte further than there is room for: a newline there still makes one full entry.
            let reach = &input[..input.len().min(room + 1)];
            match reach.iter().position(|&byte| byte == b'\n') {
                Some(end) => {
                    self.entry(Tag::Full, &input[..end], now, entries);
                    input = &input[end + 1..];
                }
                None if reach.len() > room => {
                    self.entry(Tag::Partial, &input[..room], now, entries);
                    input = &input[room..];
                }
                None => {
                    self.pending.extend_from_slice(input);
                    return;
                }
            }
        }
    }

    /// No end of the pending line will come (soon): what there is of it becomes an entry.
    pub(crate) fn finish(&mut self, now: &Timestamp, entries: &mut Vec<u8>) {
        if !self.pending.is_empty() {
            self.entry(Tag::Partial, &[], now, entries);
        }
        // An idle stream should not keep 16 KiB.
        self.pending = Vec::new();
    }

    fn entry(&mut self, tag: Tag, rest: &[u8], now: &Timestamp, entries: &mut Vec<u8>) {
        entries.extend_from_slice(now.as_bytes());
        entries.extend_from_slice(match (self.stream, tag) {
            (Stream::Stdout, Tag::Partial) => b" stdout P ",
            (Stream::Stdout, Tag::Full) => b" stdout F ",
            (Stream::Stderr, Tag::Partial) => b" stderr P ",
            (Stream::Stderr, Tag::Full) => b" stderr F ",
        });
        entries.extend_from_slice(&self.pending);
        entries.extend_from_slice(rest);
        entries.push(b'\n');
        self.pending.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(pieces: &[&[u8]]) -> Vec<(char, Vec<u8>)> {
        let now = Timestamp::at(0, 0);
        let mut framer = Framer::new(Stream::Stderr);
        let mut entries = Vec::new();
        for piece in pieces {
            framer.push(piece, &now, &mut entries);
        }
        framer.finish(&now, &mut entries);
        parse(&entries)
    }

    fn parse(entries: &[u8]) -> Vec<(char, Vec<u8>)> {
        entries
            .split_inclusive(|&byte| byte == b'\n')
            .map(|line| {
                let content = line
                    .strip_prefix(b"1970-01-01T00:00:00.000000000Z stderr ".as_slice())
                    .unwrap();
                assert_eq!(content[1], b' ');
                (
                    char::from(content[0]),
                    content[2..].strip_suffix(b"\n").unwrap().to_vec(),
                )
            })
            .collect()
    }

    /// What `kubectl logs` prints.
    fn shown(entries: &[(char, Vec<u8>)]) -> Vec<u8> {
        let mut text = Vec::new();
        for (tag, content) in entries {
            text.extend_from_slice(content);
            if *tag == 'F' {
                text.push(b'\n');
            }
        }
        text
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_one_entry() {
        let line = [vec![b'x'; MAX_LINE_BYTES], vec![b'\n']].concat();
        assert_eq!(frame(&[&line]), [('F', vec![b'x'; MAX_LINE_BYTES])]);
        // However it arrives.
        assert_eq!(frame(&[&line[..MAX_LINE_BYTES], b"\n"]).len(), 1);
    }

    #[test]
    fn a_longer_line_is_split_at_the_limit() {
        let line = [vec![b'x'; 2 * MAX_LINE_BYTES + 1], vec![b'\n']].concat();
        assert_eq!(
            frame(&[&line]),
            [
                ('P', vec![b'x'; MAX_LINE_BYTES]),
                ('P', vec![b'x'; MAX_LINE_BYTES]),
                ('F', vec![b'x'])
            ]
        );
    }

    #[test]
    fn an_unterminated_last_line_is_partial() {
        assert_eq!(
            frame(&[b"one\n", b"", b"tw", b"o"]),
            [('F', b"one".to_vec()), ('P', b"two".to_vec())]
        );
        assert_eq!(frame(&[b"\n\n"]), [('F', vec![]), ('F', vec![])]);
        assert_eq!(frame(&[]), []);
    }

    fn piece() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'a')], 0..40),
            (0..40_000_usize).prop_map(|length| vec![b'z'; length]),
            (-2..3_isize).prop_map(|off| vec![b'y'; MAX_LINE_BYTES.strict_add_signed(off)]),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn no_byte_is_lost_and_reads_do_not_matter(pieces in prop::collection::vec(piece(), 0..12)) {
            let whole = pieces.concat();
            let slices: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let entries = frame(&slices);
            prop_assert_eq!(&shown(&entries), &whole);
            prop_assert_eq!(&entries, &frame(&[&whole]));
            for (index, (tag, content)) in entries.iter().enumerate() {
                prop_assert!(content.len() <= MAX_LINE_BYTES);
                if *tag == 'P' && index + 1 < entries.len() {
                    prop_assert_eq!(content.len(), MAX_LINE_BYTES);
                    prop_assert!(!entries[index + 1].1.is_empty());
                }
            }
        }
    }
}
