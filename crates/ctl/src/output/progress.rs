//! What a person sees while an image is pulled.
//!
//! CRI's PullImage says nothing until it is done. Longshore's own Progress service does, and there is a bar for each layer; of other
//! runtimes a line shows what is known: that the pull goes on, and for how long.

mod picture;

use std::io::{self, IsTerminal, Write};
use std::pin::pin;
use std::time::{Duration, Instant};

use cri::progress::PullProgress;
use futures_util::{Stream, StreamExt};

use picture::Picture;

const FRAME: Duration = Duration::from_millis(100);

/// Runs `pull` with a picture on stderr that is redrawn ten times a second if that is a terminal. If not, there is none, and
/// `updates` is not polled.
pub(crate) async fn shown<T>(
    reference: &str,
    updates: impl Stream<Item = PullProgress>,
    pull: impl Future<Output = T>,
) -> T {
    if !io::stderr().is_terminal() {
        return pull.await;
    }
    let started = Instant::now();
    let mut pull = pin!(pull);
    // Where updates end or never begin, the picture goes on without.
    let mut updates = pin!(updates.fuse());
    let mut ticks = tokio::time::interval(FRAME);
    let mut picture = Picture::new(reference);
    let mut rows_drawn = 0;
    loop {
        tokio::select! {
            result = &mut pull => {
                draw(&redrawn(rows_drawn, &[]));
                return result;
            }
            Some(update) = updates.next() => picture.update(update, started.elapsed()),
            _ = ticks.tick() => {
                let (columns, rows) = size();
                let lines = picture.lines(started.elapsed(), columns, rows);
                draw(&redrawn(rows_drawn, &lines));
                rows_drawn = lines.len();
            }
        }
    }
}

/// Clears the `before` rows that end with the cursor's, and leaves the cursor in the last of `lines`.
fn redrawn(before: usize, lines: &[String]) -> String {
    let up = match before.saturating_sub(1) {
        0 => String::new(),
        rows => format!("\x1b[{rows}A"),
    };
    format!("{up}\r\x1b[J{}", lines.join("\r\n"))
}

fn draw(text: &str) {
    let mut stderr = io::stderr().lock();
    // A terminal that went away ends nothing.
    let _ = stderr.write_all(text.as_bytes());
    let _ = stderr.flush();
}

/// Columns and rows of the terminal; some do not know theirs.
fn size() -> (usize, usize) {
    let known = |size: u16, usual| match size {
        0 => usual,
        size => usize::from(size),
    };
    match rustix::termios::tcgetwinsize(io::stderr()) {
        Ok(size) => (known(size.ws_col, 80), known(size.ws_row, 24)),
        Err(_) => (80, 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_drawn_over_the_one_before() {
        let lines = |texts: &[&str]| -> Vec<String> { texts.iter().map(|&t| t.into()).collect() };
        assert_eq!(redrawn(0, &lines(&["a"])), "\r\x1b[Ja");
        assert_eq!(redrawn(1, &lines(&["a", "b", "c"])), "\r\x1b[Ja\r\nb\r\nc");
        assert_eq!(redrawn(3, &lines(&["d"])), "\x1b[2A\r\x1b[Jd");
        assert_eq!(redrawn(3, &[]), "\x1b[2A\r\x1b[J");
    }
}
