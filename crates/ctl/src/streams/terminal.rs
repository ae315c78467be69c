use std::io;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use streaming::TerminalSize;

/// The terminal that we were started on, raw until this is dropped: keys go through as they are typed, Ctrl-C included. Unwinding from a panic
/// drops it too; signals that would end us are waited for by who holds it.
#[derive(Debug)]
pub(crate) struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// `None`: stdin is no terminal.
    pub(crate) fn enter() -> io::Result<Option<Self>> {
        let stdin = rustix::stdio::stdin();
        let Ok(before) = tcgetattr(stdin) else {
            return Ok(None);
        };
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin, OptionalActions::Now, &raw)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // After a hang-up there is nothing to restore.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.before);
    }
}

/// How large the terminal is that we show on, if it is one.
pub(crate) fn size() -> Option<TerminalSize> {
    let stdout = tcgetwinsize(rustix::stdio::stdout());
    let size = stdout
        .or_else(|_| tcgetwinsize(rustix::stdio::stdin()))
        .ok()?;
    // Serial lines and the like do not know.
    (size.ws_row > 0 && size.ws_col > 0).then_some(TerminalSize {
        width: size.ws_col,
        height: size.ws_row,
    })
}
