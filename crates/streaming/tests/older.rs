//! The protocols that today's clients no longer choose first: SPDY's before v4, and WebSocket's with a server that has v4 only.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::{collections::BTreeMap, net::SocketAddr};

use futures_util::FutureExt;
use longshore_streaming::{
    Ending, ExitStatus, TerminalSize,
    client::{self, Transport, Wanted},
    spdy::frame::Frame,
};
use support::{
    GUARD, OUTPUT, Stage, TERMINAL, all, over,
    raw::{Came, Raw},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::timeout,
};

const SPDY: [&str; 3] = ["channel.k8s.io", "v2.channel.k8s.io", "v3.channel.k8s.io"];

/// What came on each of the streams 1, 3 and 5 until the server said goodbye.
async fn collect(raw: &mut Raw) -> [Vec<u8>; 3] {
    let mut streams = [const { Vec::new() }; 3];
    for came in raw.rest().await {
        if let Came::Data(stream @ (1 | 3 | 5), bytes, _) = came {
            streams[stream as usize / 2].extend(bytes);
        }
    }
    streams
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_v4_the_status_is_words_and_success_says_nothing() {
    let stage = Stage::new().await;
    for protocol in SPDY {
        for (command, said) in [
            (&["say", "out", "err"][..], ["", "out", "err"]),
            (
                &["exit", "3"],
                ["command terminated with non-zero exit code: 3", "", ""],
            ),
            (&["fail"], ["no such program", "", ""]),
        ] {
            let mut raw = Raw::upgrade(&stage.exec(OUTPUT, command), protocol).await;
            for (stream, kind) in [(1, "error"), (3, "stdout"), (5, "stderr")] {
                raw.open(stream, &[("streamtype", kind)]).await;
            }
            let came = collect(&mut raw).await;
            let came = came.map(|bytes| String::from_utf8(bytes).unwrap());
            assert_eq!(came, said, "{protocol}: {command:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_v3_a_terminal_has_no_stream_of_sizes() {
    let stage = Stage::new().await;
    for protocol in SPDY {
        let mut raw = Raw::upgrade(&stage.exec(TERMINAL, &["cat"]), protocol).await;
        let mut streams = vec![(1, "error"), (3, "stdin"), (5, "stdout")];
        if protocol.starts_with("v3") {
            streams.push((7, "resize"));
        }
        for (stream, kind) in streams {
            raw.open(stream, &[("streamtype", kind)]).await;
        }
        // It begins, and does not wait for a stream that will never be there.
        raw.data(3, b"typed", true).await;
        let [error, _, stdout] = collect(&mut raw).await;
        assert_eq!((&*error, &*stdout), (&b""[..], &b"typed"[..]), "{protocol}");
    }
}

/// Between client and server, and takes v5 out of what the client offers: what answers is a server that has v4 and nothing newer.
async fn without_v5(listener: TcpListener, server: SocketAddr) {
    let (mut client, _) = listener.accept().await.unwrap();
    let mut server = TcpStream::connect(server).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let v4 = head.replace("v5.channel.k8s.io, v4.channel.k8s.io", "v4.channel.k8s.io");
    assert_ne!(head, v4);
    server.write_all(v4.as_bytes()).await.unwrap();
    // Until either has had enough.
    let _end = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}

/// The same URL, by way of a server without v5.
async fn aged(stage: &Stage, url: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = listener.local_addr().unwrap().to_string();
    let server = stage.server.address();
    tokio::spawn(without_v5(listener, server));
    url.replace(&server.to_string(), &here)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_makes_do_with_a_server_of_v4() {
    let (stage, options) = (Stage::new().await, over(Transport::WebSocket));
    let url = aged(&stage, &stage.exec(OUTPUT, &["say", "out", "err"])).await;
    let mut session = client::command(&url, &options, OUTPUT).await.unwrap();
    let (out, err, ending) = all(&mut session).await;
    assert_eq!((&*out, &*err), (&b"out"[..], &b"err"[..]));
    assert_eq!(ending, Ending::Success);

    let url = aged(&stage, &stage.exec(OUTPUT, &["exit", "3"])).await;
    let mut session = client::command(&url, &options, OUTPUT).await.unwrap();
    assert_eq!(all(&mut session).await.2, Ending::Exit(ExitStatus(3)));

    // v4 has no half-close of one channel. The server would end the connection over a message that it does not know.
    let url = aged(&stage, &stage.exec(TERMINAL, &["sizes", "1"])).await;
    let mut session = client::command(&url, &options, TERMINAL).await.unwrap();
    session.stdin.as_mut().unwrap().shutdown().await.unwrap();
    let (width, height) = (80, 24);
    session
        .resize(TerminalSize { width, height })
        .await
        .unwrap();
    let (out, _, ending) = all(&mut session).await;
    assert_eq!((&*out, ending), (&b"80x24\n"[..], Ending::Success));
}

const MUCH: usize = 1 << 20;

/// A server like those in Go: it has no windows, and does not announce any. Its streams, by what they carry, once the client has opened so many.
async fn served(listener: TcpListener, many: usize) -> (Raw, BTreeMap<String, u32>) {
    let mut raw = Raw::accept(&listener, "v4.channel.k8s.io").await;
    let mut streams = BTreeMap::new();
    while streams.len() < many {
        let Came::Control(Frame::SynStream {
            stream, headers, ..
        }) = raw.next().await
        else {
            continue;
        };
        let kind = headers.into_iter().find(|(name, _)| name == "streamtype");
        streams.insert(kind.unwrap().1, stream);
        let (end, headers) = (false, Vec::new());
        raw.send(&Frame::SynReply {
            stream,
            end,
            headers,
        })
        .await;
    }
    (raw, streams)
}

const SUCCESS: &[u8] = br#"{"metadata":{},"status":"Success"}"#;

/// Serves one exec that prints much. How often it was granted more.
async fn prints(listener: TcpListener) -> usize {
    let (mut raw, streams) = served(listener, 3).await;
    for piece in 1..=MUCH >> 14 {
        let end = piece == MUCH >> 14;
        raw.data(streams["stdout"], &[b'x'; 1 << 14], end).await;
    }
    raw.data(streams["stderr"], b"", true).await;
    raw.data(streams["error"], SUCCESS, true).await;
    raw.rest().await;
    raw.grants
}

/// What such a server leaves unread when it closes makes the end a reset, and the client loses what is on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_grants_nothing_to_servers_without_windows() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/exec/token", listener.local_addr().unwrap());
    let server = tokio::spawn(prints(listener));
    let options = over(Transport::Spdy);
    let mut session = client::command(&url, &options, OUTPUT).await.unwrap();
    let (out, _, ending) = all(&mut session).await;
    assert_eq!((out.len(), ending), (MUCH, Ending::Success));
    session.close().await;
    assert_eq!(timeout(GUARD, server).await.unwrap().unwrap(), 0);
}

/// Serves one exec that takes no input, says how it went when it is told to, and goes: what it leaves unread makes that a reset.
async fn goes(listener: TcpListener, told: oneshot::Receiver<()>) {
    let (mut raw, streams) = served(listener, 2).await;
    told.await.unwrap();
    raw.data(streams["error"], SUCCESS, true).await;
}

/// One thread: both have happened, the last words and the reset, when the client has its turn.
#[tokio::test]
async fn our_client_hears_the_last_words_of_a_server_that_hears_no_more() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/exec/token", listener.local_addr().unwrap());
    let (tell, told) = oneshot::channel();
    let server = tokio::spawn(goes(listener, told));
    let wanted = Wanted {
        stdin: true,
        ..Wanted::default()
    };
    let options = over(Transport::Spdy);
    let mut session = client::command(&url, &options, wanted).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    // Until every buffer on the way is full.
    let mut waits = 0;
    while waits < 1000 {
        let written = stdin.write(&[b'x'; 1 << 16]).now_or_never();
        waits = written.map_or(waits + 1, |_| 0);
        tokio::task::yield_now().await;
    }
    tell.send(()).unwrap();
    let ending = timeout(GUARD, session.ending()).await.unwrap();
    assert_eq!(ending.unwrap(), Ending::Success);
    server.await.unwrap();
}
