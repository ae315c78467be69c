//! What a pull shows on a terminal, and elsewhere.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::Bench;
use crate::fake::Extras;

const LIMIT: Duration = Duration::from_secs(30);

const PULLED: &str = "Image is up to date for slow@sha256:1234\n";

#[test]
fn on_a_terminal_each_layer_has_a_bar() {
    let bench = Bench::with(Extras::Progress);
    let mut pull = OnTerminal::start(&bench);
    pull.read_until("  ffff456789ab  fetching  ████████████░░░░░░░░░░░░  5MB of 10MB");
    bench.fake.finish_pull();
    let (stdout, drawn) = pull.end();
    assert_eq!(stdout, PULLED);
    // Two rows were drawn; both are cleared, and the cursor is where it began.
    assert!(drawn.ends_with("\x1b[1A\r\x1b[J"), "{drawn:?}");
    let mut calls = bench.fake.calls();
    calls.sort();
    assert_eq!(calls, ["pull slow \"\"", "watch the pull of slow"]);
}

#[test]
fn a_runtime_without_progress_gets_a_line_that_moves() {
    let bench = Bench::start();
    let mut pull = OnTerminal::start(&bench);
    pull.read_until("⠋ Pulling slow");
    pull.read_until("⠸ Pulling slow");
    bench.fake.finish_pull();
    let (stdout, drawn) = pull.end();
    assert_eq!(stdout, PULLED);
    assert!(drawn.ends_with("\r\x1b[J"), "{drawn:?}");
    assert!(!drawn.contains('░'), "{drawn:?}");
    assert_eq!(bench.fake.calls(), ["pull slow \"\""]);
}

#[test]
fn elsewhere_nothing_is_drawn_or_watched() {
    let bench = Bench::with(Extras::Progress);
    assert_eq!(
        bench.output(&["pull", "busybox"]),
        "Image is up to date for busybox@sha256:1234\n"
    );
    assert_eq!(bench.fake.calls(), ["pull busybox \"\""]);
}

/// `longshore pull slow` with a terminal as its stderr.
struct OnTerminal {
    child: Child,
    terminal: File,
    drawn: Vec<u8>,
}

impl OnTerminal {
    fn start(bench: &Bench) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let size = Winsize {
            ws_row: 24,
            ws_col: 100,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&terminal, size).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let inner: OwnedFd = rustix::fs::open(name, flags, Mode::empty()).unwrap();
        let mut command = bench.command(&["pull", "slow"]);
        command.stdout(Stdio::piped()).stderr(inner);
        Self {
            child: command.spawn().unwrap(),
            terminal: terminal.into(),
            drawn: Vec::new(),
        }
    }

    fn read_until(&mut self, text: &str) {
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

    /// Standard output, and all that was drawn.
    fn end(mut self) -> (String, String) {
        while self.read() {}
        let mut stdout = String::new();
        let mut piped = self.child.stdout.take().unwrap();
        piped.read_to_string(&mut stdout).unwrap();
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
