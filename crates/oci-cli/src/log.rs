//! Messages: on standard error, and in the file of `--log`.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;

use crate::arguments::{Global, LogFormat};

#[derive(Debug)]
pub(crate) struct Log {
    file: Option<File>,
    format: LogFormat,
    debug: bool,
}

impl Log {
    pub(crate) fn open(global: &Global) -> anyhow::Result<Self> {
        let file = match &global.log {
            None => None,
            Some(path) => Some(
                OpenOptions::new()
                    .append(true)
                    .create(true)
                    .open(path)
                    .with_context(|| format!("open the log {}", path.display()))?,
            ),
        };
        Ok(Self {
            file,
            format: global.log_format,
            debug: global.debug,
        })
    }

    /// Standard error alone.
    pub(crate) fn plain() -> Self {
        Self {
            file: None,
            format: LogFormat::Text,
            debug: false,
        }
    }

    pub(crate) fn error(&mut self, message: &str) {
        self.say("error", message);
    }

    pub(crate) fn warn(&mut self, message: &str) {
        self.say("warning", message);
    }

    /// With `--debug`: to the log where there is one, else to standard error.
    pub(crate) fn debug(&mut self, message: &str) {
        if !self.debug {
            return;
        }
        let line = self.line("debug", message);
        // As below.
        let _ = match &mut self.file {
            Some(file) => writeln!(file, "{line}"),
            None => writeln!(std::io::stderr(), "{line}"),
        };
    }

    /// Where a message cannot be written there is nobody to tell.
    fn say(&mut self, level: &str, message: &str) {
        let _ = writeln!(std::io::stderr(), "{message}");
        let line = self.line(level, message);
        if let Some(file) = &mut self.file {
            let _ = writeln!(file, "{line}");
        }
    }

    fn line(&self, level: &str, message: &str) -> String {
        let time = rfc3339(SystemTime::now());
        match self.format {
            LogFormat::Json => {
                serde_json::json!({ "level": level, "msg": message, "time": time }).to_string()
            }
            LogFormat::Text => format!("time=\"{time}\" level={level} msg={message:?}"),
        }
    }
}

/// To standard output, which may be closed.
pub(crate) fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// `2026-11-21T20:00:00.000000000Z`.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        since.subsec_nanos()
    )
}

/// Of the proleptic Gregorian calendar, from days since 1970. Years begin in March, so that the leap day is the last.
fn date(days: u64) -> (u64, u64, u64) {
    const ERA: u64 = 146_097;
    let shifted = days + 719_468;
    let (era, day) = (shifted / ERA, shifted % ERA);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let in_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * in_year + 2) / 153;
    let (year, month_of_year) = match month {
        0..=9 => (year + era * 400, month + 3),
        _ => (year + era * 400 + 1, month - 9),
    };
    (year, month_of_year, in_year - (153 * month + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_written_as_everybody_does() {
        let at = |seconds| rfc3339(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59.000000000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(at(1_795_294_800), "2026-11-21T21:00:00.000000000Z");
    }
}
