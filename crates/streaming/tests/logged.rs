//! What whoever runs a server reads about clients that go wrong: one line each, with the client's address.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use support::{
    GUARD, OUTPUT, PIPE, Stage,
    log::{Log, only_line},
    raw::{self, Came, Raw},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_s_peer_that_breaks_the_protocol() {
    let (log, stage) = (Log::capture(), Stage::new().await);
    let mut raw = Raw::upgrade(&stage.exec(PIPE, &["cat"]), "v4.channel.k8s.io").await;
    for (stream, kind) in [(1, "error"), (3, "stdin"), (5, "stdout")] {
        raw.open(stream, &[("streamtype", kind)]).await;
    }
    stage.until_running(1).await;
    raw.bytes(&[0xff; 64]).await;
    let peer = raw.socket.local_addr().unwrap();
    raw.rest().await;
    drop(raw);
    let line = only_line(log, &stage, peer).await;
    assert!(line.contains("the peer broke the protocol"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forwarder_that_breaks_the_protocol_once_and_not_for_each_connection() {
    let (log, stage) = (Log::capture(), Stage::new().await);
    let mut raw = Raw::upgrade(&stage.ports(&[]), "portforward.k8s.io").await;
    for id in [1, 5, 9] {
        raw.open_pair(id, 80).await;
    }
    stage.until_running(3).await;
    raw.bytes(&[0xff; 64]).await;
    let peer = raw.socket.local_addr().unwrap();
    raw.rest().await;
    drop(raw);
    let line = only_line(log, &stage, peer).await;
    assert!(line.contains("the peer broke the protocol"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_refused_and_bytes_that_are_none() {
    for (request, words) in [
        (
            &b"POST /exec/00 HTTP/1.1\r\nHost: x\r\n\r\n"[..],
            "never given out",
        ),
        (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            "made no request",
        ),
    ] {
        let (log, stage) = (Log::capture(), Stage::new().await);
        let mut socket = raw::connect(stage.server.address()).await;
        socket.write_all(request).await.unwrap();
        let peer = socket.local_addr().unwrap();
        let mut answer = Vec::new();
        // Closed, or reset: the request may not have been read to its end.
        let _either = timeout(GUARD, socket.read_to_end(&mut answer))
            .await
            .unwrap();
        drop(socket);
        let line = only_line(log, &stage, peer).await;
        assert!(line.contains(words), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_done_is_not_worth_a_line() {
    let (log, stage) = (Log::capture(), Stage::new().await);
    let mut raw = Raw::upgrade(&stage.exec(OUTPUT, &["say", "a", "b"]), "v4.channel.k8s.io").await;
    for (stream, kind) in [(1, "error"), (3, "stdout"), (5, "stderr")] {
        raw.open(stream, &[("streamtype", kind)]).await;
    }
    let peer = raw.socket.local_addr().unwrap();
    while raw.next().await != Came::End {}
    drop(raw);
    timeout(GUARD, stage.server.shutdown()).await.unwrap();
    assert_eq!(log.lines_with(&format!("peer={peer}")), [""; 0]);
}
