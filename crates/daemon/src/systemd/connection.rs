use std::{io, os::fd::OwnedFd};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::message::{self, FIXED, Incoming, Malformed, Method, Writer};

/// Of the greeting: `OK` and 32 digits.
const LONGEST_LINE: usize = 256;

/// The only call of a connection.
const SERIAL: u32 = 1;

/// A connection for one call. Its futures may be dropped at any point, and the connection with them.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error("read from or write to its socket")]
    Socket(#[source] io::Error),
    #[error("it does not take us for root: {0:?}")]
    Denied(String),
    #[error("read its message")]
    Malformed(#[source] Malformed),
}

impl Connection {
    /// Says who we are (SASL EXTERNAL: the kernel has told already).
    pub(super) async fn open(socket: OwnedFd) -> Result<Self, ConnectionError> {
        let stream = std::os::unix::net::UnixStream::from(socket);
        let stream = UnixStream::from_std(stream).map_err(ConnectionError::Socket)?;
        let mut connection = Self { stream };
        let uid = rustix::process::geteuid().as_raw().to_string();
        let uid: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
        connection
            .send(format!("\0AUTH EXTERNAL {uid}\r\nBEGIN\r\n").as_bytes())
            .await?;
        let answer = connection.line().await?;
        match answer.starts_with("OK ") {
            true => Ok(connection),
            false => Err(ConnectionError::Denied(answer)),
        }
    }

    pub(super) async fn call(
        &mut self,
        method: Method,
        signature: &str,
        body: Writer,
    ) -> Result<(), ConnectionError> {
        let call = message::call(SERIAL, method, "", signature, body);
        self.send(&call).await
    }

    /// The next message.
    pub(super) async fn receive(&mut self) -> Result<Incoming, ConnectionError> {
        let mut fixed = [0; FIXED];
        self.read(&mut fixed).await?;
        let length = message::length(&fixed).map_err(ConnectionError::Malformed)?;
        let mut bytes = vec![0; length];
        bytes[..FIXED].copy_from_slice(&fixed);
        self.read(&mut bytes[FIXED..]).await?;
        message::parse(&bytes).map_err(ConnectionError::Malformed)
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), ConnectionError> {
        let sent = self.stream.write_all(bytes).await;
        sent.map_err(ConnectionError::Socket)
    }

    async fn read(&mut self, bytes: &mut [u8]) -> Result<(), ConnectionError> {
        let read = self.stream.read_exact(bytes).await;
        read.map(drop).map_err(ConnectionError::Socket)
    }

    /// Byte by byte: what follows the line is a message.
    async fn line(&mut self) -> Result<String, ConnectionError> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") && line.len() < LONGEST_LINE {
            let mut byte = [0];
            self.read(&mut byte).await?;
            line.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }
}
