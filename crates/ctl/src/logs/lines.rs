use std::io::{self, Write};

use super::record::Record;
use super::{LogOptions, Stream};

/// A line that never ends is shown in pieces of this size rather than kept.
const MAX_JOINED: usize = 1 << 20;

/// Joins records to lines, and shows those that are wanted.
#[derive(Debug)]
pub(super) struct Lines<'o> {
    options: &'o LogOptions,
    stdout: Joining,
    stderr: Joining,
    shown_bytes: u64,
}

/// The line of one stream that has not ended yet.
#[derive(Debug, Default)]
struct Joining {
    text: Vec<u8>,
    /// Of the first record.
    time: String,
    open: bool,
    wanted: bool,
    /// A piece of it has been shown.
    begun: bool,
}

impl<'o> Lines<'o> {
    pub(super) fn new(options: &'o LogOptions) -> Self {
        Self {
            options,
            stdout: Joining::default(),
            stderr: Joining::default(),
            shown_bytes: 0,
        }
    }

    /// Takes one record, without its line feed. What is no record is shown as it is: it is better seen than lost.
    pub(super) fn record(
        &mut self,
        line: &[u8],
        out: &mut impl Write,
        err: &mut impl Write,
    ) -> io::Result<()> {
        let Some(record) = Record::parse(line) else {
            let timed = self.options.since_ns.is_some() || self.options.until_ns.is_some();
            if !timed && self.options.stream.is_none() && !line.is_empty() {
                let piece = self.within_limit(line);
                out.write_all(self.options.prefix.as_bytes())?;
                out.write_all(piece)?;
                out.write_all(b"\n")?;
            }
            return Ok(());
        };
        let wanted_stream = self
            .options
            .stream
            .is_none_or(|wanted| wanted == record.stream);
        let old = |since: i64| record.time_ns().is_some_and(|time| time < since);
        let young = |until: i64| record.time_ns().is_some_and(|time| time > until);
        let out_of_time =
            self.options.since_ns.is_some_and(old) || self.options.until_ns.is_some_and(young);
        let wanted = wanted_stream && !out_of_time;
        let joining = self.joining(record.stream);
        if !joining.open {
            *joining = Joining {
                time: record.time.to_owned(),
                open: true,
                wanted,
                ..Joining::default()
            };
        }
        joining.text.extend_from_slice(record.text);
        if record.ends || joining.text.len() >= MAX_JOINED {
            self.show(record.stream, record.ends, out, err)?;
        }
        Ok(())
    }

