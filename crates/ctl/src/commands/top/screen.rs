//! What a terminal shows, and what is typed on it.

use std::fmt::Write;

use super::rows::{HEADER, Row};

/// Takes the terminal's other screen, without a cursor, and gives it back.
pub(super) const ENTER: &str = "\x1b[?1049h\x1b[?25l";
pub(super) const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// Columns beside those of the names.
const NARROW: [usize; 4] = [15, 8, 9, 9];

/// The least room for the names of a container and of a pod.
const NAMES: usize = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Up,
    Down,
    Letter(u8),
}

/// The keys in what a read of the terminal gave. A sequence that means nothing to us is left out whole.
pub(super) fn keys(typed: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    let mut rest = typed;
    while let [first, tail @ ..] = rest {
        rest = match (first, tail) {
            (0x1b, [b'[' | b'O', b'A', tail @ ..]) => {
                keys.push(Key::Up);
                tail
            }
            (0x1b, [b'[' | b'O', b'B', tail @ ..]) => {
                keys.push(Key::Down);
                tail
            }
            // A control sequence ends with a byte from @ to ~ (ECMA-48, 5.4).
            (0x1b, [b'[' | b'O', tail @ ..]) => {
                let end = tail.iter().position(|byte| (0x40..=0x7e).contains(byte));
                &tail[end.map_or(tail.len(), |end| end + 1)..]
            }
            (letter, tail) => {
                keys.push(Key::Letter(*letter));
                tail
            }
        };
    }
    keys
}

/// One picture, from the top left; every line is cut to `width` characters, and there are at most `height`.
pub(super) fn picture(
    title: &str,
    rows: &[Row],
    selected: usize,
    foot: &str,
    width: usize,
    height: usize,
) -> String {
    // Title, header and foot are always there.
    let room = height.saturating_sub(3).max(1);
    let first = (selected + 1).saturating_sub(room);
    let names = width.saturating_sub(NARROW.iter().sum()).max(2 * NAMES);
    let widths = [
        NARROW[0],
        names / 2,
        names - names / 2,
        NARROW[1],
        NARROW[2],
        NARROW[3],
    ];
    let mut text = "\x1b[H".to_owned();
    let mut line = |content: &str, reversed: bool| {
        let content: String = content.chars().take(width).map(visible).collect();
        let _ = match reversed {
            true => write!(text, "\x1b[7m{content:<width$}\x1b[0m\x1b[K\r\n"),
            false => write!(text, "{content}\x1b[K\r\n"),
        };
    };
    line(title, false);
    line(&columns(&HEADER.map(str::to_owned), &widths), false);
    for (number, row) in rows.iter().enumerate().skip(first).take(room) {
        line(&columns(&row.cells(), &widths), number == selected);
    }
    let foot: String = foot.chars().take(width).map(visible).collect();
    let _ = write!(text, "{foot}\x1b[J");
    text
}

/// Names to the left, numbers to the right.
fn columns(cells: &[String; 6], widths: &[usize; 6]) -> String {
    let mut text = String::new();
    for (column, (cell, &width)) in cells.iter().zip(widths).enumerate() {
        let _ = match column {
            0..3 => {
                let cut: String = cell.chars().take(width - 1).collect();
                write!(text, "{cut:<width$}")
            }
            _ => write!(text, "{cell:>width$}"),
        };
    }
    text
}

/// Names come from users: a control character would move the cursor.
fn visible(c: char) -> char {
    if c.is_control() { '\u{fffd}' } else { c }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_letters_and_arrows() {
        use Key::{Down, Letter, Up};
        assert_eq!(
            keys(b"q\x1b[Aj\x1bOB"),
            [Letter(b'q'), Up, Letter(b'j'), Down]
        );
        // Page down, and a mouse.
        assert_eq!(keys(b"\x1b[6~x\x1b[<0;1;1M"), [Letter(b'x')]);
        assert_eq!(keys(b"\x1b["), []);
    }
}
