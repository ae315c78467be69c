//! Exec and attach over both transports, by our own client.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use longshore_streaming::{
    AttachRequest, Ending, ExitStatus, TerminalSize,
    client::{self, ClientError, Transport},
};
use support::{BOTH, GUARD, OUTPUT, PIPE, Stage, TERMINAL, all, over};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_comes_whole_and_then_the_exit_code() {
    let stage = Stage::new().await;
    for transport in BOTH {
        let url = stage.exec(OUTPUT, &["say", "out", "err"]);
        let mut session = client::command(&url, &over(transport), OUTPUT)
            .await
            .unwrap();
        let (out, err, ending) = all(&mut session).await;
        assert_eq!((&out[..], &err[..]), (&b"out"[..], &b"err"[..]));
        assert_eq!(ending, Ending::Success);

        let url = stage.exec(OUTPUT, &["exit", "3"]);
        let mut session = client::command(&url, &over(transport), OUTPUT)
            .await
            .unwrap();
        assert_eq!(all(&mut session).await.2, Ending::Exit(ExitStatus(3)));

        for (act, words) in [("fail", "no such program"), ("panic", "has failed")] {
            let url = stage.exec(OUTPUT, &[act]);
            let mut session = client::command(&url, &over(transport), OUTPUT)
                .await
                .unwrap();
            let Ending::Error(text) = all(&mut session).await.2 else {
                panic!("{act} succeeded")
            };
            assert!(text.contains(words), "{text}");
        }
    }
    stage.until_running(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_close_reaches_the_process_and_not_a_byte_is_lost() {
    let stage = Stage::new().await;
    let sent: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    for transport in BOTH {
        let url = stage.exec(PIPE, &["cat"]);
        let mut session = client::command(&url, &over(transport), PIPE).await.unwrap();
        let mut stdin = session.stdin.take().unwrap();
        let writing = async {
            stdin.write_all(&sent).await.unwrap();
            stdin.shutdown().await.unwrap();
        };
        let ((), (out, _, ending)) = tokio::join!(writing, all(&mut session));
        assert!(out == sent, "{} bytes of {}", out.len(), sent.len());
        assert_eq!(ending, Ending::Success);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_keystroke_is_answered() {
    let stage = Stage::new().await;
    for transport in BOTH {
        let url = stage.exec(PIPE, &["cat"]);
        let mut session = client::command(&url, &over(transport), PIPE).await.unwrap();
        let (stdin, stdout) = (
            session.stdin.as_mut().unwrap(),
            session.stdout.as_mut().unwrap(),
        );
        for key in 0..200_u8 {
            stdin.write_all(&[key]).await.unwrap();
            assert_eq!(
                timeout(GUARD, stdout.read_u8()).await.unwrap().unwrap(),
                key
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terminal_sizes_are_followed() {
    let stage = Stage::new().await;
    for transport in BOTH {
        let url = stage.exec(TERMINAL, &["sizes", "2"]);
        let mut session = client::command(&url, &over(transport), TERMINAL)
            .await
            .unwrap();
        for (width, height) in [(80, 24), (132, 43)] {
            session
                .resize(TerminalSize { width, height })
                .await
                .unwrap();
            let mut line = vec![0; format!("{width}x{height}\n").len()];
            let stdout = session.stdout.as_mut().unwrap();
            timeout(GUARD, stdout.read_exact(&mut line))
                .await
                .unwrap()
                .unwrap();
            assert_eq!(line, format!("{width}x{height}\n").into_bytes());
        }
        assert_eq!(all(&mut session).await.2, Ending::Success);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attach_ends_without_a_code() {
    let stage = Stage::new().await;
    for transport in BOTH {
        let request = AttachRequest {
            stdout: true,
            stderr: true,
            ..AttachRequest::default()
        };
        let url = stage.server.attach_url(request).unwrap();
        let mut session = client::command(&url, &over(transport), OUTPUT)
            .await
            .unwrap();
        let (out, _, ending) = all(&mut session).await;
        assert_eq!((&out[..], ending), (&b"attached"[..], Ending::Success));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_vanishes_ends_its_session() {
    let stage = Stage::new().await;
    for (transport, gone) in BOTH.into_iter().zip(1..) {
        let url = stage.exec(OUTPUT, &["sleep"]);
        let session = client::command(&url, &over(transport), OUTPUT)
            .await
            .unwrap();
        stage.until_running(1).await;
        drop(session);
        stage.until(&stage.acts.vanished, gone).await;
        stage.until_running(0).await;
        // One that does not heed it is dropped.
        let url = stage.exec(OUTPUT, &["stubborn"]);
        let session = client::command(&url, &over(transport), OUTPUT)
            .await
            .unwrap();
        stage.until_running(1).await;
        drop(session);
        stage.until_running(0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_slows_only_its_own_process() {
    let stage = Stage::new().await;
    for transport in BOTH {
        let url = stage.exec(OUTPUT, &["flood", "30000000"]);
        let mut lazy = client::command(&url, &over(transport), OUTPUT)
            .await
            .unwrap();
        stage.until_running(1).await;
        for _ in 0..5 {
            let url = stage.exec(OUTPUT, &["say", "hello", ""]);
            let mut session = client::command(&url, &over(transport), OUTPUT)
                .await
                .unwrap();
            assert_eq!(all(&mut session).await.0, b"hello");
        }
        // It is still at it, and nothing has been lost.
        stage.until_running(1).await;
        assert_eq!(all(&mut lazy).await.0.len(), 30_000_000);
        stage.until_running(0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_ends_says_so() {
    for transport in BOTH {
        let stage = Stage::new().await;
        let url = stage.exec(OUTPUT, &["sleep"]);
        let mut session = client::command(&url, &over(transport), OUTPUT)
            .await
            .unwrap();
        stage.until_running(1).await;
        let server = stage.server.clone();
        let shutdown = tokio::spawn(async move { server.shutdown().await });
        let Ending::Error(text) = all(&mut session).await.2 else {
            panic!("it seems to have succeeded")
        };
        assert!(text.contains("shutting down"), "{text}");
        drop(session);
        timeout(GUARD, shutdown).await.unwrap().unwrap();
        stage.until_running(0).await;
    }
}

#[tokio::test]
async fn urls_are_good_for_one_session() {
    let stage = Stage::new().await;
    let url = stage.exec(OUTPUT, &["exit", "0"]);
    let options = over(Transport::Spdy);
    let mut session = client::command(&url, &options, OUTPUT).await.unwrap();
    assert_eq!(all(&mut session).await.2, Ending::Success);
    let other = url.replace("/exec/", "/attach/");
    let unknown = format!("{}{}", &url[..url.len() - 32], "0".repeat(32));
    for (url, words) in [
        (&url, "used already"),
        (&other, "used already"),
        (&unknown, "never given out"),
        (&url[..url.len() - 33].to_owned(), "nothing here"),
    ] {
        let refused = client::command(url, &options, OUTPUT).await;
        let Err(ClientError::Refused { status, text }) = refused else {
            panic!("{url} was honoured")
        };
        assert_eq!(status, 404, "{text}");
        assert!(text.contains(words), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn urls_name_the_address_that_clients_know() {
    for (advertise, begins, ends) in [
        (None, "http://127.0.0.1:", true),
        (Some("node.example"), "http://node.example:", true),
        (
            Some("node.example:10010"),
            "http://node.example:10010",
            false,
        ),
        (Some("[2001:db8::1]"), "http://[2001:db8::1]:", true),
        (Some("[2001:db8::1]:80"), "http://[2001:db8::1]:80", false),
    ] {
        let own = advertise.map(str::to_owned);
        let stage = Stage::with(|config| config.advertise = own).await;
        let mut expected = begins.to_owned();
        if ends {
            expected.push_str(&stage.server.address().port().to_string());
        }
        let url = stage.exec(OUTPUT, &["say", "a", "b"]);
        assert!(url.starts_with(&format!("{expected}/exec/")), "{url}");
    }
}
