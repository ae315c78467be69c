//! `top`: what pods and containers use, as it changes.

mod rows;
mod screen;

use std::io::{self, Stdin, Write};
use std::pin::pin;
use std::process::ExitStatus;
use std::time::Duration;

use clap::Args;
use futures_util::{Stream, StreamExt, stream};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::Command;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::rows::{By, HEADER, Row, Sample, sort};
use self::screen::{ENTER, Key, LEAVE, picture};
use crate::error::Error;
use crate::output::Output;
use crate::output::table::Table;
use crate::session::Session;
use crate::streams::terminal::{self, RawTerminal};

const KEYS: &str = "q quit  ↑↓ select  c cpu  m memory  n name  p pods  l logs  e exec  s stop";

/// Between the stop signal and the kill, for `s`: as Kubernetes has it.
const GRACE_SECONDS: i64 = 30;

/// Show what pods and containers use, as it changes
///
/// On a terminal until q is typed; other keys choose the order, and show the log of the selected container, run a shell in it, or stop it.
/// Elsewhere a table is printed.
#[derive(Debug, Args)]
pub(crate) struct Top {
    /// A row for each pod, not for each container
    #[arg(long, short)]
    pods: bool,
    /// What comes first
    #[arg(long, short, value_enum, default_value = "cpu")]
    sort: By,
    /// Time between two samples
    #[arg(long, short = 'd', value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Samples to show; elsewhere than on a terminal one, unless this says otherwise
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    iterations: Option<u64>,
}

/// The two samples that are shown, and what of them.
struct View {
    before: Sample,
    now: Sample,
    pods: bool,
    by: By,
    rows: Vec<Row>,
    /// Stays with what it names when rows change their places.
    selected: Option<String>,
    /// Whom `y` stops.
    doomed: Option<Row>,
    /// What to say in place of the keys.
    said: Option<String>,
}

impl Top {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let interval = Duration::from_secs(self.seconds);
        let view = View {
            before: Sample::default(),
            now: Sample::take(session).await?,
            pods: self.pods,
            by: self.sort,
            rows: Vec::new(),
            selected: None,
            doomed: None,
            said: None,
        };
        let samples = stream::unfold((), async |()| {
            tokio::time::sleep(interval).await;
            Some((Sample::take(session).await, ()))
        });
        let samples = samples.take(match self.iterations {
            Some(count) => usize::try_from(count).unwrap_or(usize::MAX),
            None if out.is_terminal() => usize::MAX,
            None => 1,
        });
        if !out.is_terminal() {
            return view.print(pin!(samples), out).await;
        }
        let mut seat = Seat::take(session, out)?;
        let result = view.watch(&mut seat, pin!(samples)).await;
        seat.leave()?;
        result
    }
}

/// The terminal, which is ours until a command gets it, or all is over.
struct Seat<'a> {
    session: &'a Session,
    out: &'a mut Output,
    /// None where stdin is no terminal: nobody types.
    raw: Option<RawTerminal>,
    interrupted: Signal,
}

impl<'a> Seat<'a> {
    fn take(session: &'a Session, out: &'a mut Output) -> Result<Self, Error> {
        // Before the terminal is raw: it may not end us while it is.
        let interrupted = wait_for(SignalKind::interrupt())?;
        let mut seat = Self {
            session,
            out,
            raw: None,
            interrupted,
        };
        seat.enter()?;
        Ok(seat)
    }

