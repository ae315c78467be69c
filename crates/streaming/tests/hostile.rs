//! Clients that do not play by the rules, by hand: raw sockets, raw frames.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::time::Duration;

use longshore_streaming::{
    client::{self, Transport},
    spdy::frame::{Encoder, Frame, goodbye, status},
};
use support::{
    GUARD, OUTPUT, PIPE, Stage, all, over,
    raw::{Came, Raw, goodbye_with},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Whoever else comes is served as ever.
async fn still_answers(stage: &Stage) {
    let url = stage.exec(OUTPUT, &["say", "still here", ""]);
    let options = over(Transport::Spdy);
    let session = client::command(&url, &options, OUTPUT);
    let mut session = timeout(GUARD, session).await.unwrap().unwrap();
    assert_eq!(all(&mut session).await.0, b"still here");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_frames_end_the_connection_with_a_reason() {
    let stage = Stage::new().await;
    // A bomb: a block that inflates to more than anybody has use for, in stored parts of a zlib stream.
    let mut bomb = vec![0x80, 3, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let huge = vec![("streamtype".to_owned(), "x".repeat(40_000))];
    let mut block = Vec::new();
    Encoder::default().control(
        &Frame::Headers {
            stream: 1,
            end: false,
            headers: huge,
        },
        &mut block,
    );
    bomb.extend_from_slice(&block[12..]);
    let length = u32::try_from(bomb.len() - 8).unwrap().to_be_bytes();
    bomb[5..8].copy_from_slice(&length[1..]);
    for broken in [
        &[0x80, 2, 0, 1, 0, 0, 0, 0][..],
        &[0; 16],
        &[0xff; 64],
        &[
            0x80, 3, 0, 1, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2,
        ],
        &[
            0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff,
        ],
        &bomb,
    ] {
        for (url, protocol) in [
            (stage.exec(OUTPUT, &["sleep"]), "v4.channel.k8s.io"),
            (stage.ports(&[]), "portforward.k8s.io"),
        ] {
            let mut raw = Raw::upgrade(&url, protocol).await;
            raw.bytes(broken).await;
            let came = raw.rest().await;
            assert!(
                goodbye_with(&came, goodbye::PROTOCOL_ERROR),
                "{broken:02x?}: {came:?}"
            );
        }
    }
    still_answers(&stage).await;
    stage.until_running(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_out_of_order_end_the_connection() {
    let stage = Stage::new().await;
    for second in [1, 2, 3] {
        let mut raw = Raw::upgrade(&stage.ports(&[]), "portforward.k8s.io").await;
        let headers = [("streamtype", "error"), ("port", "80"), ("requestid", "0")];
        raw.open(3, &headers).await;
        raw.open(second, &headers).await;
        assert!(
            goodbye_with(&raw.rest().await, goodbye::PROTOCOL_ERROR),
            "{second}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_make_no_sense_are_refused_one_by_one() {
    let stage = Stage::new().await;
    let mut raw = Raw::upgrade(&stage.ports(&[]), "portforward.k8s.io").await;
    let bad: [&[(&str, &str)]; 6] = [
        &[],
        &[("streamtype", "stdin"), ("port", "80"), ("requestid", "1")],
        &[("streamtype", "data"), ("requestid", "2")],
        &[("streamtype", "data"), ("port", "0"), ("requestid", "3")],
        &[
            ("streamtype", "data"),
            ("port", "65536"),
            ("requestid", "4"),
        ],
        &[("streamtype", "data"), ("port", "-1"), ("requestid", "5")],
    ];
    for (stream, headers) in (1..).step_by(2).zip(bad) {
        raw.open(stream, headers).await;
        let refused = Frame::RstStream {
            stream,
            status: status::REFUSED_STREAM,
        };
        assert_eq!(raw.next().await, Came::Control(refused));
    }
    // Data for streams that nobody has opened.
    raw.data(99, b"?", false).await;
    let invalid = Frame::RstStream {
        stream: 99,
        status: status::INVALID_STREAM,
    };
    assert_eq!(raw.next().await, Came::Control(invalid));
    // The connection is as good as new. A pair without request ids is known by its order.
    raw.open(101, &[("streamtype", "error"), ("port", "80")])
        .await;
    raw.open(103, &[("streamtype", "data"), ("port", "80")])
        .await;
    raw.data(103, b"", true).await;
    let mut greeting = Vec::new();
    while !greeting.ends_with(b"80:") {
        if let Came::Data(103, bytes, _) = raw.next().await {
            greeting.extend(bytes);
        }
    }
    // And a ping comes back.
    raw.send(&Frame::Ping(7)).await;
    while raw.next().await != Came::Control(Frame::Ping(7)) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overflowing_window_resets_its_stream_alone() {
    let stage = Stage::new().await;
    let mut raw = Raw::upgrade(&stage.ports(&[]), "portforward.k8s.io").await;
    let initial_window = Some(1 << 20);
    raw.send(&Frame::Settings { initial_window }).await;
    for (stream, kind) in [(1, "error"), (3, "data")] {
        raw.open(
            stream,
            &[("streamtype", kind), ("port", "3"), ("requestid", "0")],
        )
        .await;
    }
    for _ in 0..6 {
        raw.data(3, &[0; 60_000], false).await;
    }
    let reset = Came::Control(Frame::RstStream {
        stream: 3,
        status: status::FLOW_CONTROL_ERROR,
    });
    while raw.next().await != reset {}
    raw.send(&Frame::Ping(1)).await;
    while raw.next().await != Came::Control(Frame::Ping(1)) {}
}

/// What a client behind a crowd of others may wait for, before it counts as kept out.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_half_open_connections_keep_nobody_out() {
    let stage = Stage::new().await;
    let host = stage.server.address();
    let mut silent = Vec::new();
    for at in 0..1000 {
        let mut socket = TcpStream::connect(host).await.unwrap();
        if at % 3 == 0 {
            socket.write_all(b"POST /exec/").await.unwrap();
        }
        silent.push(socket);
    }
    let answers = timeout(ANSWERED_WITHIN, still_answers(&stage));
    answers.await.expect("it answers behind silent ones");
    // So do those that upgrade and open no streams.
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(Raw::upgrade(&stage.exec(PIPE, &["cat"]), "v4.channel.k8s.io").await);
    }
    let answers = timeout(ANSWERED_WITHIN, still_answers(&stage));
    answers.await.expect("it answers behind idle ones");
    drop((silent, idle));
    stage.until_running(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_too_slow_to_begin_is_let_go() {
    let stage = Stage::with(|config| config.limits.creation = Duration::from_millis(200)).await;
    let mut silent = TcpStream::connect(stage.server.address()).await.unwrap();
    let closed = timeout(GUARD, silent.read(&mut [0])).await.unwrap();
    assert_eq!(closed.unwrap_or(0), 0);
    let mut raw = Raw::upgrade(&stage.exec(PIPE, &["cat"]), "v4.channel.k8s.io").await;
    raw.open(1, &[("streamtype", "error")]).await;
    assert!(goodbye_with(&raw.rest().await, goodbye::OK));
    // One half of a forwarded connection.
    let mut raw = Raw::upgrade(&stage.ports(&[]), "portforward.k8s.io").await;
    raw.open(
        1,
        &[("streamtype", "data"), ("port", "80"), ("requestid", "0")],
    )
    .await;
    let reset = Came::Control(Frame::RstStream {
        stream: 1,
        status: status::CANCEL,
    });
    while raw.next().await != reset {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_are_closed() {
    let stage = Stage::with(|config| config.limits.idle = Duration::from_millis(200)).await;
    for transport in support::BOTH {
        let url = stage.exec(OUTPUT, &["sleep"]);
        let _idle = client::command(&url, &over(transport), OUTPUT)
            .await
            .unwrap();
        stage.until_running(1).await;
        stage.until_running(0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_pings_that_nobody_takes_the_answers_of_is_not_hoarded() {
    let stage = Stage::new().await;
    let mut raw = Raw::upgrade(&stage.ports(&[]), "portforward.k8s.io").await;
    let mut pings = Vec::new();
    for _ in 0..1000 {
        raw.encoder.control(&Frame::Ping(1), &mut pings);
    }
    // Until the server reads no more: it has stopped because we do not read either.
    let flooding = async {
        loop {
            raw.socket.write_all(&pings).await.unwrap();
        }
    };
    assert!(
        timeout(Duration::from_millis(1500), flooding)
            .await
            .is_err()
    );
    still_answers(&stage).await;
}

/// A client of a command that reads nothing, and is sent more than any buffer holds. The client's end lies behind it, in a kernel that cannot send it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_vanishes_behind_input_that_nobody_reads_ends_its_session() {
    let stage = Stage::with(|config| config.limits.vanished = Duration::from_secs(1)).await;
    for gone in 1..=3 {
        let mut raw = Raw::upgrade(&stage.exec(PIPE, &["sleep"]), "v4.channel.k8s.io").await;
        for (stream, kind) in [(1, "error"), (3, "stdin"), (5, "stdout")] {
            raw.open(stream, &[("streamtype", kind)]).await;
        }
        stage.until_running(1).await;
        let stuffing = async {
            loop {
                raw.data(3, &[b'x'; 60_000], false).await;
            }
        };
        assert!(
            timeout(Duration::from_millis(500), stuffing).await.is_err(),
            "it is read"
        );
        // Still there, and so is the session; and one that half-closes or resets itself.
        stage.until_running(1).await;
        match gone {
            1 => drop(raw),
            2 => {
                raw.socket.set_zero_linger().unwrap();
                drop(raw);
            }
            _ => {
                raw.socket.shutdown().await.unwrap();
                drop(raw);
            }
        }
        stage.until(&stage.acts.vanished, gone).await;
        stage.until_running(0).await;
    }
}

/// A client that is only stopped answers by its kernel: it is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_neither_end_a_client_that_is_there_nor_keep_one_that_idles() {
    let stage = Stage::with(|config| {
        config.limits.vanished = Duration::from_secs(1);
        config.limits.idle = Duration::from_secs(3);
    })
    .await;
    let mut raw = Raw::upgrade(&stage.exec(PIPE, &["sleep"]), "v4.channel.k8s.io").await;
    for (stream, kind) in [(1, "error"), (3, "stdin"), (5, "stdout")] {
        raw.open(stream, &[("streamtype", kind)]).await;
    }
    let stuffing = async {
        loop {
            raw.data(3, &[b'x'; 60_000], false).await;
        }
    };
    assert!(timeout(Duration::from_millis(500), stuffing).await.is_err());
    // It is asked, and asked again.
    for wanted in [2, 4] {
        loop {
            match raw.next().await {
                Came::Control(Frame::Ping(id)) => {
                    assert_eq!(id, wanted);
                    break;
                }
                Came::End => panic!("the connection has ended"),
                _ => {}
            }
        }
    }
    stage.until_running(1).await;
    // Nothing has been carried all the time.
    stage.until_running(0).await;
}
