//! Hundreds of sessions that end in every way, and what is left of them. Alone in its program: it counts what the whole process has.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::{fs, time::Duration};

use longshore_streaming::{AttachRequest, client, spdy::frame::Frame};
use support::{BOTH, GUARD, OUTPUT, PIPE, Stage, all, over, raw::Raw};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Handle,
    time::timeout,
};

/// Tasks of this runtime, the client's among them, and descriptors of this process.
fn held() -> (usize, usize) {
    let tasks = Handle::current().metrics().num_alive_tasks();
    (tasks, fs::read_dir("/proc/self/fd").unwrap().count())
}

/// Ten sessions over each transport, and three that never come to be one.
async fn round(stage: &Stage) {
    for transport in BOTH {
        let options = over(transport);
        for act in [&["say", "out", "err"][..], &["exit", "3"], &["fail"]] {
            let url = stage.exec(OUTPUT, act);
            let mut session = client::command(&url, &options, OUTPUT).await.unwrap();
            all(&mut session).await;
        }
        let request = AttachRequest {
            stdout: true,
            stderr: true,
            ..AttachRequest::default()
        };
        let url = stage.server.attach_url(request).unwrap();
        let mut session = client::command(&url, &options, OUTPUT).await.unwrap();
        all(&mut session).await;
        // One that vanishes, one with its input unread, and one with its output unread.
        for act in [&["sleep"][..], &["sleep"], &["flood", "3000000"]] {
            let url = stage.exec(PIPE, act);
            let mut session = client::command(&url, &options, PIPE).await.unwrap();
            let stdin = session.stdin.as_mut().unwrap();
            stdin.write_all(&[b'x'; 100_000]).await.unwrap();
        }
        // Forwarded connections: refused, dropped, half-closed, stalled.
        let forwarder = client::port_forward(&stage.ports(&[]), &options).await;
        let forwarder = forwarder.unwrap();
        let mut refused = forwarder.connect(1).unwrap();
        timeout(GUARD, refused.failure()).await.unwrap().unwrap();
        drop(forwarder.connect(80).unwrap());
        let mut half = forwarder.connect(81).unwrap();
        half.stream.shutdown().await.unwrap();
        let mut back = Vec::new();
        half.stream.read_to_end(&mut back).await.unwrap();
        let mut stalled = forwarder.connect(3).unwrap();
        stalled.stream.write_all(b"unread").await.unwrap();
    }
    let silent = TcpStream::connect(stage.server.address()).await.unwrap();
    let mut broken = Raw::upgrade(&stage.exec(PIPE, &["cat"]), "v4.channel.k8s.io").await;
    broken.bytes(&[0xff; 64]).await;
    let mut reset = Raw::upgrade(&stage.ports(&[]), "portforward.k8s.io").await;
    reset.open_pair(1, 3).await;
    let (stream, status) = (3, 5);
    reset.send(&Frame::RstStream { stream, status }).await;
    reset.socket.set_zero_linger().unwrap();
    drop((silent, broken, reset));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_sessions_leave_no_task_and_no_descriptor() {
    let stage = Stage::new().await;
    let before = held();
    for _ in 0..15 {
        round(&stage).await;
    }
    stage.until_running(0).await;
    let gone = async {
        while held() > before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let gone = timeout(GUARD, gone).await;
    assert!(gone.is_ok(), "{:?} are left of {before:?}", held());
}
