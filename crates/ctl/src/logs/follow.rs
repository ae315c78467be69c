use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use super::lines::Lines;
use super::{LogOptions, tail};
use crate::error::Error;
use crate::output::Output;

/// How often the end of the file is looked at. A watch would need one of the machine's few inotify instances.
const POLL: Duration = Duration::from_millis(100);

/// A record without an end is taken as one at this size (the format allows 16 KiB and a header).
const MAX_RECORD: usize = 1 << 20;

/// Until when to go on.
pub(crate) struct Follow<F> {
    pub(crate) still_running: F,
    pub(crate) interval: Duration,
}

/// A log that is open, and how long to stay with it.
pub(crate) struct Log<'a, F> {
    reader: Reader<'a>,
    follow: Option<Follow<F>>,
    checked: Instant,
    /// The container was seen not to run: what can be read from then on is all.
    ended: bool,
}

/// Shows what is in the logs, one after the other; with `follow`, what comes to any of them, across rotations, until its container does not
/// run any more and all of its log has been shown.
pub(crate) async fn show<F>(mut logs: Vec<Log<'_, F>>, out: &mut Output) -> Result<(), Error>
where
    F: AsyncFnMut() -> Result<bool, Error>,
{
    let mut err = BufWriter::new(io::stderr());
    while !logs.is_empty() {
        let mut open = Vec::new();
        for mut log in logs {
            if log.advance(out, &mut err).await? {
                open.push(log);
            }
        }
        logs = open;
        out.flush()?;
        let _ = err.flush();
        if !logs.is_empty() {
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(())
}

impl<'a, F> Log<'a, F>
where
    F: AsyncFnMut() -> Result<bool, Error>,
{
    pub(crate) fn open(
        path: &'a Path,
        options: &'a LogOptions,
        follow: Option<Follow<F>>,
    ) -> Result<Self, Error> {
        Ok(Self {
            reader: Reader::open(path, options)?,
            follow,
            checked: Instant::now(),
            ended: false,
        })
    }

    /// Shows what has come; whether more may come.
    async fn advance(&mut self, out: &mut impl Write, err: &mut impl Write) -> Result<bool, Error> {
        let reader = &mut self.reader;
        reader.drain(out, err)?;
        while self.follow.is_some() && !reader.lines.is_full() {
            if !reader.follow_rotation(out, err)? {
                break;
            }
            reader.drain(out, err)?;
        }
        match &mut self.follow {
            Some(follow) if !self.ended && !reader.lines.is_full() => {
                if self.checked.elapsed() >= follow.interval {
                    self.ended = !(follow.still_running)().await?;
                    self.checked = Instant::now();
                }
                Ok(true)
            }
            _ => {
                reader.finish(out, err)?;
                Ok(false)
            }
        }
    }
}

/// One log, of which the file may change.
struct Reader<'a> {
    path: &'a Path,
    file: File,
    position: u64,
    /// The beginning of a record whose end has not been written yet.
    partial: Vec<u8>,
    lines: Lines<'a>,
}

impl<'a> Reader<'a> {
    fn open(path: &'a Path, options: &'a LogOptions) -> Result<Self, Error> {
        let failed = |source| Error::Io {
            what: format!("read log {}", path.display()),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let position = match options.tail {
            Some(lines) => tail::start(&file, length, lines).map_err(failed)?,
            None => 0,
        };
        Ok(Self {
            path,
            file,
            position,
            partial: Vec::new(),
            lines: Lines::new(options),
        })
    }

    /// Shows all that is in the file now.
    fn drain(&mut self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Error> {
        let mut block = vec![0; 64 * 1024];
        while !self.lines.is_full() {
            let read = self.file.read_at(&mut block, self.position);
            let size = read.map_err(|source| self.failed(source))?;
            if size == 0 {
                break;
            }
            self.position += size as u64;
            self.take(&block[..size], out, err)?;
        }
        Ok(())
    }

    fn take(
        &mut self,
        mut bytes: &[u8],
        out: &mut impl Write,
        err: &mut impl Write,
    ) -> Result<(), Error> {
        while let Some(end) = bytes.iter().position(|&b| b == b'\n') {
            let (record, rest) = (&bytes[..end], &bytes[end + 1..]);
            if self.partial.is_empty() {
                self.lines.record(record, out, err)?;
            } else {
                self.partial.extend_from_slice(record);
                let whole = std::mem::take(&mut self.partial);
                self.lines.record(&whole, out, err)?;
            }
            bytes = rest;
        }
        self.partial.extend_from_slice(bytes);
        if self.partial.len() > MAX_RECORD {
            let piece = std::mem::take(&mut self.partial);
            self.lines.record(&piece, out, err)?;
        }
        Ok(())
    }

    /// At the end of the file: true if there is another to go on with.
    ///
    /// The runtime creates the new file before its writer leaves the old one, so only a byte in the new one says that the old one
    /// is complete.
    fn follow_rotation(
        &mut self,
        out: &mut impl Write,
        err: &mut impl Write,
    ) -> Result<bool, Error> {
        let now = match std::fs::metadata(self.path) {
            Ok(metadata) => metadata,
            // Between the rename and the new file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(self.failed(error)),
        };
        let ours = self.file.metadata().map_err(|source| self.failed(source))?;
        if (now.dev(), now.ino()) == (ours.dev(), ours.ino()) {
            // Cut in place, as by copytruncate.
            if now.len() < self.position {
                self.position = 0;
                return Ok(true);
            }
            return Ok(false);
        }
        if now.len() == 0 {
            return Ok(false);
        }
        self.drain(out, err)?;
        let next = match File::open(self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(self.failed(error)),
        };
        self.file = next;
        self.position = 0;
        Ok(true)
    }

    fn finish(&mut self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Error> {
        let last = std::mem::take(&mut self.partial);
        if !last.is_empty() && !self.lines.is_full() {
            self.lines.record(&last, out, err)?;
        }
        self.lines.end(out, err)?;
        Ok(())
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Io {
            what: format!("read log {}", self.path.display()),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, OpenOptions};

    fn append(path: &Path, text: &str) {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn drained(reader: &mut Reader<'_>) -> String {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        loop {
            reader.drain(&mut out, &mut err).unwrap();
            if !reader.follow_rotation(&mut out, &mut err).unwrap() {
                return String::from_utf8(out).unwrap();
            }
        }
    }

    #[test]
    fn a_rotation_loses_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let rotated = directory.path().join("0.log.1");
        append(&path, "t stdout F one\nt stdout P tw");
        let options = LogOptions::default();
        let mut reader = Reader::open(&path, &options).unwrap();
        assert_eq!(drained(&mut reader), "one\n");

        // Renamed; the writer goes on in the old file, also after the new one is there.
        fs::rename(&path, &rotated).unwrap();
        append(&rotated, "o\nt stdout F still\n");
        assert_eq!(drained(&mut reader), "twostill\n");
        append(&path, "");
        append(&rotated, "t stdout F old\n");
        assert_eq!(drained(&mut reader), "old\n");

        // Its last line is seen even if the new file has some already.
        append(&rotated, "t stdout P la");
        append(&rotated, "st \n");
        append(&path, "t stdout F new\n");
        assert_eq!(drained(&mut reader), "last new\n");
        append(&path, "t stdout F newer\n");
        assert_eq!(drained(&mut reader), "newer\n");

        // Cut in place.
        fs::write(&path, "t stdout F cut\n").unwrap();
        assert_eq!(drained(&mut reader), "cut\n");
    }
}
