use std::time::Duration;

use cri::v1::AttachRequest;
use streaming::{
    TerminalSize,
    client::{self, Session, Transport, Wanted},
};
use tokio::io::AsyncWriteExt;

use super::streaming::{exec_session, lost, transport, until_read};
use crate::check::{
    case::{Case, Ended, Verdict, case, ensure, ensure_eq},
    scene::Scene,
};

pub(super) const CASES: &[Case] = &[
    case!("terminal", "a command has one, over SPDY", exec_spdy),
    case!(
        "terminal",
        "a command has one, over WebSocket",
        exec_websocket
    ),
    case!(
        "terminal",
        "its size follows that of the client, over SPDY",
        resize_spdy
    ),
    case!(
        "terminal",
        "its size follows that of the client, over WebSocket",
        resize_websocket
    ),
    case!(
        "terminal",
        "a container has one, attached to with its size",
        attach
    ),
    case!(
        "terminal",
        "a container's log of one has a single stream",
        logged
    ),
    case!("terminal", "its interrupt key ends a command", interrupt),
];

const WANTED: Wanted = Wanted {
    stdin: true,
    stdout: true,
    stderr: false,
    tty: true,
};

async fn write(session: &mut Session, text: &str) -> Verdict {
    match &mut session.stdin {
        Some(stdin) => Ok(stdin.write_all(text.as_bytes()).await?),
        None => Err(Ended::Failed("no stdin".to_owned())),
    }
}

async fn read(session: &mut Session, text: &str) -> Verdict<String> {
    match &mut session.stdout {
        Some(stdout) => until_read(stdout, text).await,
        None => Err(Ended::Failed("no stdout".to_owned())),
    }
}

async fn exec(scene: &Scene<'_>, by: Transport) -> Verdict {
    let (_, id) = scene.any_container().await?;
    let command = ["sh", "-c", "tty; read word; echo \"got $word\""];
    let mut session = exec_session(scene, &id, &command, WANTED, &transport(by)).await?;
    let name = read(&mut session, "\n").await?;
    ensure!(
        name.contains("/dev/pts/"),
        "the terminal's name is {name:?}"
    );
    write(&mut session, "these words\n").await?;
    read(&mut session, "got these words\r\n").await?;
    Ok(())
}

async fn exec_spdy(scene: &Scene<'_>) -> Verdict {
    exec(scene, Transport::Spdy).await
}

async fn exec_websocket(scene: &Scene<'_>) -> Verdict {
    exec(scene, Transport::WebSocket).await
}

const SIZES: [(u16, u16); 2] = [(101, 37), (44, 12)];

async fn resizes(session: &mut Session) -> Verdict {
    for (width, height) in SIZES {
        session.resize(TerminalSize { width, height }).await?;
        read(session, &format!("{height} {width}\r\n")).await?;
    }
    Ok(())
}

/// Writes the size again and again.
const WATCH: &str = "while :; do stty size; sleep 0.2; done";

async fn resize(scene: &Scene<'_>, by: Transport) -> Verdict {
    let (_, id) = scene.any_container().await?;
    let mut session =
        exec_session(scene, &id, &["sh", "-c", WATCH], WANTED, &transport(by)).await?;
    resizes(&mut session).await
}

async fn resize_spdy(scene: &Scene<'_>) -> Verdict {
    resize(scene, Transport::Spdy).await
}

async fn resize_websocket(scene: &Scene<'_>) -> Verdict {
    resize(scene, Transport::WebSocket).await
}

async fn attach(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let mut config = scene.script(&pod, "one", WATCH);
    (config.tty, config.stdin) = (true, true);
    let id = scene.run(&pod, config).await?;
    let request = AttachRequest {
        container_id: id,
        stdin: true,
        stdout: true,
        stderr: false,
        tty: true,
    };
    let url = scene.calls().attach(request).await?.url;
    let options = transport(Transport::Spdy);
    let session = client::command(&url, &options, WANTED).await;
    resizes(&mut session.map_err(lost)?).await
}

async fn logged(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let mut config = scene.script(&pod, "one", "tty; echo out; echo err >&2");
    config.tty = true;
    let (status, output) = scene.run_to_end(&pod, config.clone()).await?;
    ensure_eq!(status.exit_code, 0, "the exit code");
    ensure!(
        output.contains("/dev/") && output.contains("out") && output.contains("err"),
        "the log: {output:?}"
    );
    let other = scene
        .log(&pod, &config)?
        .into_iter()
        .find(|line| line.stream != "stdout");
    ensure_eq!(other, None, "a line of another stream");
    Ok(())
}

async fn interrupt(scene: &Scene<'_>) -> Verdict {
    let (_, id) = scene.any_container().await?;
    let command = [
        "sh",
        "-c",
        "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.1; done",
    ];
    let options = transport(Transport::Spdy);
    let mut session = exec_session(scene, &id, &command, WANTED, &options).await?;
    read(&mut session, "ready").await?;
    write(&mut session, "\u{3}").await?;
    read(&mut session, "caught").await?;
    let ending = tokio::time::timeout(Duration::from_secs(60), session.ending());
    let late = |_| Ended::Failed("the session does not end".to_owned());
    let ending = ending.await.map_err(late)?.map_err(lost)?;
    ensure_eq!(
        ending,
        streaming::Ending::Exit(streaming::ExitStatus(3)),
        "the ending"
    );
    Ok(())
}
