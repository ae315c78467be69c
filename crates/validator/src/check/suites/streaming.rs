use std::time::Duration;

use cri::v1::{AttachRequest, ExecRequest, PortForwardRequest};
use streaming::{
    Ending,
    client::{self, ClientError, Options, Session, Transport, Wanted},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::check::{
    case::{Case, Ended, Verdict, case, ensure, ensure_eq},
    scene::{Pod, Scene},
};

pub(super) const CASES: &[Case] = &[
    case!(
        "streaming",
        "a command's output, errors and code come, over SPDY",
        exec_spdy
    ),
    case!(
        "streaming",
        "a command's output, errors and code come, over WebSocket",
        exec_websocket
    ),
    case!(
        "streaming",
        "a command reads what is sent, and sees its end, over SPDY",
        half_close_spdy
    ),
    case!(
        "streaming",
        "a command reads what is sent, and sees its end, over WebSocket",
        half_close_websocket
    ),
    case!(
        "streaming",
        "megabytes come whole both ways, over SPDY",
        much_spdy
    ),
    case!(
        "streaming",
        "megabytes come whole both ways, over WebSocket",
        much_websocket
    ),
    case!(
        "streaming",
        "one attaches to what a container reads and writes",
        attach
    ),
    case!(
        "streaming",
        "who leaves an attached container does not end it",
        detach
    ),
    case!("streaming", "a port is forwarded, over SPDY", forward_spdy),
    case!(
        "streaming",
        "a port is forwarded, over WebSocket",
        forward_websocket
    ),
    case!(
        "streaming",
        "a port is forwarded on the host's network",
        forward_host
    ),
    case!(
        "streaming",
        "a forwarded connection is closed one way at a time",
        forward_half_close
    ),
    case!(
        "streaming",
        "a port that nobody listens at fails alone",
        forward_nobody
    ),
    case!(
        "streaming",
        "a session with what does not run is refused",
        refused
    ),
];

pub(super) fn transport(transport: Transport) -> Options {
    Options {
        transport,
        ..Default::default()
    }
}

pub(super) fn lost(error: ClientError) -> Ended {
    let mut text = format!("the streaming server: {error}");
    let mut cause = std::error::Error::source(&error);
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    Ended::Failed(text)
}

/// Over WebSocket a runtime may not have it at all: only since Kubernetes 1.30 is it asked for.
async fn opened(url: &str, options: &Options, wanted: Wanted) -> Verdict<Session> {
    match client::command(url, options, wanted).await {
        Err(ClientError::Refused { .. } | ClientError::Protocol(_))
            if options.transport == Transport::WebSocket =>
        {
            Err(Ended::Unimplemented("WebSocket streaming"))
        }
        opened => opened.map_err(lost),
    }
}

pub(super) async fn exec_session(
    scene: &Scene<'_>,
    id: &str,
    command: &[&str],
    wanted: Wanted,
    options: &Options,
) -> Verdict<Session> {
    let request = ExecRequest {
        container_id: id.to_owned(),
        cmd: command.iter().map(|it| (*it).to_owned()).collect(),
        tty: wanted.tty,
        stdin: wanted.stdin,
        stdout: wanted.stdout,
        stderr: wanted.stderr,
    };
    let url = scene.calls().exec(request).await?.url;
    opened(&url, options, wanted).await
}

pub(super) async fn everything(reader: Option<impl AsyncRead + Unpin>) -> Verdict<String> {
    let mut bytes = Vec::new();
    if let Some(mut reader) = reader {
        reader.read_to_end(&mut bytes).await?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

async fn exec(scene: &Scene<'_>, by: Transport) -> Verdict {
    let (_, id) = scene.any_container().await?;
    let wanted = Wanted {
        stdout: true,
        stderr: true,
        ..Default::default()
    };
    let command = ["sh", "-c", "echo out; echo err >&2; exit 7"];
    let mut session = exec_session(scene, &id, &command, wanted, &transport(by)).await?;
    let (out, err) = tokio::join!(
        everything(session.stdout.take()),
        everything(session.stderr.take())
    );
    ensure_eq!(out?, "out\n", "stdout");
    ensure_eq!(err?, "err\n", "stderr");
    let ending = session.ending().await.map_err(lost)?;
    ensure_eq!(ending, Ending::Exit(streaming::ExitStatus(7)), "the ending");
    Ok(())
}

async fn exec_spdy(scene: &Scene<'_>) -> Verdict {
    exec(scene, Transport::Spdy).await
}

async fn exec_websocket(scene: &Scene<'_>) -> Verdict {
    exec(scene, Transport::WebSocket).await
}

async fn half_close(scene: &Scene<'_>, by: Transport) -> Verdict {
    let (_, id) = scene.any_container().await?;
    let wanted = Wanted {
        stdin: true,
        stdout: true,
        ..Default::default()
    };
    // It writes only once its input has ended.
    let command = ["sh", "-c", "all=$(cat); echo \"got $all\""];
    let mut session = exec_session(scene, &id, &command, wanted, &transport(by)).await?;
    if let Some(mut stdin) = session.stdin.take() {
        stdin.write_all(b"these words").await?;
        stdin.shutdown().await?;
    }
    let said = tokio::time::timeout(scene.patience(), everything(session.stdout.take())).await;
    let Ok(said) = said else {
        // Only `v5.channel.k8s.io` can tell the end of an input; with v4 the command waits for ever.
        return Err(match by {
            Transport::WebSocket => {
                Ended::Unimplemented("the end of an input over WebSocket (v5.channel.k8s.io)")
            }
            Transport::Spdy => Ended::Failed("the command does not see its input's end".to_owned()),
        });
    };
    ensure_eq!(said?, "got these words\n", "stdout");
    ensure_eq!(
        session.ending().await.map_err(lost)?,
        Ending::Success,
        "the ending"
    );
    Ok(())
}

async fn half_close_spdy(scene: &Scene<'_>) -> Verdict {
    half_close(scene, Transport::Spdy).await
}

async fn half_close_websocket(scene: &Scene<'_>) -> Verdict {
    half_close(scene, Transport::WebSocket).await
}

const MUCH: usize = 3 << 20;

async fn much(scene: &Scene<'_>, by: Transport) -> Verdict {
    let (_, id) = scene.any_container().await?;
    let wanted = Wanted {
        stdin: true,
        stdout: true,
        ..Default::default()
    };
    let command = ["head", "-c", &MUCH.to_string()];
    let mut session = exec_session(scene, &id, &command, wanted, &transport(by)).await?;
    let sent = registry::image::noise(MUCH);
    let (mut stdin, stdout) = (session.stdin.take(), session.stdout.take());
    let write = async {
        if let Some(stdin) = &mut stdin {
            stdin.write_all(&sent).await?;
        }
        Verdict::Ok(())
    };
    let read = async {
        let mut bytes = Vec::new();
        if let Some(mut stdout) = stdout {
            stdout.read_to_end(&mut bytes).await?;
        }
        Verdict::Ok(bytes)
    };
    let (wrote, came) = tokio::join!(write, read);
    wrote?;
    let came = came?;
    ensure_eq!(came.len(), MUCH, "bytes that came back");
    ensure!(came == sent, "they are others");
    Ok(())
}

async fn much_spdy(scene: &Scene<'_>) -> Verdict {
    much(scene, Transport::Spdy).await
}

async fn much_websocket(scene: &Scene<'_>) -> Verdict {
    much(scene, Transport::WebSocket).await
}

async fn attached(scene: &Scene<'_>) -> Verdict<(String, Session)> {
    let pod = scene.any_pod().await?;
    let mut config = scene.script(
        &pod,
        "one",
        "echo ready; while read word; do echo \"got $word\"; done; echo over",
    );
    config.stdin = true;
    let id = scene.run(&pod, config.clone()).await?;
    scene.until_logged(&pod, &config, "ready").await?;
    let wanted = Wanted {
        stdin: true,
        stdout: true,
        stderr: true,
        tty: false,
    };
    let request = AttachRequest {
        container_id: id.clone(),
        stdin: true,
        stdout: true,
        stderr: true,
        tty: false,
    };
    let url = scene.calls().attach(request).await?.url;
    let session = opened(&url, &transport(Transport::Spdy), wanted).await?;
    Ok((id, session))
}

/// Reads until the text is there.
pub(super) async fn until_read(
    reader: &mut (impl AsyncRead + Unpin),
    text: &str,
) -> Verdict<String> {
    let mut seen = String::new();
    let mut buffer = [0; 4096];
    while !seen.contains(text) {
        let limit = Duration::from_secs(60);
        let late = |_| Ended::Failed(format!("{text:?} does not come, only {seen:?}"));
        let count = tokio::time::timeout(limit, reader.read(&mut buffer))
            .await
            .map_err(late)??;
        ensure!(count > 0, "the output ends with {seen:?}, without {text:?}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    Ok(seen)
}

async fn attach(scene: &Scene<'_>) -> Verdict {
    let (_, mut session) = attached(scene).await?;
    let (Some(stdin), Some(stdout)) = (&mut session.stdin, &mut session.stdout) else {
        return Err(Ended::Failed("no streams".to_owned()));
    };
    for word in ["one", "two"] {
        stdin.write_all(format!("{word}\n").as_bytes()).await?;
        until_read(stdout, &format!("got {word}\n")).await?;
    }
    Ok(())
}

async fn detach(scene: &Scene<'_>) -> Verdict {
    let (id, session) = attached(scene).await?;
    drop(session);
    tokio::time::sleep(Duration::from_millis(300)).await;
    ensure_eq!(
        scene.sh(&id, "echo alive").await?,
        "alive",
        "what a command in it says afterwards"
    );
    Ok(())
}

async fn server(scene: &Scene<'_>, pod: &Pod, port: u16, script: &str) -> Verdict {
    let handler = format!(
        "printf '#!/bin/sh\\n%s\\n' '{script}' >/tmp/h; chmod +x /tmp/h; echo ready; exec nc -ll -p {port} -e /tmp/h"
    );
    let config = scene.script(pod, "server", &handler);
    let id = scene.run(pod, config.clone()).await?;
    scene.until_logged(pod, &config, "ready").await?;
    let look =
        format!("cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | grep -q ':{port:04X} 0*:0000 0A '");
    let listens = async || {
        let reply = scene.exec(&id, &["sh", "-c", &look], 60).await?;
        Ok((reply.exit_code == 0).then_some(()))
    };
    scene.until_told("a server that listens", listens).await
}

async fn forwarder(
    scene: &Scene<'_>,
    pod: &Pod,
    port: u16,
    by: Transport,
) -> Verdict<client::Forwarder> {
    let request = PortForwardRequest {
        pod_sandbox_id: pod.id.clone(),
        port: vec![port.into()],
    };
    let url = scene.calls().port_forward(request).await?.url;
    match client::port_forward(&url, &transport(by)).await {
        Err(ClientError::Refused { .. } | ClientError::Protocol(_))
            if by == Transport::WebSocket =>
        {
            Err(Ended::Unimplemented("WebSocket port-forward"))
        }
        forwarder => forwarder.map_err(lost),
    }
}

/// What the server says once it has been told something. One that is busy is asked again.
async fn asked(
    scene: &Scene<'_>,
    forwarder: &client::Forwarder,
    port: u16,
    close: bool,
) -> Verdict<String> {
    scene
        .until("an answer through the forwarded port", async || {
            let mut forwarded = forwarder.connect(port).map_err(lost)?;
            if forwarded.stream.write_all(b"hello\n").await.is_err() {
                return Ok(None);
            }
            if close && forwarded.stream.shutdown().await.is_err() {
                return Ok(None);
            }
            let mut answer = String::new();
            let read = forwarded.stream.read_to_string(&mut answer).await;
            Ok((read.is_ok() && !answer.is_empty()).then_some(answer))
        })
        .await
}

const ECHO: &str = "read word; echo \"got $word\"";

async fn forward(scene: &Scene<'_>, by: Transport) -> Verdict {
    let pod = scene.pod(scene.network_pod("pod")).await?;
    server(scene, &pod, 8000, ECHO).await?;
    let forwarder = forwarder(scene, &pod, 8000, by).await?;
    for _ in 0..3 {
        ensure_eq!(
            asked(scene, &forwarder, 8000, false).await?,
            "got hello\n",
            "the answer"
        );
    }
    Ok(())
}

async fn forward_spdy(scene: &Scene<'_>) -> Verdict {
    forward(scene, Transport::Spdy).await
}

async fn forward_websocket(scene: &Scene<'_>) -> Verdict {
    forward(scene, Transport::WebSocket).await
}

async fn forward_host(scene: &Scene<'_>) -> Verdict {
    let port = scene.free_port()?;
    let pod = scene.any_pod().await?;
    server(scene, &pod, port, ECHO).await?;
    let forwarder = forwarder(scene, &pod, port, Transport::Spdy).await?;
    ensure_eq!(
        asked(scene, &forwarder, port, false).await?,
        "got hello\n",
        "the answer"
    );
    Ok(())
}

async fn forward_half_close(scene: &Scene<'_>) -> Verdict {
    let pod = scene.pod(scene.network_pod("pod")).await?;
    server(scene, &pod, 8000, "all=$(cat); echo \"all of $all\"").await?;
    let forwarder = forwarder(scene, &pod, 8000, Transport::Spdy).await?;
    ensure_eq!(
        asked(scene, &forwarder, 8000, true).await?,
        "all of hello\n",
        "the answer to what was closed"
    );
    Ok(())
}

async fn forward_nobody(scene: &Scene<'_>) -> Verdict {
    let pod = scene.pod(scene.network_pod("pod")).await?;
    server(scene, &pod, 8000, ECHO).await?;
    let forwarder = forwarder(scene, &pod, 8000, Transport::Spdy).await?;
    asked(scene, &forwarder, 8000, false).await?;
    let mut nobody = forwarder.connect(8001).map_err(lost)?;
    let mut answer = String::new();
    let read = nobody.stream.read_to_string(&mut answer).await;
    ensure!(
        read.is_err() || answer.is_empty(),
        "somebody answers: {answer}"
    );
    drop(nobody);
    // Whether the connection is shared by both is the runtime's business; another one must do.
    let again = self::forwarder(scene, &pod, 8000, Transport::Spdy).await?;
    ensure_eq!(
        asked(scene, &again, 8000, false).await?,
        "got hello\n",
        "the answer afterwards"
    );
    Ok(())
}

async fn refused(scene: &Scene<'_>) -> Verdict {
    let (_, id) = scene.any_container().await?;
    scene.stop(&id, 30).await?;
    let wanted = Wanted {
        stdout: true,
        ..Default::default()
    };
    let request = ExecRequest {
        container_id: id,
        cmd: vec!["true".to_owned()],
        stdout: true,
        ..Default::default()
    };
    // Either the call or the session.
    let Ok(reply) = scene.calls().exec(request).await else {
        return Ok(());
    };
    let Ok(mut session) = client::command(&reply.url, &transport(Transport::Spdy), wanted).await
    else {
        return Ok(());
    };
    let ending = session.ending().await;
    ensure!(
        !matches!(ending, Ok(Ending::Success)),
        "a command runs in a container that has ended"
    );
    Ok(())
}
