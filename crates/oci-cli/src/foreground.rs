//! A command that stays while its process runs: signals go to it, and a terminal is served.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions};
use rustix::termios::{OptionalActions, Termios};
use sys::Signals;

/// Those that are not about this process itself.
const PASSED_ON: [Signal; 8] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::TERM,
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
    Signal::CONT,
];

/// Signals are held from its beginning on.
#[derive(Debug)]
pub(crate) struct Foreground {
    signals: OwnedFd,
}

impl Foreground {
    pub(crate) fn begin() -> anyhow::Result<Self> {
        let mut numbers = PASSED_ON.map(Signal::as_raw).to_vec();
        numbers.push(Signal::WINCH.as_raw());
        let signals = Signals::of(&numbers);
        sys::block_signals(signals)?;
        Ok(Self {
            signals: sys::signal_descriptor(signals)?,
        })
    }

    /// Until the process has ended: a shell's status for it.
    pub(crate) fn stay(self, pidfd: &OwnedFd, console: Option<OwnedFd>) -> anyhow::Result<u8> {
        let console = match console {
            Some(master) => Some(Console::open(master)?),
            None => None,
        };
        let ended = self.serve(pidfd, console.as_ref());
        if let Some(console) = console {
            console.drain();
        }
        ended?;
        let status = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)
            .context("wait for the process")?
            .context("the process has not ended")?;
        let status = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => code,
            (None, Some(signal)) => 128 + signal,
            (None, None) => 1,
        };
        Ok(u8::try_from(status).unwrap_or(u8::MAX))
    }

    fn serve(&self, pidfd: &OwnedFd, console: Option<&Console>) -> anyhow::Result<()> {
        let stdin = std::io::stdin();
        // At the end of the input there is nothing to poll for.
        let mut input = console.is_some();
        loop {
            let mut polled = vec![
                PollFd::new(pidfd, PollFlags::IN),
                PollFd::new(&self.signals, PollFlags::IN),
            ];
            if let Some(console) = console {
                polled.push(PollFd::new(&console.master, PollFlags::IN));
                if input {
                    polled.push(PollFd::new(&stdin, PollFlags::IN));
                }
            }
            rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, None))?;
            let ready: Vec<bool> = polled.iter().map(|one| !one.revents().is_empty()).collect();
            drop(polled);
            if ready[1] {
                self.pass_on(pidfd.as_fd(), console)?;
            }
            if let Some(console) = console {
                if ready[2] {
                    console.show();
                }
                if ready.get(3) == Some(&true) {
                    input = console.take(stdin.as_fd());
                }
            }
            if ready[0] {
                return Ok(());
            }
        }
    }

    fn pass_on(&self, pidfd: BorrowedFd<'_>, console: Option<&Console>) -> anyhow::Result<()> {
        while let Some(number) = sys::receive_signal(self.signals.as_fd())? {
            match (sys::signal_from_number(number), console) {
                (Some(Signal::WINCH), Some(console)) => console.follow_size(),
                (Some(Signal::WINCH), None) | (None, _) => {}
                (Some(signal), _) => {
                    // It may have ended.
                    let _ = rustix::process::pidfd_send_signal(pidfd, signal);
                }
            }
        }
        Ok(())
    }
}

/// The caller's terminal on one side, the container's on the other.
#[derive(Debug)]
struct Console {
    master: OwnedFd,
    /// What the caller's terminal was like; `None`: it is none.
    before: Option<Termios>,
}

impl Console {
    fn open(master: OwnedFd) -> anyhow::Result<Self> {
        let stdin = std::io::stdin();
        let before = rustix::termios::tcgetattr(&stdin).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            rustix::termios::tcsetattr(&stdin, OptionalActions::Now, &raw)
                .context("make the terminal raw")?;
        }
        let console = Self { master, before };
        console.follow_size();
        Ok(console)
    }

    fn follow_size(&self) {
        if self.before.is_none() {
            return;
        }
        // A size is for the eyes; the program runs without.
        let _ = rustix::termios::tcgetwinsize(std::io::stdin())
            .and_then(|size| rustix::termios::tcsetwinsize(&self.master, size));
    }

    /// What the program has written. Whether there may be more at once.
    fn show(&self) -> bool {
        let mut buffer = [0_u8; 8192];
        match rustix::io::read(&self.master, &mut buffer) {
            Ok(0) | Err(_) => false,
            Ok(count) => write_all(std::io::stdout().as_fd(), &buffer[..count]).is_ok(),
        }
    }

    /// What the caller has typed. Whether there may be more.
    fn take(&self, stdin: BorrowedFd<'_>) -> bool {
        let mut buffer = [0_u8; 1024];
        match rustix::io::read(stdin, &mut buffer) {
            Err(Errno::AGAIN | Errno::INTR) => true,
            Ok(0) | Err(_) => {
                // The end of the input, as a terminal tells it.
                let _ = write_all(self.master.as_fd(), &[4]);
                false
            }
            Ok(count) => write_all(self.master.as_fd(), &buffer[..count]).is_ok(),
        }
    }

    /// What is left when the program has ended. The master does not block.
    fn drain(&self) {
        while self.show() {}
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // The caller may have gone.
            let _ = rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut room = [PollFd::new(&to, PollFlags::OUT)];
                rustix::io::retry_on_intr(|| rustix::event::poll(&mut room, None))?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
