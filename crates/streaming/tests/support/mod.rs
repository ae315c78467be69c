//! Sessions that do what their command says, and a server for them.

#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "part of tests")]

pub(crate) mod log;
pub(crate) mod raw;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use longshore_streaming::{
    AttachRequest, Config, Duplex, Ending, ExecRequest, ExitStatus, Limits, PortForwardRequest,
    Server, SessionError, Sessions, Streams,
    client::{Options, Session, Transport, Wanted},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(crate) const BOTH: [Transport; 2] = [Transport::Spdy, Transport::WebSocket];

/// Against tests that hang; none of them takes long.
pub(crate) const GUARD: Duration = Duration::from_secs(60);

/// What the sessions of a test have seen.
#[derive(Debug, Default)]
pub(crate) struct Acts {
    pub(crate) running: AtomicUsize,
    pub(crate) vanished: AtomicUsize,
}

/// Counts itself as running for as long as it lives.
pub(crate) struct Running(Arc<Acts>);

impl Running {
    fn new(acts: &Arc<Acts>) -> Self {
        acts.running.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(acts))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Debug, Default)]
pub(crate) struct Script {
    pub(crate) acts: Arc<Acts>,
}

impl Sessions for Script {
    /// The first word of the command is an act, the others are its arguments.
    async fn exec(
        &self,
        request: ExecRequest,
        mut streams: Streams,
    ) -> Result<ExitStatus, SessionError> {
        let _running = Running::new(&self.acts);
        let words: Vec<&str> = request.command.iter().map(String::as_str).collect();
        let fail = |error| SessionError::because("do as the command says", error);
        match words[..] {
            ["cat"] => {
                let (mut stdin, mut stdout) = (
                    streams.stdin.take().unwrap(),
                    streams.stdout.take().unwrap(),
                );
                tokio::io::copy(&mut stdin, &mut stdout)
                    .await
                    .map_err(fail)?;
            }
            ["say", out, err] => {
                if let Some(stdout) = &mut streams.stdout {
                    stdout.write_all(out.as_bytes()).await.map_err(fail)?;
                }
                if let Some(stderr) = &mut streams.stderr {
                    stderr.write_all(err.as_bytes()).await.map_err(fail)?;
                }
            }
            ["flood", bytes] => {
                let mut left: usize = bytes.parse().unwrap();
                let stdout = streams.stdout.as_mut().unwrap();
                let chunk = vec![b'x'; 64 * 1024];
                while left > 0 {
                    let count = left.min(chunk.len());
                    stdout.write_all(&chunk[..count]).await.map_err(fail)?;
                    left -= count;
                }
            }
            // Reads nothing, and speaks on standard error once nobody hears its output any more.
            ["deaf", bytes] => {
                let stdout = streams.stdout.as_mut().unwrap();
                while stdout.write_all(b"anybody?").await.is_ok() {}
                let words = vec![b'y'; bytes.parse().unwrap()];
                let stderr = streams.stderr.as_mut().unwrap();
                stderr.write_all(&words).await.map_err(fail)?;
            }
            ["exit", code] => return Ok(ExitStatus(code.parse().unwrap())),
            ["fail"] => return Err(SessionError::new("no such program")),
            ["panic"] => panic!("as the command says"),
            ["sizes", count] => {
                let resizes = streams.resize.as_mut().unwrap();
                for _ in 0..count.parse().unwrap() {
                    let size = resizes.next().await.unwrap();
                    let line = format!("{}x{}\n", size.width, size.height);
                    let stdout = streams.stdout.as_mut().unwrap();
                    stdout.write_all(line.as_bytes()).await.map_err(fail)?;
                }
            }
            // A process that ignores everything, until its client is gone.
            ["sleep"] => {
                streams.gone.gone().await;
                self.acts.vanished.fetch_add(1, Ordering::SeqCst);
            }
            ["stubborn"] => std::future::pending().await,
            _ => return Err(SessionError::new(format!("unknown act {words:?}"))),
        }
        Ok(ExitStatus(0))
    }

    async fn attach(
        &self,
        _: AttachRequest,
        mut streams: Streams,
    ) -> Result<Option<ExitStatus>, SessionError> {
        let _running = Running::new(&self.acts);
        let stdout = streams.stdout.as_mut().unwrap();
        stdout.write_all(b"attached").await.unwrap();
        Ok(None)
    }

