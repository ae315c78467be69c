//! What people and programs read: tables, JSON, YAML, ages and sizes.

pub(crate) mod bench;
pub(crate) mod json;
mod ordered;
pub(crate) mod progress;
pub(crate) mod size;
pub(crate) mod table;
pub(crate) mod template;
pub(crate) mod time;

use std::io::{self, BufWriter, IsTerminal, Write};

use clap::ValueEnum;

/// Standard output, buffered. Every write can fail (a closed pipe), so nothing uses `print!`.
pub(crate) struct Output {
    writer: BufWriter<io::Stdout>,
    terminal: bool,
}

impl Output {
    pub(crate) fn stdout() -> Self {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        Self {
            writer: BufWriter::new(stdout),
            terminal,
        }
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Whether colours are wanted: on a terminal, where `NO_COLOR` is not set (no-color.org).
    pub(crate) fn has_colours(&self) -> bool {
        self.terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
    }

    /// Moves to the top left of an empty screen.
    pub(crate) fn clear_screen(&mut self) -> io::Result<()> {
        self.writer.write_all(b"\x1b[2J\x1b[H")
    }
}

impl Write for Output {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.writer.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// `-o` of lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Json,
    Yaml,
    Table,
}
