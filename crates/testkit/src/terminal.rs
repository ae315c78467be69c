//! Somebody at a terminal: a pseudo-terminal with a program of a sandbox on it, and a test at its keyboard and screen.

use std::{
    fmt::Debug,
    os::fd::{AsFd, OwnedFd},
    process::{Child, Command, ExitStatus},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use rustix::{
    event::{PollFd, PollFlags},
    fs::Timespec,
    pty::OpenptFlags,
    termios::{Termios, Winsize},
};

use crate::sandbox::poll;

/// Against programs that hang.
const GUARD: Duration = Duration::from_secs(60);

/// A terminal, and the program that it belongs to. Dropping it hangs up, and kills the program if that does not end it.
#[derive(Debug)]
pub struct Terminal {
    /// `None` once it has been hung up.
    master: Option<OwnedFd>,
    /// The program's side, kept so that the terminal can still be asked when the program has gone.
    own: Option<OwnedFd>,
    before: String,
    child: Child,
    /// What has been shown, and not been looked for yet.
    shown: Vec<u8>,
}

impl Terminal {
    /// Starts the command as the leader of a session that the terminal controls. Its first words must be those that
    /// [`Sandbox::command`](crate::sandbox::Sandbox::command) gives for `setsid`: see [`LEADER`].
    ///
    /// # Errors
    /// There is no pseudo-terminal to be had, or the command cannot be run.
    pub fn start(mut command: Command, rows: u16, columns: u16) -> anyhow::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).context("open a pseudo-terminal")?;
        rustix::pty::grantpt(&master)?;
        rustix::pty::unlockpt(&master)?;
        let own = rustix::pty::ioctl_tiocgptpeer(&master, flags).context("open its other side")?;
        rustix::io::ioctl_fionbio(&master, true)?;
        rustix::termios::tcsetwinsize(&master, window(rows, columns))?;
        let before = modes(&own)?;
        let child = command
            .stdin(own.try_clone()?)
            .stdout(own.try_clone()?)
            .stderr(own.try_clone()?)
            .spawn()
            .context("run a command on a terminal")?;
        Ok(Self {
            master: Some(master),
            own: Some(own),
            before,
            child,
            shown: Vec::new(),
        })
    }

    fn master(&self) -> anyhow::Result<&OwnedFd> {
        self.master.as_ref().context("the terminal has hung up")
    }

    /// Presses keys, as fast as they are taken.
    ///
    /// # Errors
    /// The terminal has hung up, or its program takes no more.
    pub fn types(&self, mut keys: &[u8]) -> anyhow::Result<()> {
        let end = Instant::now() + GUARD;
        while !keys.is_empty() {
            match rustix::io::write(self.master()?, keys) {
                Ok(count) => keys = &keys[count..],
                Err(rustix::io::Errno::AGAIN) => std::thread::sleep(Duration::from_millis(5)),
                Err(error) => return Err(error).context("type"),
            }
            ensure!(Instant::now() < end, "the program takes no more keys");
        }
        Ok(())
    }

    /// Looks at the screen until it has shown `words`, and returns what it has shown up to their end since the last time.
    ///
    /// # Errors
    /// They do not come in time.
    pub fn shows(&mut self, words: &str) -> anyhow::Result<String> {
        let end = Instant::now() + GUARD;
        loop {
            let found = find(&self.shown, words.as_bytes());
            if let Some(at) = found {
                let shown = self.shown.drain(..at + words.len()).collect::<Vec<_>>();
                return Ok(String::from_utf8_lossy(&shown).into_owned());
            }
            let so_far = String::from_utf8_lossy(&self.shown).into_owned();
            ensure!(
                Instant::now() < end,
                "{words:?} is not shown, but {so_far:?}"
            );
            self.look()
                .with_context(|| format!("look for {words:?} behind {so_far:?}"))?;
        }
    }

    /// Waits a moment for something to be shown.
    fn look(&mut self) -> anyhow::Result<()> {
        let master = self.master()?;
        let mut asked = [PollFd::new(master, PollFlags::IN)];
        let moment = Timespec {
            tv_sec: 0,
            tv_nsec: 50_000_000,
        };
        if rustix::event::poll(&mut asked, Some(&moment))? == 0 {
            return Ok(());
        }
        let mut bytes = [0; 4096];
        match rustix::io::read(master, &mut bytes) {
            Ok(count) => self.shown.extend_from_slice(&bytes[..count]),
            Err(rustix::io::Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Gives the terminal another size; the kernel tells the program (SIGWINCH).
    ///
    /// # Errors
    /// The terminal has hung up.
    pub fn resize(&self, rows: u16, columns: u16) -> anyhow::Result<()> {
        rustix::termios::tcsetwinsize(self.master()?, window(rows, columns))?;
        Ok(())
    }

    /// Waits until keys go to the program as they are typed.
    ///
    /// # Errors
    /// They do not.
    pub fn until_raw(&self) -> anyhow::Result<()> {
        let own = self.own.as_ref().context("the terminal has hung up")?;
        let raw = poll(GUARD, || {
            let modes = rustix::termios::tcgetattr(own).ok()?;
            let cooked = rustix::termios::LocalModes::ICANON | rustix::termios::LocalModes::ISIG;
            (!modes.local_modes.intersects(cooked)).then_some(())
        });
        raw.context("the terminal does not become raw")
    }

    /// Whether the terminal is in the modes that it was in before the program came.
    ///
    /// # Errors
    /// The terminal has hung up.
    pub fn is_as_before(&self) -> anyhow::Result<bool> {
        let own = self.own.as_ref().context("the terminal has hung up")?;
        Ok(modes(own)? == self.before)
    }

    /// Waits for the program's end.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn ends(&mut self) -> anyhow::Result<ExitStatus> {
        let end = Instant::now() + GUARD;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if self.master.is_some() {
                // A terminal that nobody reads holds its program.
                let _hung_up = self.look();
            } else {
                std::thread::sleep(Duration::from_millis(20));
            }
            if Instant::now() > end {
                bail!(
                    "the program does not end; shown: {:?}",
                    String::from_utf8_lossy(&self.shown)
                );
            }
        }
    }

    /// As [`Terminal::ends`], without looking at the screen meanwhile.
    ///
    /// # Errors
    /// As [`Terminal::ends`].
    pub fn ends_unseen(&mut self) -> anyhow::Result<ExitStatus> {
        let ended = poll(GUARD, || self.child.try_wait().transpose());
        Ok(ended.context("the program does not end")??)
    }

    /// All that has been shown and not been looked for.
    ///
    /// # Errors
    /// The terminal has hung up.
    pub fn rest(&mut self) -> anyhow::Result<String> {
        loop {
            let before = self.shown.len();
            self.look()?;
            if self.shown.len() == before {
                let shown = std::mem::take(&mut self.shown);
                return Ok(String::from_utf8_lossy(&shown).into_owned());
            }
        }
    }

    /// Closes the window: the program's terminal is gone (SIGHUP).
    pub fn hang_up(&mut self) {
        self.own = None;
        self.master = None;
    }
}

/// What makes a command the leader of a session with a controlling terminal, by which the kernel knows whom to tell of a new size
/// (util-linux): the terminal is its standard input.
pub const LEADER: [&str; 2] = ["setsid", "--ctty"];

fn window(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// In words, which can be compared.
fn modes(terminal: impl AsFd) -> anyhow::Result<String> {
    let Termios {
        input_modes,
        output_modes,
        control_modes,
        local_modes,
        ref special_codes,
        ..
    } = rustix::termios::tcgetattr(terminal)?;
    let all: [&dyn Debug; 5] = [
        &input_modes,
        &output_modes,
        &control_modes,
        &local_modes,
        special_codes,
    ];
    Ok(format!("{all:?}"))
}

fn find(text: &[u8], words: &[u8]) -> Option<usize> {
    text.windows(words.len()).position(|window| window == words)
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.hang_up();
        if let Ok(None) = self.child.try_wait() {
            let _gone = self.child.kill();
        }
        let _reaped = self.child.wait();
    }
}
