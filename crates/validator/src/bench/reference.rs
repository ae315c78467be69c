//! What streams are compared with: pipes and TCP with no runtime in between.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    time::Instant,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    process::Command,
    task::JoinHandle,
};

use super::{BenchError, samples::Samples};

/// Bytes read or written at a time.
const CHUNK: usize = 64 * 1024;

/// A byte to a `cat` of this process's own and back, over two pipes.
pub(crate) async fn pipe_round_trip(rounds: usize) -> Result<Samples, BenchError> {
    let wrong = |source| failed("send a byte through the pipes of cat", source);
    let mut cat = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(wrong)?;
    let (Some(mut stdin), Some(mut stdout)) = (cat.stdin.take(), cat.stdout.take()) else {
        return Err(wrong(io::ErrorKind::BrokenPipe.into()));
    };
    let mut samples = Samples::default();
    for round in 0..=rounds {
        let begun = Instant::now();
        stdin.write_all(b"x").await.map_err(wrong)?;
        stdout.read_exact(&mut [0]).await.map_err(wrong)?;
        if round > 0 {
            samples.keep(begun.elapsed());
        }
    }
    drop(stdin);
    cat.wait().await.map_err(wrong)?;
    Ok(samples)
}

/// Bytes a second over one connection on the loopback, from one thread to another, as between a runtime and its client.
pub(crate) async fn tcp_copy(bytes: u64) -> Result<f64, BenchError> {
    let wrong = |source| failed("copy over TCP", source);
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(wrong)?;
    let address = listener.local_addr().map_err(wrong)?;
    let begun = Instant::now();
    let writer = std::thread::spawn(move || -> io::Result<()> {
        let mut socket = std::net::TcpStream::connect(address)?;
        let chunk = vec![0; CHUNK];
        let mut left = bytes;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            io::Write::write_all(&mut socket, &chunk[..length])?;
            left -= length as u64;
        }
        Ok(())
    });
    let (mut socket, _) = listener.accept().await.map_err(wrong)?;
    drain(&mut socket).await.map_err(wrong)?;
    let took = begun.elapsed();
    match writer.join() {
        Ok(result) => result.map_err(wrong)?,
        Err(_) => return Err(wrong(io::Error::other("the writer panicked"))),
    }
    Ok(bytes as f64 / took.as_secs_f64())
}

/// Reads to the end; how much it was.
async fn drain(reader: &mut TcpStream) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut total = 0;
    loop {
        match reader.read(&mut buffer).await? {
            0 => return Ok(total),
            count => total += count as u64,
        }
    }
}

/// A server that sends back what it is sent.
#[derive(Debug)]
pub(crate) struct Echo {
    pub(crate) port: u16,
    server: JoinHandle<()>,
}

impl Echo {
    pub(crate) async fn serve() -> Result<Self, BenchError> {
        let wrong = |source| failed("serve an echo on the loopback", source);
        let listener = listen().map_err(wrong)?;
        let port = listener.local_addr().map_err(wrong)?.port();
        let server = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(echo(socket));
            }
        });
        Ok(Self { port, server })
    }
}

/// With room for all the connections of a run before the first is accepted: one that finds none sends its SYN again, a second later.
fn listen() -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    socket.listen(4096)
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn echo(mut socket: TcpStream) {
    let (mut reader, mut writer) = socket.split();
    // Its peer's end is its own.
    let _ended = tokio::io::copy(&mut reader, &mut writer).await;
}

fn failed(operation: &str, source: io::Error) -> BenchError {
    BenchError::Io {
        operation: operation.to_owned(),
        source,
    }
}
