//! The WebSocket forms by clients that are not ours (Debian's python3-websocket and python3-kubernetes, which `cargo xtask install-deps`
//! installs).

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::process::Stdio;

use support::{GUARD, OUTPUT, PIPE, Stage};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

struct Python {
    _child: Child,
    stdin: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Python {
    fn start() -> Self {
        // Debian's own: another python3 may come first in PATH, without its packages.
        let mut child = Command::new("/usr/bin/python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/independent.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            stdin: child.stdin.take().unwrap(),
            answers: BufReader::new(child.stdout.take().unwrap()).lines(),
            _child: child,
        }
    }

    async fn does(&mut self, act: &str, protocol: &str, url: &str) {
        let url = url.replacen("http", "ws", 1);
        let line = format!("{act} {protocol} {url}\n");
        self.stdin.write_all(line.as_bytes()).await.unwrap();
        let answer = timeout(GUARD, self.answers.next_line()).await.unwrap();
        assert_eq!(
            answer.unwrap().as_deref(),
            Some("ok"),
            "{act} over {protocol:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_subprotocol_of_commands() {
    let (stage, mut python) = (Stage::new().await, Python::start());
    for protocol in [
        "",
        "channel.k8s.io",
        "base64.channel.k8s.io",
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
        "v5.channel.k8s.io",
    ] {
        python
            .does("cat", protocol, &stage.exec(PIPE, &["cat"]))
            .await;
        python
            .does("exit", protocol, &stage.exec(OUTPUT, &["exit", "3"]))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_that_are_named_beforehand() {
    let (stage, mut python) = (Stage::new().await, Python::start());
    for protocol in [
        "",
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
        "portforward.k8s.io",
    ] {
        python
            .does("ports", protocol, &stage.ports(&[80, 443]))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kubernetes_client_for_python() {
    let (stage, mut python) = (Stage::new().await, Python::start());
    python
        .does("kubernetes-exit", "-", &stage.exec(OUTPUT, &["exit", "3"]))
        .await;
    python
        .does(
            "kubernetes-say",
            "-",
            &stage.exec(OUTPUT, &["say", "out", "err"]),
        )
        .await;
}