    fn enter(&mut self) -> Result<(), Error> {
        self.raw = RawTerminal::enter().map_err(failed("make the terminal raw"))?;
        self.out.write_all(ENTER.as_bytes())?;
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Error> {
        self.raw = None;
        self.out.write_all(LEAVE.as_bytes())?;
        self.out.flush()?;
        Ok(())
    }

    /// Gives the terminal to another command of ours until that has ended. Ctrl-C is meant for that one.
    async fn lend(&mut self, arguments: &[&str]) -> Result<io::Result<ExitStatus>, Error> {
        let program = std::env::current_exe().map_err(failed("find this program"))?;
        let endpoint = self.session.settings().runtime_endpoint.to_string();
        self.leave()?;
        let child = Command::new(program)
            .args(["--runtime-endpoint", &endpoint])
            .args(arguments)
            .kill_on_drop(true)
            .spawn();
        let ended = match child {
            Ok(mut child) => loop {
                tokio::select! {
                    biased;
                    _ = self.interrupted.recv() => {}
                    status = child.wait() => break status,
                }
            },
            Err(error) => Err(error),
        };
        self.enter()?;
        Ok(ended)
    }
}

impl View {
    async fn print(
        mut self,
        mut samples: impl Stream<Item = Result<Sample, Error>> + Unpin,
        out: &mut Output,
    ) -> Result<(), Error> {
        while let Some(sample) = samples.next().await {
            self.take(sample?);
            let mut table = Table::with_header(&HEADER);
            for row in &self.rows {
                table.row(row.cells());
            }
            table.write(out)?;
            out.flush()?;
        }
        Ok(())
    }

    /// Until there are no more samples, or somebody wants to leave.
    async fn watch(
        mut self,
        seat: &mut Seat<'_>,
        mut samples: impl Stream<Item = Result<Sample, Error>> + Unpin,
    ) -> Result<(), Error> {
        let mut resized = wait_for(SignalKind::window_change())?;
        let mut ended = wait_for(SignalKind::terminate())?;
        let mut hung_up = wait_for(SignalKind::hangup())?;
        let typed = match seat.raw {
            Some(_) => Some(keyboard().map_err(failed("wait for keys"))?),
            None => None,
        };
        // The first picture needs no second sample.
        self.arrange();
        loop {
            self.draw(seat.out)?;
            tokio::select! {
                sample = samples.next() => match sample {
                    Some(Ok(sample)) => {
                        self.said = None;
                        self.take(sample);
                    }
                    // The next one may come: the runtime may be restarting.
                    Some(Err(error)) => self.said = Some(error.to_string()),
                    None => return Ok(()),
                },
                keys = read(typed.as_ref()) => {
                    let keys = keys.map_err(failed("read keys"))?;
                    // The terminal is gone.
                    if keys.is_empty() {
                        return Ok(());
                    }
                    for key in screen::keys(&keys) {
                        if !self.press(seat, key).await? {
                            return Ok(());
                        }
                    }
                }
                _ = resized.recv() => {}
                _ = seat.interrupted.recv() => return Ok(()),
                _ = ended.recv() => return Ok(()),
                _ = hung_up.recv() => return Ok(()),
            }
        }
    }

    fn take(&mut self, sample: Sample) {
        self.before = std::mem::replace(&mut self.now, sample);
        self.arrange();
    }

    fn arrange(&mut self) {
        self.rows = match self.pods {
            true => self.now.pods(&self.before),
            false => self.now.containers(&self.before),
        };
        sort(&mut self.rows, self.by);
    }

    fn selected(&self) -> usize {
        let is_it = |row: &Row| Some(&row.id) == self.selected.as_ref();
        self.rows.iter().position(is_it).unwrap_or(0)
    }

    fn draw(&self, out: &mut Output) -> Result<(), Error> {
        let (width, height) = terminal::size().map_or((80, 24), |size| {
            (usize::from(size.width), usize::from(size.height))
        });
        let what = if self.pods { "pods" } else { "containers" };
        let title = format!("{what} running: {}", self.rows.len());
        let foot = match (&self.doomed, &self.said) {
            (Some(row), _) => format!("stop {}? y stops it, any other key does not", row.name()),
            (None, Some(said)) => said.clone(),
            (None, None) => KEYS.to_owned(),
        };
        let picture = picture(&title, &self.rows, self.selected(), &foot, width, height);
        out.write_all(picture.as_bytes())?;
        out.flush()?;
        Ok(())
    }

