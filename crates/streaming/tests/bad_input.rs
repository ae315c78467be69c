//! Whatever a client gets wrong: it hears a clear error, and whoever runs the server reads one line about it, with the client's address.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::{net::SocketAddr, time::Duration};

use longshore_streaming::{
    Config,
    client::Wanted,
    spdy::frame::{Frame, goodbye, status},
};
use support::{
    GUARD, OUTPUT, PIPE, Stage, TERMINAL,
    log::{Log, only_line},
    raw::{self, Came, Raw, goodbye_with, message},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Sends a request and reads all that the server answers until it closes.
async fn ask(stage: &Stage, request: &str) -> (SocketAddr, String) {
    let mut socket = raw::connect(stage.server.address()).await;
    socket.write_all(request.as_bytes()).await.unwrap();
    let peer = socket.local_addr().unwrap();
    let mut answer = Vec::new();
    timeout(GUARD, socket.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    (peer, String::from_utf8(answer).unwrap())
}

fn path(url: &str) -> &str {
    let rest = url.strip_prefix("http://").unwrap();
    &rest[rest.find('/').unwrap()..]
}

const SPDY: &str = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n";
const WEBSOCKET: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests() {
    let spdy = |protocol: &str| format!("{SPDY}X-Stream-Protocol-Version: {protocol}\r\n");
    let websocket = |version: &str, more: &str| {
        format!("{WEBSOCKET}Sec-WebSocket-Version: {version}\r\n{more}")
    };
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    // Method, whether the path is that of a good URL, headers, status, words that are answered and logged.
    let cases: [(&str, Option<&str>, String, &str, &str); 11] = [
        (
            "GET",
            Some("/"),
            spdy("v4.channel.k8s.io"),
            "404",
            "ask the runtime for a URL",
        ),
        (
            "GET",
            Some("/exec"),
            spdy("v4.channel.k8s.io"),
            "404",
            "ask the runtime for a URL",
        ),
        (
            "POST",
            Some("/exec/00"),
            spdy("v4.channel.k8s.io"),
            "404",
            "never given out",
        ),
        (
            "POST",
            Some("/exec/0123456789abcdef0123456789abcdef"),
            spdy("v4.channel.k8s.io"),
            "404",
            "never given out",
        ),
        (
            "GET",
            None,
            String::new(),
            "400",
            "an upgrade to SPDY/3.1 or WebSocket",
        ),
        (
            "GET",
            None,
            "Connection: Upgrade\r\nUpgrade: h2c\r\n".to_owned(),
            "400",
            "Upgrade: h2c",
        ),
        (
            "POST",
            None,
            "Upgrade: SPDY/3.1\r\n".to_owned(),
            "400",
            "an upgrade to SPDY/3.1 or WebSocket",
        ),
        (
            "POST",
            None,
            spdy("v9.channel.k8s.io"),
            "403",
            "no protocol in common",
        ),
        (
            "GET",
            None,
            websocket(
                "13",
                &format!("{key}Sec-WebSocket-Protocol: v9.channel.k8s.io\r\n"),
            ),
            "400",
            "no protocol in common",
        ),
        ("GET", None, websocket("8", key), "426", "version 13"),
        ("GET", None, websocket("13", ""), "400", "without its key"),
    ];
    for (method, other, headers, status, words) in cases {
        let (log, stage) = (Log::capture(), Stage::new().await);
        let url = stage.exec(OUTPUT, &["say", "a", "b"]);
        let path = other.unwrap_or_else(|| path(&url));
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        let (peer, answer) = ask(&stage, &request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request}{answer}"
        );
        assert!(answer.contains(words), "{request}{answer}");
        let line = only_line(log, &stage, peer).await;
        assert!(line.contains(words) && line.contains(status), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn urls_that_were_good() {
    let request = |url: &str| {
        format!(
            "POST {} HTTP/1.1\r\nHost: x\r\n{SPDY}X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n",
            path(url)
        )
    };
    // Used.
    let (log, stage) = (Log::capture(), Stage::new().await);
    let url = stage.exec(OUTPUT, &["say", "a", "b"]);
    drop(Raw::upgrade(&url, "v4.channel.k8s.io").await);
    let (peer, answer) = ask(&stage, &request(&url)).await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert!(answer.contains("used already"), "{answer}");
    assert!(only_line(log, &stage, peer).await.contains("used already"));
    // Expired.
    let at_once = |config: &mut Config| config.limits.token_lifetime = Duration::from_nanos(1);
    let stage = Stage::with(at_once).await;
    let url = stage.exec(OUTPUT, &["say", "a", "b"]);
    // Spent tokens are remembered for some lifetimes: here none is, unless the clock is coarse.
    let (peer, answer) = ask(&stage, &request(&url)).await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert!(answer.contains("expired"), "{answer}");
    assert!(only_line(log, &stage, peer).await.contains("expired"));
    // Given out for something else.
    let stage = Stage::new().await;
    let url = stage
        .exec(OUTPUT, &["say", "a", "b"])
        .replace("/exec/", "/attach/");
    let (peer, answer) = ask(&stage, &request(&url)).await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert!(answer.contains("this URL is for exec"), "{answer}");
    assert!(only_line(log, &stage, peer).await.contains("is for exec"));
}

type Headers<'a> = &'a [(&'a str, &'a str)];

async fn until(raw: &mut Raw, wanted: &Came) {
    loop {
        match raw.next().await {
            came if came == *wanted => return,
            Came::End => panic!("the connection has ended before {wanted:?}"),
            _ => {}
        }
    }
}

/// What comes in answer to bytes over SPDY, until the server closes.
async fn spdy_frames(stage: &Stage, ports: bool, bytes: &[u8]) -> (SocketAddr, Vec<Came>) {
    let (url, protocol) = match ports {
        true => (stage.ports(&[]), "portforward.k8s.io"),
        false => (stage.exec(PIPE, &["sleep"]), "v4.channel.k8s.io"),
    };
    let mut raw = Raw::upgrade(&url, protocol).await;
    raw.bytes(bytes).await;
    let peer = raw.socket.local_addr().unwrap();
    (peer, raw.rest().await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_of_spdy() {
    let cases: [(&[u8], &str); 6] = [
        (&[0xff; 64], "the peer broke the protocol"),
        (&[0x80, 2, 0, 1, 0, 0, 0, 0], "SPDY version 2"),
        (&[0; 16], "stream 0"),
        (
            &[
                0x80, 3, 0, 1, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2,
            ],
            "compressed as agreed",
        ),
        (
            &[
                0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff,
            ],
            "more than a window can be",
        ),
        (&[0x80, 3, 0, 3, 0, 0, 0, 2, 0, 0], "too short"),
    ];
    for (bytes, words) in cases {
        for ports in [false, true] {
            let (log, stage) = (Log::capture(), Stage::new().await);
            let (peer, came) = spdy_frames(&stage, ports, bytes).await;
            assert!(
                goodbye_with(&came, goodbye::PROTOCOL_ERROR),
                "{words}: {came:?}"
            );
            let line = only_line(log, &stage, peer).await;
            assert!(line.contains(words), "{line}");
        }
    }
}

/// Streams that are refused one by one, while their connection goes on. However many they are, they are worth one line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_spdy() {
    let port = |port| [("streamtype", "data"), ("port", port), ("requestid", "1")];
    let (zero, high, below, none) = (port("0"), port("65536"), port("-1"), port("http"));
    let sizes = [("streamtype", "resize")];
    let unknown = [("streamtype", "stdwhat")];
    let cases: [(bool, Headers<'_>, &str); 6] = [
        (true, &zero, "its port is none from 1 to 65535"),
        (true, &high, "its port is none from 1 to 65535"),
        (true, &below, "its port is none from 1 to 65535"),
        (true, &none, "its port is none from 1 to 65535"),
        // Of a session without a terminal.
        (false, &sizes, "resize"),
        (false, &unknown, "stdwhat"),
    ];
    for (ports, headers, words) in cases {
        let (log, stage) = (Log::capture(), Stage::new().await);
        let (url, protocol) = match ports {
            true => (stage.ports(&[]), "portforward.k8s.io"),
            false => (stage.exec(PIPE, &["sleep"]), "v4.channel.k8s.io"),
        };
        let mut raw = Raw::upgrade(&url, protocol).await;
        for stream in [1, 3, 5] {
            raw.open(stream, headers).await;
            let status = status::REFUSED_STREAM;
            let refused = Came::Control(Frame::RstStream { stream, status });
            assert_eq!(raw.next().await, refused);
        }
        raw.send(&Frame::Ping(7)).await;
        assert_eq!(raw.next().await, Came::Control(Frame::Ping(7)));
        let peer = raw.socket.local_addr().unwrap();
        drop(raw);
        let line = only_line(log, &stage, peer).await;
        assert!(line.contains(words), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_streams_than_there_may_be() {
    let few = |config: &mut Config| config.limits.streams = 4;
    let (log, stage) = (Log::capture(), Stage::with(few).await);
    let mut raw = Raw::upgrade(&stage.ports(&[]), "portforward.k8s.io").await;
    for id in [1, 5] {
        raw.open_pair(id, 80).await;
    }
    stage.until_running(2).await;
    for stream in [9, 11, 13] {
        raw.open(stream, &[("streamtype", "error"), ("port", "80")])
            .await;
        let status = status::REFUSED_STREAM;
        let refused = Came::Control(Frame::RstStream { stream, status });
        until(&mut raw, &refused).await;
    }
    // Those that are there go on.
    raw.data(3, b"still", true).await;
    loop {
        match raw.next().await {
            Came::Data(3, bytes, _) if bytes.ends_with(b"still") => break,
            Came::End => panic!("the connection has ended"),
            _ => {}
        }
    }
    let peer = raw.socket.local_addr().unwrap();
    drop(raw);
    let line = only_line(log, &stage, peer).await;
    assert!(line.contains("too many streams"), "{line}");
}

/// A frame of WebSocket, as it is.
async fn websocket_frame(
    stage: &Stage,
    wanted: Wanted,
    protocol: &str,
    frame: &[u8],
) -> (SocketAddr, u16, String) {
    let socket = raw::websocket(&stage.exec(wanted, &["sleep"]), protocol).await;
    closed_after(socket, frame).await
}

async fn closed_after(mut socket: TcpStream, frame: &[u8]) -> (SocketAddr, u16, String) {
    socket.write_all(frame).await.unwrap();
    let peer = socket.local_addr().unwrap();
    let mut all = Vec::new();
    // Closed, or reset: not all may have been read.
    let _either = timeout(GUARD, socket.read_to_end(&mut all)).await.unwrap();
    // The greeting, and then the close.
    let close = all.windows(2).position(|two| two[0] == 0x88).unwrap();
    let body = &all[close + 2..];
    let code = u16::from_be_bytes([body[0], body[1]]);
    (peer, code, String::from_utf8_lossy(&body[2..]).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_websocket() {
    const V4: &str = "v4.channel.k8s.io";
    const V5: &str = "v5.channel.k8s.io";
    const TEXT: &str = "v4.base64.channel.k8s.io";
    let cases: [(&str, Vec<u8>, u16, &str); 9] = [
        (V4, message(b""), 1008, "without a channel"),
        (V4, message(b"\x09x"), 1008, "channel 9"),
        (V4, message(b"\xff\x00"), 1008, "channel 255"),
        (V5, message(b"\xff"), 1008, "a close of no channel"),
        (V5, message(b"\xff\x63"), 1008, "channel 99"),
        (TEXT, message(b"0?!"), 1008, "base64"),
        // Not masked, of a kind that there is not, and larger than anybody may send.
        (V4, vec![0x82, 1, 0], 1002, "unmasked"),
        (V4, vec![0x8b, 0x80, 0, 0, 0, 0], 1002, "invalid opcode"),
        (
            V4,
            vec![0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
            1009,
            "too long",
        ),
    ];
    // For a client that does not close in its turn.
    let briefly = |config: &mut Config| config.limits.farewell = Duration::from_millis(100);
    for (protocol, frame, wanted, words) in cases {
        let (log, stage) = (Log::capture(), Stage::with(briefly).await);
        let (peer, code, reason) = websocket_frame(&stage, PIPE, protocol, &frame).await;
        assert_eq!(code, wanted, "{words}: {reason}");
        assert!(reason.to_lowercase().contains(words), "{words}: {reason}");
        let line = only_line(log, &stage, peer).await;
        assert!(line.to_lowercase().contains(words), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_tunnel() {
    let text = vec![0x81, 0x81, 0, 0, 0, 0, b'x'];
    let cases: [(Vec<u8>, u16, &str); 2] = [
        (text, 1003, "a text message"),
        (vec![0x82, 1, 0], 1002, "unmasked"),
    ];
    for (frame, wanted, words) in cases {
        let (log, stage) = (Log::capture(), Stage::new().await);
        let protocol = "SPDY/3.1+portforward.k8s.io";
        let socket = raw::websocket(&stage.ports(&[]), protocol).await;
        let (peer, code, reason) = closed_after(socket, &frame).await;
        assert_eq!(code, wanted, "{words}: {reason}");
        let line = only_line(log, &stage, peer).await;
        assert!(line.to_lowercase().contains(words), "{line}");
    }
}

/// A client's close, masked with zeroes: 1000.
const CLOSE: &[u8] = &[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8];

/// Sizes that are none, over SPDY: their stream is reset, and the session goes on without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sizes_on_a_stream() {
    let (log, stage) = (Log::capture(), Stage::new().await);
    let mut raw = Raw::upgrade(&stage.exec(TERMINAL, &["cat"]), "v4.channel.k8s.io").await;
    for (stream, kind) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "resize")] {
        raw.open(stream, &[("streamtype", kind)]).await;
    }
    raw.data(7, b"large", false).await;
    let (stream, status) = (7, status::PROTOCOL_ERROR);
    let reset = Came::Control(Frame::RstStream { stream, status });
    until(&mut raw, &reset).await;
    raw.data(3, b"goes on", false).await;
    until(&mut raw, &Came::Data(5, b"goes on".to_vec(), false)).await;
    let peer = raw.socket.local_addr().unwrap();
    drop(raw);
    let line = only_line(log, &stage, peer).await;
    assert!(line.contains("terminal sizes are none"), "{line}");
}

/// The same on a channel, which cannot be reset by itself: the connection is closed with a reason.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sizes_that_are_none() {
    let briefly = |config: &mut Config| config.limits.farewell = Duration::from_millis(100);
    for sizes in [&b"large"[..], br#"{"Width":-1,"Height":24}"#] {
        let sizes = [b"\x04", sizes].concat();
        let (log, stage) = (Log::capture(), Stage::with(briefly).await);
        let (peer, code, reason) =
            websocket_frame(&stage, TERMINAL, "v4.channel.k8s.io", &message(&sizes)).await;
        assert_eq!(code, 1008, "{reason}");
        assert!(reason.contains("channel 4 makes no sense"), "{reason}");
        let line = only_line(log, &stage, peer).await;
        assert!(line.contains("terminal sizes are none"), "{line}");
    }
}

/// Sizes of nothing, and sizes for no terminal, which clients of the field send: the session goes on without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sizes_of_nothing() {
    for (wanted, sizes, words) in [
        (
            TERMINAL,
            &br#"{"Width":0,"Height":0}"#[..],
            "size of nothing",
        ),
        (PIPE, br#"{"Width":80,"Height":24}"#, "no terminal"),
    ] {
        let (log, stage) = (Log::capture(), Stage::new().await);
        let mut socket = raw::websocket(&stage.exec(wanted, &["cat"]), "v4.channel.k8s.io").await;
        let peer = socket.local_addr().unwrap();
        for _ in 0..3 {
            let sizes = [b"\x04", sizes].concat();
            socket.write_all(&message(&sizes)).await.unwrap();
        }
        socket.write_all(&message(b"\x00goes on")).await.unwrap();
        while raw::read_message(&mut socket).await.unwrap() != b"\x01goes on" {}
        // A client that is done says so.
        socket.write_all(CLOSE).await.unwrap();
        while raw::read_message(&mut socket).await.is_some() {}
        drop(socket);
        let line = only_line(log, &stage, peer).await;
        assert!(line.contains(words), "{line}");
    }
}
