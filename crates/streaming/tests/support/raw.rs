//! A client by hand: raw sockets, raw frames.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU16, Ordering},
};

use longshore_streaming::spdy::frame::{Decoder, Encoder, Event, Frame, data_head};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};

use super::GUARD;

const LIMIT: usize = 64 * 1024;

/// Connects from an address of the loopback that no other connection of this process has: a line of the log that names it is about this one.
pub(crate) async fn connect(to: SocketAddr) -> TcpStream {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 1, high, low], 0).into()).unwrap();
    timeout(GUARD, socket.connect(to)).await.unwrap().unwrap()
}

/// Asks for an upgrade, and takes the head of the answer.
pub(crate) async fn upgrade(url: &str, method: &str, headers: &[(&str, &str)]) -> TcpStream {
    let (host, path) = url
        .strip_prefix("http://")
        .unwrap()
        .split_once('/')
        .unwrap();
    let mut socket = connect(host.parse().unwrap()).await;
    let mut request =
        format!("{method} /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
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
    socket
}

/// The same, to WebSocket.
pub(crate) async fn websocket(url: &str, protocol: &str) -> TcpStream {
    let headers = [
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Protocol", protocol),
    ];
    upgrade(url, "GET", &headers).await
}

/// A client's binary message (RFC 6455, 5.2), masked with zeroes.
pub(crate) fn message(bytes: &[u8]) -> Vec<u8> {
    let mut message = vec![0x82, 0xff];
    message.extend((bytes.len() as u64).to_be_bytes());
    message.extend([0; 4]);
    message.extend(bytes);
    message
}

/// The server's next binary message; `None` at the end.
pub(crate) async fn read_message(socket: &mut TcpStream) -> Option<Vec<u8>> {
    let reading = async {
        let kind = socket.read_u8().await.ok()?;
        let length = match socket.read_u8().await.ok()? {
            126 => u64::from(socket.read_u16().await.ok()?),
            127 => socket.read_u64().await.ok()?,
            length => u64::from(length),
        };
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        socket.read_exact(&mut bytes).await.ok()?;
        (kind == 0x82).then_some(bytes)
    };
    timeout(GUARD, reading).await.unwrap()
}

/// A client of SPDY that sends what it is told, and like those in Go knows no windows.
pub(crate) struct Raw {
    pub(crate) socket: TcpStream,
    pub(crate) encoder: Encoder,
    /// In messages of WebSocket.
    tunnelled: bool,
    decoder: Decoder,
    unread: Vec<u8>,
    /// How often the peer has granted more to one of the streams.
    pub(crate) grants: usize,
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
        let headers = [
            ("Upgrade", "SPDY/3.1"),
            ("X-Stream-Protocol-Version", protocol),
        ];
        Self::new(upgrade(url, "POST", &headers).await, false)
    }

    /// As current kubectl forwards ports.
    pub(crate) async fn tunnel(url: &str) -> Self {
        Self::new(websocket(url, "SPDY/3.1+portforward.k8s.io").await, true)
    }

    fn new(socket: TcpStream, tunnelled: bool) -> Self {
        Self {
            socket,
            encoder: Encoder::default(),
            tunnelled,
            decoder: Decoder::new(LIMIT),
            unread: Vec::new(),
            grants: 0,
        }
    }

    /// The other end: a server of exec and attach, once it is connected to.
    pub(crate) async fn accept(listener: &TcpListener, protocol: &str) -> Self {
        let (mut socket, _) = timeout(GUARD, listener.accept()).await.unwrap().unwrap();
        // As servers in Go have it.
        socket.set_nodelay(true).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(GUARD, socket.read_u8()).await.unwrap().unwrap());
        }
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocol}\r\n\r\n"
        );
        socket.write_all(answer.as_bytes()).await.unwrap();
        Self::new(socket, false)
    }

    pub(crate) async fn send(&mut self, frame: &Frame) {
        let mut bytes = Vec::new();
        self.encoder.control(frame, &mut bytes);
        self.bytes(&bytes).await;
    }

    pub(crate) async fn bytes(&mut self, bytes: &[u8]) {
        let sent = match self.tunnelled {
            true => self.socket.write_all(&message(bytes)).await,
            false => self.socket.write_all(bytes).await,
        };
        // The server may have had enough already.
        drop(sent);
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

    /// The two streams of a connection to `port`, of which `id` is the first.
    pub(crate) async fn open_pair(&mut self, id: u32, port: u16) {
        let (port, request) = (port.to_string(), id.to_string());
        for (stream, kind) in [(id, "error"), (id + 2, "data")] {
            let headers = [
                ("streamtype", kind),
                ("port", &port),
                ("requestid", &request),
            ];
            self.open(stream, &headers).await;
        }
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
                Some(Came::Control(Frame::WindowUpdate { stream, .. })) => {
                    self.grants += usize::from(stream > 0);
                }
                Some(Came::Control(Frame::Settings { .. })) => {}
                Some(came) => return came,
                None if self.tunnelled => match read_message(&mut self.socket).await {
                    Some(bytes) => self.unread.extend(bytes),
                    None => return Came::End,
                },
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
