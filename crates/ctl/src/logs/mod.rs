//! Reading a container's log: CRI lines in a file that the runtime appends to and that is rotated by renaming it.
//!
//! A line is `TIME STREAM TAG TEXT`, where the tag `P` says that the line goes on in the next record of its stream, and `F`
//! that it ends there. Records are joined to lines before they are shown; `--tail` counts lines, not records.

mod follow;
mod lines;
mod record;
mod tail;

pub(crate) use follow::{Follow, Log, show};

use clap::ValueEnum;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// What to show of a log.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogOptions {
    /// Before each line, and no part of its text.
    pub(crate) prefix: String,
    /// Only so many lines from the end.
    pub(crate) tail: Option<u64>,
    pub(crate) timestamps: bool,
    pub(crate) stream: Option<Stream>,
    /// Only lines whose first record is not older.
    pub(crate) since_ns: Option<i64>,
    /// Only lines whose first record is not younger.
    pub(crate) until_ns: Option<i64>,
    /// Only so many bytes of text.
    pub(crate) limit_bytes: Option<u64>,
}
