//! Forwarded ports, by our own client, directly and tunnelled.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use longshore_streaming::client::{self, Forwarded, Forwarder};
use support::{BOTH, GUARD, Stage, over};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
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
        assert!(
            timeout(std::time::Duration::from_millis(300), endless)
                .await
                .is_err()
        );
        // Here it is we who do not read.
        let mut unread = forwarder.connect(90).unwrap();
        let endless = unread.stream.write_all(&[7; 4 << 20]);
        assert!(
            timeout(std::time::Duration::from_millis(300), endless)
                .await
                .is_err()
        );

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