    /// Whether to go on.
    async fn press(&mut self, seat: &mut Seat<'_>, key: Key) -> Result<bool, Error> {
        if let Some(row) = self.doomed.take() {
            if key == Key::Letter(b'y') {
                self.stop(seat, &row).await?;
            }
            return Ok(true);
        }
        self.said = None;
        let at = self.selected();
        match key {
            // Ctrl-C is a key here.
            Key::Letter(b'q' | 3) => return Ok(false),
            Key::Up | Key::Letter(b'k') => self.select(at.saturating_sub(1)),
            Key::Down | Key::Letter(b'j') => self.select(at + 1),
            Key::Letter(b'c') => self.by = By::Cpu,
            Key::Letter(b'm') => self.by = By::Memory,
            Key::Letter(b'n') => self.by = By::Name,
            Key::Letter(b'p') => self.pods = !self.pods,
            Key::Letter(b's') => self.doomed = self.rows.get(at).cloned(),
            Key::Letter(b'l') => self.logs(seat, at).await?,
            Key::Letter(b'e') => self.exec(seat, at).await?,
            Key::Letter(_) => {}
        }
        self.arrange();
        Ok(true)
    }

    fn select(&mut self, row: usize) {
        let row = row.min(self.rows.len().saturating_sub(1));
        self.selected = self.rows.get(row).map(|row| row.id.clone());
    }

    async fn stop(&mut self, seat: &mut Seat<'_>, row: &Row) -> Result<(), Error> {
        self.said = Some(format!("stopping {} …", row.name()));
        self.draw(seat.out)?;
        let stopped = match row.container.is_empty() {
            true => seat.session.stop_pod(&row.id).await,
            false => seat.session.stop_container(&row.id, GRACE_SECONDS).await,
        };
        self.said = Some(match stopped {
            Ok(()) => format!("{} has stopped", row.name()),
            Err(error) => error.to_string(),
        });
        Ok(())
    }

    async fn logs(&mut self, seat: &mut Seat<'_>, row: usize) -> Result<(), Error> {
        let Some(row) = self.rows.get(row) else {
            return Ok(());
        };
        let mut arguments = vec!["logs", "--follow", "--tail", "100"];
        if row.container.is_empty() {
            arguments.push("--pod");
        }
        arguments.push(&row.id);
        let ended = seat.lend(&arguments).await?;
        self.said = complaint(ended, &format!("logs of {}", row.name()));
        Ok(())
    }

    async fn exec(&mut self, seat: &mut Seat<'_>, row: usize) -> Result<(), Error> {
        let Some(row) = self.rows.get(row) else {
            return Ok(());
        };
        if row.container.is_empty() {
            self.said = Some("a shell is in a container: p shows them".to_owned());
            return Ok(());
        }
        let ended = seat.lend(&["exec", "-it", &row.id, "sh"]).await?;
        self.said = complaint(ended, &format!("sh in {}", row.name()));
        Ok(())
    }
}

/// Of a command that was left by a signal, as logs are, nobody need be told.
fn complaint(ended: io::Result<ExitStatus>, what: &str) -> Option<String> {
    match ended {
        Ok(status) if status.success() || status.code().is_none() => None,
        Ok(status) => Some(format!("{what}: {status}")),
        Err(error) => Some(format!("{what}: {error}")),
    }
}

fn wait_for(kind: SignalKind) -> Result<Signal, Error> {
    signal(kind).map_err(failed("wait for signals"))
}

#[expect(
    deprecated,
    reason = "sound for this process's stdin, and unsafe code lives in one crate"
)]
fn keyboard() -> io::Result<AsyncFd<Stdin>> {
    AsyncFd::with_interest(io::stdin(), Interest::READABLE)
}

/// What is typed next, or never anything where nobody types. Nothing once the terminal is gone.
async fn read(stdin: Option<&AsyncFd<Stdin>>) -> io::Result<Vec<u8>> {
    let Some(stdin) = stdin else {
        return std::future::pending().await;
    };
    let mut ready = stdin.readable().await?;
    ready.clear_ready();
    let mut buffer = [0; 256];
    match rustix::io::read(stdin, &mut buffer) {
        Ok(count) => Ok(buffer[..count].to_vec()),
        // What a terminal says whose other end is closed.
        Err(Errno::IO) => Ok(Vec::new()),
        Err(errno) => Err(errno.into()),
    }
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Io {
        what: what.to_owned(),
        source,
    }
}
