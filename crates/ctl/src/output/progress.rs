//! What a person sees while an image is pulled.
//!
//! CRI's PullImage says nothing until it is done, so the line shows what is known: that it runs, and for how long. The runtime's
//! own progress service will add [`Transfer`] to it.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

const FRAMES: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];
const FRAME: Duration = Duration::from_millis(100);

/// How far a pull is, where the runtime tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Transfer {
    pub(crate) done_bytes: u64,
    pub(crate) total_bytes: u64,
}

/// Runs `pull` with a line on stderr that is redrawn ten times a second if that is a terminal, and not there at all if not.
pub(crate) async fn shown<T>(
    reference: &str,
    transfer: impl Fn() -> Option<Transfer>,
    pull: impl Future<Output = T>,
) -> T {
    if !io::stderr().is_terminal() {
        return pull.await;
    }
    let started = Instant::now();
    let mut pull = std::pin::pin!(pull);
    let mut ticks = tokio::time::interval(FRAME);
    let mut frame = 0;
    loop {
        tokio::select! {
            result = &mut pull => {
                draw("\r\x1b[K");
                return result;
            }
            _ = ticks.tick() => {
                let line = line(reference, frame, started.elapsed(), transfer());
                draw(&format!("\r\x1b[K{}", cut(&line, columns())));
                frame += 1;
            }
        }
    }
}

fn draw(text: &str) {
    let mut stderr = io::stderr().lock();
    // A terminal that went away ends nothing.
    let _ = stderr.write_all(text.as_bytes());
    let _ = stderr.flush();
}

/// Width of the terminal; some say 0.
fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stderr());
    size.map_or(0, |size| usize::from(size.ws_col))
}

/// A line that wraps could not be drawn over.
fn cut(line: &str, columns: usize) -> &str {
    match line.char_indices().nth(columns.saturating_sub(1)) {
        Some((end, _)) if columns > 0 => &line[..end],
        _ => line,
    }
}

fn line(reference: &str, frame: usize, elapsed: Duration, transfer: Option<Transfer>) -> String {
    use crate::output::size::human;

    let spinner = FRAMES[frame % FRAMES.len()];
    let seconds = elapsed.as_secs_f64();
    match transfer {
        None => format!("{spinner} Pulling {reference}  {seconds:.1} s"),
        Some(Transfer {
            done_bytes,
            total_bytes,
        }) => {
            const WIDTH: u64 = 24;
            let share = done_bytes.min(total_bytes) * WIDTH / total_bytes.max(1);
            let bar: String = (0..WIDTH)
                .map(|i| if i < share { '█' } else { '░' })
                .collect();
            format!(
                "{spinner} Pulling {reference}  {bar} {} of {}  {seconds:.1} s",
                human(done_bytes, 3),
                human(total_bytes, 3)
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_the_terminal() {
        assert_eq!(cut("⠋ Pulling", 5), "⠋ Pu");
        assert_eq!(cut("short", 80), "short");
        assert_eq!(cut("⠋ Pulling", 0), "⠋ Pulling");
        assert_eq!(cut("⠋ Pulling", 1), "");
    }

    #[test]
    fn the_line_shows_what_is_known() {
        let elapsed = Duration::from_millis(1250);
        assert_eq!(
            line("busybox", 0, elapsed, None),
            "⠋ Pulling busybox  1.2 s"
        );
        let half = Transfer {
            done_bytes: 1_000_000,
            total_bytes: 2_000_000,
        };
        assert_eq!(
            line("busybox", 11, elapsed, Some(half)),
            "⠙ Pulling busybox  ████████████░░░░░░░░░░░░ 1MB of 2MB  1.2 s"
        );
        let unknown = Transfer {
            done_bytes: 5,
            total_bytes: 0,
        };
        assert!(line("busybox", 0, elapsed, Some(unknown)).contains("░░ 5B of 0B"));
    }
}
