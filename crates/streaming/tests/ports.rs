//! Forwarded ports, by our own client, directly and tunnelled.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::time::Duration;

use longshore_streaming::client::{self, Forwarded, Forwarder};
use support::{BOTH, GUARD, Stage, over, raw};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Sends `bytes` through a connection to `port`, and checks what comes back.
async fn exchange(forwarder: &Forwarder, port: u16, bytes: &[u8]) {
    let mut forwarded = forwarder.connect(port).unwrap();
    let (mut reader, mut writer) = tokio::io::split(&mut forwarded.stream);
    let mut back = Vec::new();
    let both = async {
        tokio::join!(
            async {
                writer.write_all(bytes).await.unwrap();
                writer.shutdown().await.unwrap();
            },
            async {
                reader.read_to_end(&mut back).await.unwrap();
            }
        )
    };
    timeout(GUARD, both).await.unwrap();
    let greeting = format!("{port}:").into_bytes();
    assert!(back.starts_with(&greeting));
    assert!(back[greeting.len()..] == *bytes, "{} bytes", back.len());
    assert_eq!(failure(&mut forwarded).await, None);
}

async fn failure(forwarded: &mut Forwarded) -> Option<String> {
    timeout(GUARD, forwarded.failure()).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_connections_to_dozens_of_ports_at_once() {
    let stage = Stage::new().await;
    for transport in BOTH {
        let forwarder = client::port_forward(&stage.ports(&[]), &over(transport)).await;
        let forwarder = forwarder.unwrap();
        let bytes: Vec<u8> = (0..20_000_u32).map(|at| (at % 253) as u8).collect();
        let all = (0..300_u16).map(|at| exchange(&forwarder, 8000 + at % 40, &bytes));
        futures_util::future::join_all(all).await;
        stage.until_running(0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connection_resets_one_stream_and_says_which_port() {
    let stage = Stage::new().await;
    for transport in BOTH {
        let forwarder = client::port_forward(&stage.ports(&[]), &over(transport)).await;
        let forwarder = forwarder.unwrap();
        for (port, words) in [
            (1, "port 1: connection refused"),
            (2, "port 2: the runtime has failed"),
        ] {
            let mut refused = forwarder.connect(port).unwrap();
            let text = failure(&mut refused).await.unwrap();
            assert!(text.contains(words), "{text}");
            let read = timeout(GUARD, refused.stream.read(&mut [0])).await.unwrap();
            assert_eq!(
                read.unwrap_err().kind(),
                std::io::ErrorKind::ConnectionReset
            );
            exchange(&forwarder, 80, b"and the others go on").await;
        }
        let refused = forwarder.connect(0).unwrap().stream.read(&mut [0]).await;
        assert!(refused.is_err());
        exchange(&forwarder, 65535, b"").await;
    }
}

/// The acceptance of all this: on one connection, one peer stalls, one has been reset, and one is half-closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stalled_one_reset_one_half_closed_and_all_others_progress() {
    let stage = Stage::new().await;
    for transport in BOTH {
        let forwarder = client::port_forward(&stage.ports(&[]), &over(transport)).await;
        let forwarder = forwarder.unwrap();

        // Nobody reads at port 3: it takes what its window allows, and no more.
        let mut stalled = forwarder.connect(3).unwrap();
        let endless = stalled.stream.write_all(&[7; 4 << 20]);
        assert!(timeout(Duration::from_millis(300), endless).await.is_err());
        // Here it is we who do not read.
        let mut unread = forwarder.connect(90).unwrap();
        let endless = unread.stream.write_all(&[7; 4 << 20]);
        assert!(timeout(Duration::from_millis(300), endless).await.is_err());

        let reset = forwarder.connect(91).unwrap();
        drop(reset);

        let mut half = forwarder.connect(92).unwrap();
        half.stream.write_all(b"half").await.unwrap();
        half.stream.shutdown().await.unwrap();

        for port in 100..120 {
            exchange(&forwarder, port, &[9; 300_000]).await;
        }
        let mut back = Vec::new();
        let reading = half.stream.read_to_end(&mut back);
        timeout(GUARD, reading).await.unwrap().unwrap();
        assert_eq!(back, b"92:half");
        drop((stalled, unread, forwarder));
        stage.until_running(0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_ends_says_so_to_each_connection() {
    for transport in BOTH {
        let stage = Stage::new().await;
        let forwarder = client::port_forward(&stage.ports(&[]), &over(transport)).await;
        let forwarder = forwarder.unwrap();
        let mut open = forwarder.connect(3).unwrap();
        stage.until_running(1).await;
        let server = stage.server.clone();
        let shutdown = tokio::spawn(async move { server.shutdown().await });
        let text = failure(&mut open).await.unwrap();
        assert!(
            text.contains("port 3") && text.contains("shutting down"),
            "{text}"
        );
        drop(open);
        timeout(GUARD, forwarder.closed()).await.unwrap();
        timeout(GUARD, shutdown).await.unwrap().unwrap();
    }
}

/// The older form over WebSocket: channels have no windows, so all of a connection wait for one that nobody reads, but not for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_channel_is_given_up_with_a_reason_and_the_others_go_on() {
    let stage = Stage::with(|config| {
        config.limits.stall = Duration::from_millis(200);
        config.limits.overrun = 256 * 1024;
    })
    .await;
    let url = stage.ports(&[3, 80]);
    let mut channels = Channels::connect(&url).await;
    stage.until_running(2).await;
    // Port 3 reads nothing. What goes to port 80 is behind what it was sent.
    for _ in 0..20 {
        channels.send(0, &[7; 60_000]).await;
    }
    channels.send(2, b"through").await;
    let (mut words, mut back) = (Vec::new(), Vec::new());
    while !(words.ends_with(b"wait for it") && back.ends_with(b"80:through")) {
        match channels.next().await {
            (1, bytes) => words.extend(bytes),
            (2, bytes) => back.extend(bytes),
            other => panic!("{other:?}"),
        }
    }
    let words = String::from_utf8_lossy(&words);
    assert!(
        words.contains("forward port 3: what was sent has not been read"),
        "{words}"
    );
    // Its session is over as well, and the connection as good as new.
    stage.until_running(1).await;
    for _ in 0..20 {
        channels.send(0, &[7; 60_000]).await;
    }
    channels.send(2, b", again").await;
    while !back.ends_with(b"80:through, again") {
        let (channel, bytes) = channels.next().await;
        assert_eq!(channel, 2);
        back.extend(bytes);
    }
    drop(channels);
    stage.until_running(0).await;
}

/// A client of the older form, by hand.
struct Channels(TcpStream);

impl Channels {
    /// Takes the two greetings of each port.
    async fn connect(url: &str) -> Self {
        let mut channels = Self(raw::websocket(url, "v4.channel.k8s.io").await);
        for (channel, port) in [(0, 3_u16), (1, 3), (2, 80), (3, 80)] {
            assert_eq!(
                channels.next().await,
                (channel, port.to_le_bytes().to_vec())
            );
        }
        channels
    }

    async fn send(&mut self, channel: u8, bytes: &[u8]) {
        let message = raw::message(&[&[channel], bytes].concat());
        let sending = self.0.write_all(&message);
        timeout(GUARD, sending).await.unwrap().unwrap();
    }

    async fn next(&mut self) -> (u8, Vec<u8>) {
        let message = raw::read_message(&mut self.0).await.unwrap();
        let (channel, bytes) = message.split_first().unwrap();
        (*channel, bytes.to_vec())
    }
}
