//! What the protocols cost, in one process over loopback: `cargo run --release --example stream -p longshore-streaming`.
//!
//! Round trip of one byte, bulk out and in beside a plain TCP copy in the same run, and memory of an idle session at the server.

#![allow(clippy::print_stdout, reason = "a command talks to people")]

use std::{error::Error, sync::Arc, time::Instant};

use longshore_streaming::{
    AttachRequest, Config, Duplex, ExecRequest, ExitStatus, Server, SessionError, Sessions,
    Streams,
    client::{self, Options, Transport, Wanted},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

const BULK: u64 = 1 << 30;
const CHUNK: usize = 64 * 1024;
const TRIPS: usize = 20_000;
const IDLE: usize = 200;

const PIPE: Wanted = Wanted {
    stdin: true,
    stdout: true,
    stderr: false,
    tty: false,
};

struct Acts;

impl Sessions for Acts {
    async fn exec(
        &self,
        request: ExecRequest,
        streams: Streams,
    ) -> Result<ExitStatus, SessionError> {
        let (Some(mut stdin), Some(mut stdout)) = (streams.stdin, streams.stdout) else {
            return Err(SessionError::new("an act has an input and an output"));
        };
        let fail = |error| SessionError::because("act", error);
        match request.command.first().map(String::as_str) {
            Some("echo") => {
                let mut bytes = [0; 256];
                loop {
                    let count = stdin.read(&mut bytes).await.map_err(fail)?;
                    if count == 0 {
                        break;
                    }
                    stdout.write_all(&bytes[..count]).await.map_err(fail)?;
                }
            }
            Some("source") => pour(&mut stdout).await.map_err(fail)?,
            _ => drain(&mut stdin).await.map_err(fail).map(drop)?,
        }
        Ok(ExitStatus(0))
    }

    async fn attach(
        &self,
        _: AttachRequest,
        _: Streams,
    ) -> Result<Option<ExitStatus>, SessionError> {
        Err(SessionError::new("nothing to attach to"))
    }

    async fn port_forward(&self, _: String, _: u16, _: Duplex) -> Result<(), SessionError> {
        Err(SessionError::new("no ports"))
    }
}

async fn pour(target: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
    let chunk = vec![b'x'; CHUNK];
    for _ in 0..BULK / chunk.len() as u64 {
        target.write_all(&chunk).await?;
    }
    target.shutdown().await
}

async fn drain(source: &mut (impl AsyncRead + Unpin)) -> std::io::Result<u64> {
    let (mut chunk, mut all) = (vec![0; CHUNK], 0);
    loop {
        match source.read(&mut chunk).await? {
            0 => return Ok(all),
            count => all += count as u64,
        }
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Outcome<()> {
    let server = Server::bind(Config::default(), Arc::new(Acts)).await?;
    let serving = server.clone();
    tokio::spawn(async move { serving.serve().await });
    let plain = plain().await?;
    println!("plain TCP copy          {plain:>8.0} MiB/s");
    println!(
        "plain TCP round trip    {:>8.1} us (median)",
        plain_trip().await?
    );
    for transport in [Transport::Spdy, Transport::WebSocket] {
        let open = |act: &str| {
            server.exec_url(ExecRequest {
                command: vec![act.to_owned()],
                stdin: true,
                stdout: true,
                ..ExecRequest::default()
            })
        };
        let options = Options {
            transport,
            ..Options::default()
        };
        println!("{transport:?}");
        for act in ["source", "sink"] {
            let url = open(act)?;
            let mut session = client::command(&url, &options, PIPE).await?;
            let start = Instant::now();
            if act == "source" {
                let mut stdout = session.stdout.take().ok_or("no output")?;
                assert_eq!(drain(&mut stdout).await?, BULK);
            } else {
                pour(session.stdin.as_mut().ok_or("no input")?).await?;
                session.ending().await?;
            }
            let rate = (BULK >> 20) as f64 / start.elapsed().as_secs_f64();
            println!(
                "  {act:<20}  {rate:>8.0} MiB/s, {:.0} % of plain",
                rate / plain * 100.0
            );
        }
        let mut session = client::command(&open("echo")?, &options, PIPE).await?;
        let mut stdin = session.stdin.take().ok_or("no input")?;
        let mut stdout = session.stdout.take().ok_or("no output")?;
        println!(
            "  round trip            {:>8.1} us (median)",
            trips(&mut stdin, &mut stdout).await?
        );
        let mut idle = Vec::new();
        idle.push(client::command(&open("echo")?, &options, PIPE).await?);
        let before = resident()?;
        for _ in 0..IDLE {
            let mut session = client::command(&open("echo")?, &options, PIPE).await?;
            let (Some(stdin), Some(stdout)) = (&mut session.stdin, &mut session.stdout) else {
                return Err("no streams".into());
            };
            stdin.write_all(&[1]).await?;
            stdout.read_u8().await?;
            idle.push(session);
        }
        let each = (resident()? - before) / IDLE as u64;
        println!(
            "  idle session          {:>8.1} KiB resident, server and client together",
            each as f64 / 1024.0
        );
    }
    Ok(())
}

async fn plain() -> Outcome<f64> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut client = TcpStream::connect(listener.local_addr()?).await?;
    let (mut server, _) = listener.accept().await?;
    let start = Instant::now();
    let pouring = tokio::spawn(async move { pour(&mut server).await });
    drain(&mut client).await?;
    pouring.await??;
    Ok((BULK >> 20) as f64 / start.elapsed().as_secs_f64())
}

async fn plain_trip() -> Outcome<f64> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut client = TcpStream::connect(listener.local_addr()?).await?;
    let (mut server, _) = listener.accept().await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    tokio::spawn(async move {
        while let Ok(byte) = server.read_u8().await {
            if server.write_u8(byte).await.is_err() {
                break;
            }
        }
    });
    let (mut reader, mut writer) = client.split();
    trips(&mut writer, &mut reader).await
}

/// The median, in microseconds.
async fn trips(
    there: &mut (impl AsyncWrite + Unpin),
    back: &mut (impl AsyncRead + Unpin),
) -> Outcome<f64> {
    let mut all = Vec::with_capacity(TRIPS);
    for _ in 0..TRIPS {
        let start = Instant::now();
        there.write_all(&[7]).await?;
        back.read_u8().await?;
        all.push(start.elapsed());
    }
    all.sort_unstable();
    Ok(all[TRIPS / 2].as_secs_f64() * 1e6)
}

/// Bytes that this process has in memory.
fn resident() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line
        .ok_or("no VmRSS")?
        .trim()
        .trim_end_matches(" kB")
        .parse()?;
    Ok(kib * 1024)
}
