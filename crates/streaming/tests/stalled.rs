//! The acceptance of all this: on one connection one peer stalls, one has been reset, one is half-closed, and all others progress. The client is
//! like those of the field, which know no windows.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::{collections::HashMap, time::Duration};

use longshore_streaming::spdy::frame::{Frame, status};
use support::{
    ALL, Stage,
    log::Log,
    raw::{Came, Raw},
};

/// What has come of each stream.
#[derive(Debug, Default)]
struct Seen {
    bytes: HashMap<u32, Vec<u8>>,
    ended: Vec<u32>,
    reset: Vec<(u32, u32)>,
}

impl Seen {
    /// Reads until all of these have ended.
    async fn until_ended(&mut self, raw: &mut Raw, streams: &[u32]) {
        while !streams.iter().all(|stream| self.ended.contains(stream)) {
            match raw.next().await {
                Came::Data(stream, bytes, end) => {
                    self.bytes.entry(stream).or_default().extend(bytes);
                    self.ended.extend(end.then_some(stream));
                }
                Came::Control(Frame::RstStream { stream, status }) => {
                    self.reset.push((stream, status));
                    self.ended.push(stream);
                }
                Came::Control(_) => {}
                Came::End => panic!("the connection has ended"),
            }
        }
    }

    fn of(&self, stream: u32) -> &[u8] {
        self.bytes.get(&stream).map_or(&[], |bytes| &bytes[..])
    }
}

async fn stage() -> Stage {
    Stage::with(|config| {
        config.limits.stall = Duration::from_millis(200);
        config.limits.overrun = 256 * 1024;
    })
    .await
}

/// Directly, and tunnelled.
async fn forwarders(stage: &Stage) -> [Raw; 2] {
    let url = stage.ports(&[]);
    let direct = Raw::upgrade(&url, "portforward.k8s.io").await;
    [direct, Raw::tunnel(&stage.ports(&[])).await]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forwarded_connections() {
    let (log, stage) = (Log::capture(), stage().await);
    for mut raw in forwarders(&stage).await {
        let peer = format!("peer={}", raw.socket.local_addr().unwrap());
        let (reset, half, stalled) = (1, 5, 9);
        for (id, port) in [(reset, 80), (half, 81), (stalled, 3)] {
            raw.open_pair(id, port).await;
        }
        raw.data(reset + 2, b"x", false).await;
        let (stream, status) = (reset + 2, status::CANCEL);
        raw.send(&Frame::RstStream { stream, status }).await;
        raw.data(half + 2, b"half", true).await;
        // More than any buffer holds: the rest waits behind it until the stalled one is given up.
        for _ in 0..400 {
            raw.data(stalled + 2, &[0; 60_000], false).await;
        }
        let others: Vec<u32> = (13..).step_by(4).take(20).collect();
        for id in &others {
            raw.open_pair(*id, 90).await;
            raw.data(*id + 2, &[b'y'; 30_000], true).await;
        }
        let mut seen = Seen::default();
        let first = [reset, half, half + 2, stalled, stalled + 2];
        let all: Vec<u32> = others.iter().flat_map(|id| [*id, *id + 2]).collect();
        seen.until_ended(&mut raw, &[&first[..], &all].concat())
            .await;
        assert_eq!(seen.of(half + 2), b"81:half");
        for id in &others {
            let bytes = seen.of(*id + 2);
            assert!(bytes.starts_with(b"90:yyy") && bytes.len() == 30_003);
        }
        // Words would have a client in Go close the whole connection.
        for id in [reset, half, stalled].iter().chain(&others) {
            assert_eq!(seen.of(*id), b"");
        }
        assert_eq!(seen.reset, [(stalled + 2, status::FLOW_CONTROL_ERROR)]);
        let lines = log.lines_with(&peer);
        let [line] = &lines[..] else {
            panic!("{lines:#?}")
        };
        assert!(line.contains("port=3"), "{line}");
        drop(raw);
    }
    stage.until_running(0).await;
}

/// Nobody is known to wait while there is one connection; another is announced behind what that one does not read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_behind_a_stalled_connection_is_seen() {
    let stage = stage().await;
    // More than a stream may hold that others wait for, and more than the connection may hold in all.
    for messages in [20, 400] {
        for mut raw in forwarders(&stage).await {
            raw.open_pair(1, 3).await;
            for _ in 0..messages {
                raw.data(3, &[0; 60_000], false).await;
            }
            raw.open_pair(5, 80).await;
            raw.data(7, b"through", true).await;
            let mut seen = Seen::default();
            seen.until_ended(&mut raw, &[3, 5, 7]).await;
            assert_eq!(seen.of(7), b"80:through");
            assert_eq!(seen.reset, [(3, status::FLOW_CONTROL_ERROR)]);
        }
    }
    stage.until_running(0).await;
}

/// One that is alone and of which little is unread may stall for as long as it likes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_nobody_waits_for_is_kept() {
    let stage = stage().await;
    for mut raw in forwarders(&stage).await {
        raw.open_pair(1, 3).await;
        for _ in 0..20 {
            raw.data(3, &[0; 60_000], false).await;
        }
        tokio::time::sleep(Duration::from_millis(600)).await;
        raw.send(&Frame::Ping(1)).await;
        loop {
            match raw.next().await {
                Came::Control(Frame::Ping(1)) => break,
                Came::Control(Frame::SynReply { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_command() {
    let stage = Stage::new().await;
    let url = stage.exec(ALL, &["deaf", "30000000"]);
    let mut raw = Raw::upgrade(&url, "v4.channel.k8s.io").await;
    let (error, stdin, stdout, stderr) = (1, 3, 5, 7);
    for (stream, kind) in [
        (error, "error"),
        (stdin, "stdin"),
        (stdout, "stdout"),
        (stderr, "stderr"),
    ] {
        raw.open(stream, &[("streamtype", kind)]).await;
    }
    stage.until_running(1).await;
    // Clients in Go half-close what they do not write to.
    raw.data(error, b"", true).await;
    raw.data(stderr, b"", true).await;
    let (stream, status) = (stdout, status::CANCEL);
    raw.send(&Frame::RstStream { stream, status }).await;
    // Its input is not read, while it has more to say than any buffer on the way holds.
    let mut stuffed = 0;
    let stuffing = async {
        while stuffed < 64_000_000 {
            raw.data(stdin, &[b'x'; 60_000], false).await;
            stuffed += 60_000;
        }
    };
    let stuffed_up = tokio::time::timeout(Duration::from_millis(500), stuffing);
    assert!(stuffed_up.await.is_err(), "it is read");
    let mut seen = Seen::default();
    seen.until_ended(&mut raw, &[stderr, error]).await;
    assert_eq!(seen.of(stderr).len(), 30_000_000);
    assert!(seen.of(error).ends_with(br#""status":"Success"}"#));
    drop(raw);
    stage.until_running(0).await;
}
