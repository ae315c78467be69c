//! A client by hand: raw sockets, raw frames.

use longshore_streaming::spdy::frame::{Decoder, Encoder, Event, Frame, data_head};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::GUARD;

const LIMIT: usize = 64 * 1024;

/// A client of SPDY that sends what it is told.
pub(crate) struct Raw {
    pub(crate) socket: TcpStream,
    pub(crate) encoder: Encoder,
    decoder: Decoder,
    unread: Vec<u8>,
}

/// What came, without what every server says at first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Came {
    Control(Frame),
    Data(u32, Vec<u8>, bool),
    End,
}

impl Raw {
    pub(crate) async fn upgrade(url: &str, protocol: &str) -> Self {
        let (host, path) = url
            .strip_prefix("http://")
            .unwrap()
            .split_once('/')
            .unwrap();
        let mut socket = TcpStream::connect(host).await.unwrap();
        let request = format!(
            "POST /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocol}\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(GUARD, socket.read_u8()).await.unwrap().unwrap());
        }
        assert!(
            head.starts_with(b"HTTP/1.1 101"),
            "{}",
            String::from_utf8_lossy(&head)
        );
        Self {
            socket,
            encoder: Encoder::default(),
            decoder: Decoder::new(LIMIT),
            unread: Vec::new(),
        }
    }

    pub(crate) async fn send(&mut self, frame: &Frame) {
        let mut bytes = Vec::new();
        self.encoder.control(frame, &mut bytes);
        self.bytes(&bytes).await;
    }

    pub(crate) async fn bytes(&mut self, bytes: &[u8]) {
        // The server may have had enough already.
        drop(self.socket.write_all(bytes).await);
    }

    pub(crate) async fn data(&mut self, stream: u32, bytes: &[u8], end: bool) {
        let head = data_head(stream, bytes.len(), end);
        self.bytes(&head).await;
        self.bytes(bytes).await;
    }

    pub(crate) async fn open(&mut self, stream: u32, headers: &[(&str, &str)]) {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let headers = headers.iter().map(own).collect();
        let end = false;
        self.send(&Frame::SynStream {
            stream,
            end,
            headers,
        })
        .await;
    }

    pub(crate) async fn next(&mut self) -> Came {
        loop {
            let mut rest = &self.unread[..];
            let came = match self.decoder.decode(&mut rest).unwrap() {
                Some(Event::Control(frame)) => Some(Came::Control(frame)),
                Some(Event::Data { stream, bytes, end }) => {
                    Some(Came::Data(stream, bytes.to_vec(), end))
                }
                None => None,
            };
            let used = self.unread.len() - rest.len();
            self.unread.drain(..used);
            match came {
                Some(Came::Control(Frame::Settings { .. } | Frame::WindowUpdate { .. })) => {}
                Some(came) => return came,
                None => {
                    let read = self.socket.read_buf(&mut self.unread);
                    match timeout(GUARD, read).await.unwrap() {
                        Ok(1..) => {}
                        Ok(0) | Err(_) => return Came::End,
                    }
                }
            }
        }
    }

    /// Everything up to the end of the connection.
    pub(crate) async fn rest(&mut self) -> Vec<Came> {
        let mut all = Vec::new();
        loop {
            match self.next().await {
                Came::End => return all,
                came => all.push(came),
            }
        }
    }
}

pub(crate) fn goodbye_with(all: &[Came], wanted: u32) -> bool {
    let says = |came: &Came| matches!(came, Came::Control(Frame::GoAway { status, .. }) if *status == wanted);
    all.iter().any(says)
}
