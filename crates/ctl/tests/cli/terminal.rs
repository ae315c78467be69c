//! A terminal for a command to run on.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

const LIMIT: Duration = Duration::from_secs(30);

/// A command on a terminal of 100 columns and 24 lines.
pub(crate) struct OnTerminal {
    child: Child,
    terminal: File,
    modes: Termios,
    drawn: Vec<u8>,
}

impl OnTerminal {
    /// `command` gets the end of the terminal that is the command's.
    pub(crate) fn start(command: impl FnOnce(OwnedFd) -> Command) -> Self {
        Self::start_sized(100, 24, command)
    }

    /// As [`OnTerminal::start`], of another size.
    pub(crate) fn start_sized(
        columns: u16,
        lines: u16,
        command: impl FnOnce(OwnedFd) -> Command,
    ) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let size = Winsize {
            ws_row: lines,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&terminal, size).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let inner: OwnedFd = rustix::fs::open(name, flags, Mode::empty()).unwrap();
        let modes = tcgetattr(&inner).unwrap();
        Self {
            child: command(inner).spawn().unwrap(),
            modes,
            terminal: terminal.into(),
            drawn: Vec::new(),
        }
    }

    pub(crate) fn type_in(&mut self, keys: &[u8]) {
        self.terminal.write_all(keys).unwrap();
    }

    /// Forgets what was drawn until now.
    pub(crate) fn forget(&mut self) {
        self.drawn.clear();
    }

    /// Whether the terminal is as it was before the command.
    pub(crate) fn is_restored(&self) -> bool {
        let now = tcgetattr(&self.terminal).unwrap();
        (now.local_modes, now.input_modes) == (self.modes.local_modes, self.modes.input_modes)
    }

    pub(crate) fn read_until(&mut self, text: &str) {
        let deadline = Instant::now() + LIMIT;
        while !String::from_utf8_lossy(&self.drawn).contains(text) {
            assert!(Instant::now() < deadline, "{text:?} is not in {self}");
            assert!(self.read(), "{text:?} is not in {self}");
        }
    }

    /// Reads what there is; false when nothing came in a while, or nobody has the terminal open any more.
    fn read(&mut self) -> bool {
        let bound = Timespec::try_from(LIMIT).unwrap();
        let mut ready = [PollFd::new(&self.terminal, PollFlags::IN)];
        if poll(&mut ready, Some(&bound)).unwrap() == 0 {
            return false;
        }
        let mut buffer = [0; 4096];
        // EIO is a terminal's end of file.
        let count = self.terminal.read(&mut buffer).unwrap_or(0);
        self.drawn.extend_from_slice(&buffer[..count]);
        count > 0
    }

    /// Standard output, if it is no terminal, and all that was drawn.
    pub(crate) fn end(&mut self) -> (String, String) {
        while self.read() {}
        let mut stdout = String::new();
        if let Some(mut piped) = self.child.stdout.take() {
            piped.read_to_string(&mut stdout).unwrap();
        }
        assert!(self.child.wait().unwrap().success(), "{self}");
        (stdout, String::from_utf8(self.drawn.clone()).unwrap())
    }
}

impl std::fmt::Display for OnTerminal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.drawn))
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        // Of a test that failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