    /// Nothing more comes: shows lines that have not ended.
    pub(super) fn end(&mut self, out: &mut impl Write, err: &mut impl Write) -> io::Result<()> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if self.joining(stream).open {
                self.show(stream, false, out, err)?;
                self.joining(stream).open = false;
            }
        }
        Ok(())
    }

    /// `--limit-bytes` has been shown.
    pub(super) fn is_full(&self) -> bool {
        self.options
            .limit_bytes
            .is_some_and(|limit| self.shown_bytes >= limit)
    }

    fn joining(&mut self, stream: Stream) -> &mut Joining {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn show(
        &mut self,
        stream: Stream,
        ends: bool,
        out: &mut impl Write,
        err: &mut impl Write,
    ) -> io::Result<()> {
        let joining = self.joining(stream);
        let mut piece = Vec::with_capacity(joining.text.len() + 40);
        let (wanted, begun) = (joining.wanted, joining.begun);
        let stamp = std::mem::take(&mut joining.time);
        let text = std::mem::take(&mut joining.text);
        joining.open = !ends;
        joining.begun = true;
        if !wanted || self.is_full() {
            return Ok(());
        }
        if self.options.timestamps && !begun {
            piece.extend_from_slice(stamp.as_bytes());
            piece.push(b' ');
        }
        piece.extend_from_slice(&text);
        if ends {
            piece.push(b'\n');
        }
        let piece = self.within_limit(&piece);
        let sink: &mut dyn Write = match stream {
            Stream::Stdout => out,
            Stream::Stderr => err,
        };
        if !begun {
            sink.write_all(self.options.prefix.as_bytes())?;
        }
        sink.write_all(piece)
    }

    fn within_limit<'p>(&mut self, piece: &'p [u8]) -> &'p [u8] {
        let left = match self.options.limit_bytes {
            Some(limit) => {
                usize::try_from(limit - self.shown_bytes.min(limit)).unwrap_or(usize::MAX)
            }
            None => usize::MAX,
        };
        let piece = &piece[..piece.len().min(left)];
        self.shown_bytes += piece.len() as u64;
        piece
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(options: LogOptions, records: &[&str]) -> (String, String) {
        let mut lines = Lines::new(&options);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        for record in records {
            lines.record(record.as_bytes(), &mut out, &mut err).unwrap();
        }
        lines.end(&mut out, &mut err).unwrap();
        (
            String::from_utf8(out).unwrap(),
            String::from_utf8(err).unwrap(),
        )
    }

    const LOG: [&str; 6] = [
        "2026-11-21T08:00:00Z stdout P one ",
        "2026-11-21T08:00:01Z stderr F oops",
        "2026-11-21T08:00:02Z stdout P two ",
        "2026-11-21T08:00:03Z stdout F three",
        "2026-11-21T08:00:04Z stdout F ",
        "2026-11-21T08:00:05Z stdout P unfinished",
    ];

    #[test]
    fn partial_records_join_within_their_stream() {
        let (out, err) = shown(LogOptions::default(), &LOG);
        assert_eq!(out, "one two three\n\nunfinished");
        assert_eq!(err, "oops\n");
    }

    #[test]
    fn a_line_has_the_time_of_its_first_record() {
        let options = LogOptions {
            timestamps: true,
            ..LogOptions::default()
        };
        let (out, err) = shown(options, &LOG[..4]);
        assert_eq!(out, "2026-11-21T08:00:00Z one two three\n");
        assert_eq!(err, "2026-11-21T08:00:01Z oops\n");
    }

    #[test]
    fn old_lines_other_streams_and_too_many_bytes_are_left_out() {
        let since = LogOptions {
            since_ns: crate::output::time::parse_rfc3339("2026-11-21T08:00:01Z"),
            ..LogOptions::default()
        };
        let unfinished_only = ("\nunfinished".to_owned(), "oops\n".to_owned());
        assert_eq!(shown(since, &LOG), unfinished_only);
        let stream = LogOptions {
            stream: Some(Stream::Stderr),
            ..LogOptions::default()
        };
        assert_eq!(shown(stream, &LOG), (String::new(), "oops\n".to_owned()));
        let limit = LogOptions {
            limit_bytes: Some(8),
            ..LogOptions::default()
        };
        assert_eq!(shown(limit, &LOG), ("one".to_owned(), "oops\n".to_owned()));
    }

    #[test]
    fn a_prefix_stands_before_each_line_and_counts_for_nothing() {
        let options = LogOptions {
            prefix: "web | ".to_owned(),
            timestamps: true,
            limit_bytes: Some(40),
            ..LogOptions::default()
        };
        let (out, err) = shown(options, &LOG[..4]);
        assert_eq!(err, "web | 2026-11-21T08:00:01Z oops\n");
        assert_eq!(out, "web | 2026-11-21T08:");
        let plain = LogOptions {
            prefix: "web | ".to_owned(),
            ..LogOptions::default()
        };
        let (out, _) = shown(plain, &["garbage", LOG[0], LOG[3]]);
        assert_eq!(out, "web | garbage\nweb | one three\n");
    }

    #[test]
    fn what_is_no_record_is_shown_as_it_is() {
        let (out, _) = shown(LogOptions::default(), &["garbage", "t stdout F text"]);
        assert_eq!(out, "garbage\ntext\n");
    }

    #[test]
    fn endless_lines_are_shown_in_pieces() {
        let record = format!("t stdout P {}", "x".repeat(MAX_JOINED / 4));
        let records = vec![record.as_str(); 9];
        let options = LogOptions {
            timestamps: true,
            ..LogOptions::default()
        };
        let (out, _) = shown(options, &records);
        assert_eq!(out.len(), 2 + 9 * (MAX_JOINED / 4));
    }
}