    /// Port 1 refuses, 2 panics, 3 never reads, others send back what comes, with the port before it.
    async fn port_forward(
        &self,
        _: String,
        port: u16,
        mut stream: Duplex,
    ) -> Result<(), SessionError> {
        let _running = Running::new(&self.acts);
        match port {
            1 => return Err(SessionError::new("connect to port 1: connection refused")),
            2 => panic!("as the port says"),
            3 => std::future::pending().await,
            _ => {}
        }
        let fail = |error| SessionError::because(format!("forward port {port}"), error);
        let greeting = format!("{port}:");
        stream.write_all(greeting.as_bytes()).await.map_err(fail)?;
        let mut bytes = vec![0; 16 * 1024];
        loop {
            let count = stream.read(&mut bytes).await.map_err(fail)?;
            if count == 0 {
                return stream.shutdown().await.map_err(fail);
            }
            stream.write_all(&bytes[..count]).await.map_err(fail)?;
        }
    }
}

pub(crate) struct Stage {
    pub(crate) server: Server<Script>,
    pub(crate) acts: Arc<Acts>,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// Serves on a port of the kernel's choice, on loopback.
    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            limits: Limits {
                farewell: Duration::from_secs(2),
                ..Limits::default()
            },
            ..Config::default()
        };
        change(&mut config);
        let script = Arc::new(Script::default());
        let acts = Arc::clone(&script.acts);
        let server = Server::bind(config, script).await.unwrap();
        let serving = server.clone();
        tokio::spawn(async move { serving.serve().await });
        Self { server, acts }
    }

    /// A URL for this act, with these streams.
    pub(crate) fn exec(&self, wanted: Wanted, command: &[&str]) -> String {
        let url = self.server.exec_url(ExecRequest {
            container_id: "c".to_owned(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            tty: wanted.tty,
            stdin: wanted.stdin,
            stdout: wanted.stdout,
            stderr: wanted.stderr,
        });
        url.unwrap()
    }

    pub(crate) fn ports(&self, ports: &[u16]) -> String {
        let sandbox_id = "s".to_owned();
        let ports = ports.to_vec();
        self.server
            .port_forward_url(PortForwardRequest { sandbox_id, ports })
            .unwrap()
    }

    /// Waits until so many sessions are running.
    pub(crate) async fn until_running(&self, count: usize) {
        self.until(&self.acts.running, count).await;
    }

    pub(crate) async fn until(&self, counter: &AtomicUsize, count: usize) {
        let reached = async {
            while counter.load(Ordering::SeqCst) != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(GUARD, reached).await.unwrap();
    }
}

pub(crate) fn over(transport: Transport) -> Options {
    Options {
        transport,
        ..Options::default()
    }
}

pub(crate) const OUTPUT: Wanted = Wanted {
    stdin: false,
    stdout: true,
    stderr: true,
    tty: false,
};

pub(crate) const ALL: Wanted = Wanted {
    stdin: true,
    stdout: true,
    stderr: true,
    tty: false,
};

pub(crate) const PIPE: Wanted = Wanted {
    stdin: true,
    stdout: true,
    stderr: false,
    tty: false,
};

pub(crate) const TERMINAL: Wanted = Wanted {
    stdin: true,
    stdout: true,
    stderr: false,
    tty: true,
};

/// Reads a session to its end: standard output, standard error, and how it ended.
pub(crate) async fn all(session: &mut Session) -> (Vec<u8>, Vec<u8>, Ending) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (mut stdout, mut stderr) = (session.stdout.take(), session.stderr.take());
    let everything = async {
        tokio::join!(
            async {
                if let Some(stdout) = &mut stdout {
                    stdout.read_to_end(&mut out).await.unwrap();
                }
            },
            async {
                if let Some(stderr) = &mut stderr {
                    stderr.read_to_end(&mut err).await.unwrap();
                }
            },
            session.ending()
        )
    };
    let ((), (), ending) = tokio::time::timeout(GUARD, everything).await.unwrap();
    (out, err, ending.unwrap())
}
