//! Exec, attach and port-forward, by our own client over both transports.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, ensure};
use e2e::{ContainerSettings, Host, PodSettings, Streams, scenario};
use streaming::{
    Ending, ExitStatus, Reader, TerminalSize,
    client::{self, Options, Session, Transport},
};
use testkit::daemon::binary;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
};
use tonic::Code;

pub(super) const TRANSPORTS: [Transport; 2] = [Transport::Spdy, Transport::WebSocket];

pub(super) const OUTPUT: Streams = Streams {
    stdin: false,
    stdout: true,
    stderr: true,
    tty: false,
};

pub(super) const ALL: Streams = Streams {
    stdin: true,
    ..OUTPUT
};

const TERMINAL: Streams = Streams {
    stdin: true,
    stdout: true,
    stderr: false,
    tty: true,
};

pub(super) fn over(transport: Transport) -> Options {
    Options {
        transport,
        ..Options::default()
    }
}

/// Runs a client where the daemon's URLs lead to it.
pub(super) fn inside<T: Send>(
    host: &Host,
    client: impl AsyncFnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    host.sandbox.on_network(|| {
        // Its worker is born into the network of this thread, and carries the bytes while a story blocks.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let result = runtime.block_on(client());
        runtime.shutdown_background();
        result
    })?
}

async fn read(from: &mut Option<Reader>) -> anyhow::Result<String> {
    let mut text = String::new();
    let from = from.as_mut().context("there is no such stream")?;
    from.read_to_string(&mut text).await?;
    Ok(text)
}

async fn read_until(from: &mut Option<Reader>, end: &str) -> anyhow::Result<String> {
    let mut text = Vec::new();
    let from = from.as_mut().context("there is no such stream")?;
    while !text.ends_with(end.as_bytes()) {
        let mut buffer = [0; 4096];
        let count = from.read(&mut buffer).await?;
        ensure!(
            count > 0,
            "ended after {:?}",
            String::from_utf8_lossy(&text)
        );
        text.extend_from_slice(&buffer[..count]);
    }
    Ok(String::from_utf8(text)?)
}

async fn write(session: &mut Session, text: &str) -> anyhow::Result<()> {
    let stdin = session.stdin.as_mut().context("there is no stdin")?;
    stdin.write_all(text.as_bytes()).await?;
    Ok(stdin.flush().await?)
}

pub(super) async fn sleeper(host: &Host, name: &str) -> anyhow::Result<(String, String)> {
    let pod = PodSettings::new(name);
    let pod_id = host.run_pod(&pod).await?;
    let id = host
        .run(&pod_id, &pod, &ContainerSettings::sleeper("main"))
        .await?;
    Ok((pod_id, id))
}

#[test]
fn a_command_has_its_streams_and_its_exit_code() {
    scenario(async |host| {
        let (_, id) = sleeper(host, "exec").await?;
        for transport in TRANSPORTS {
            let script = "cat; echo err >&2; exit 7";
            let url = host.cri.exec_url(&id, &["sh", "-c", script], ALL).await?;
            inside(host, async || {
                let mut session = client::command(&url, &over(transport), ALL).await?;
                write(&mut session, "words").await?;
                if let Some(mut stdin) = session.stdin.take() {
                    stdin.shutdown().await?;
                }
                ensure!(read(&mut session.stdout).await? == "words");
                ensure!(read(&mut session.stderr).await? == "err\n");
                ensure!(session.ending().await? == Ending::Exit(ExitStatus(7)));
                // Used up.
                let again = client::command(&url, &over(transport), ALL).await;
                let refusal = again.err().context("a URL was good twice")?.to_string();
                ensure!(refusal.contains("404"), "{refusal}");
                Ok(())
            })?;
            // All that was printed before the exit is there, and then the status.
            let url = host
                .cri
                .exec_url(&id, &["seq", "1", "200000"], OUTPUT)
                .await?;
            inside(host, async || {
                let mut session = client::command(&url, &over(transport), OUTPUT).await?;
                let expected: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
                ensure!(read(&mut session.stdout).await? == expected);
                ensure!(session.ending().await? == Ending::Success);
                Ok(())
            })?;
            let url = host.cri.exec_url(&id, &["/no/such"], OUTPUT).await?;
            inside(host, async || {
                let mut session = client::command(&url, &over(transport), OUTPUT).await?;
                let ending = session.ending().await?;
                let Ending::Error(words) = ending else {
                    anyhow::bail!("{ending:?}");
                };
                ensure!(words.contains("/no/such"), "{words}");
                Ok(())
            })?;
        }
        Ok(())
    });
}

#[test]
fn a_terminal_follows_its_size_and_ends_with_its_program() {
    scenario(async |host| {
        let (_, id) = sleeper(host, "terminal").await?;
        for transport in TRANSPORTS {
            let script =
                "stty -echo; echo ready; while read l; do stty size; done; echo over; exit 3";
            let url = host
                .cri
                .exec_url(&id, &["sh", "-c", script], TERMINAL)
                .await?;
            inside(host, async || {
                let mut session = client::command(&url, &over(transport), TERMINAL).await?;
                read_until(&mut session.stdout, "ready\r\n").await?;
                for height in 10..200 {
                    let size = TerminalSize { width: 99, height };
                    session.resize(size).await?;
                }
                // The last of many counts; it may be on its way still.
                loop {
                    write(&mut session, "\n").await?;
                    let size = read_until(&mut session.stdout, "\r\n").await?;
                    if size == "199 99\r\n" {
                        break;
                    }
                }
                // A terminal has no half-close: who reads lines reads an end of file.
                if let Some(mut stdin) = session.stdin.take() {
                    stdin.shutdown().await?;
                }
                if transport == Transport::Spdy {
                    ensure!(read(&mut session.stdout).await? == "over\r\n");
                    ensure!(session.ending().await? == Ending::Exit(ExitStatus(3)));
                }
                Ok(())
            })?;
        }
        Ok(())
    });
}

#[test]
fn a_client_that_vanishes_takes_its_command_with_it() {
    scenario(async |host| {
        let (_, id) = sleeper(host, "vanish").await?;
        let before = descriptors(host)?;
        for transport in TRANSPORTS {
            let script = "setsid sleep 7654 & sleep 7654";
            let url = host.cri.exec_url(&id, &["sh", "-c", script], ALL).await?;
            inside(host, async || {
                let session = client::command(&url, &over(transport), ALL).await?;
                ensure!(processes_come(host, "7654", true), "it does not run");
                drop(session);
                Ok(())
            })?;
            ensure!(processes_come(host, "7654", false), "it runs on");
        }
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while descriptors(host)? > before {
            ensure!(
                std::time::Instant::now() < end,
                "descriptors are left: {} and not {before}",
                descriptors(host)?
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    });
}

/// What the daemon has open.
fn descriptors(host: &Host) -> anyhow::Result<usize> {
    let pid = host.daemon.pid().context("the daemon runs")?;
    let directory = format!("/proc/{}/fd", pid.as_raw_nonzero());
    Ok(std::fs::read_dir(directory)?.count())
}

/// Waits until a process with that argument runs, or none does.
pub(super) fn processes_come(host: &Host, argument: &str, wanted: bool) -> bool {
    testkit::sandbox::poll(Duration::from_secs(20), || {
        let processes = host.sandbox.processes();
        let runs = processes
            .iter()
            .any(|process| process.args.iter().any(|arg| arg == argument));
        (runs == wanted).then_some(())
    })
    .is_some()
}

#[test]
fn a_stop_and_a_daemons_end_end_the_streams() {
    scenario(async |host| {
        let (_, id) = sleeper(host, "ends").await?;
        let mut urls = Vec::new();
        for transport in TRANSPORTS {
            let exec = host.cri.exec_url(&id, &["cat"], ALL).await?;
            let attach = host.cri.attach_url(&id, OUTPUT).await?;
            urls.push((transport, exec, attach));
        }
        let cri = host.cri.clone();
        inside(host, async || {
            let mut sessions = Vec::new();
            for (transport, exec, attach) in urls {
                let mut exec = client::command(&exec, &over(transport), ALL).await?;
                write(&mut exec, "x\n").await?;
                read_until(&mut exec.stdout, "x\n").await?;
                let attach = client::command(&attach, &over(transport), OUTPUT).await?;
                sessions.push((exec, attach));
            }
            cri.stop(&id, 0).await?;
            for (mut exec, mut attach) in sessions {
                ensure!(exec.ending().await? == Ending::Exit(ExitStatus(137)));
                ensure!(attach.ending().await? == Ending::Success);
            }
            Ok(())
        })?;

        let (_, id) = sleeper(host, "restart").await?;
        let mut urls = Vec::new();
        for transport in TRANSPORTS {
            let url = host.cri.exec_url(&id, &["sleep", "8765"], ALL).await?;
            urls.push((transport, url));
        }
        let (local, mut sessions) = host.sandbox.on_network(|| {
            let local = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()?;
            let sessions = local.block_on(async {
                let mut sessions = Vec::new();
                for (transport, url) in urls {
                    sessions.push(client::command(&url, &over(transport), ALL).await?);
                }
                anyhow::Ok(sessions)
            })?;
            ensure!(processes_come(host, "8765", true), "it does not run");
            Ok((local, sessions))
        })??;
        host.restart_daemon().await?;
        ensure!(processes_come(host, "8765", false), "it runs on");
        for session in &mut sessions {
            let ending = std::thread::scope(|scope| {
                let wait = scope.spawn(|| local.block_on(session.ending()));
                wait.join()
            });
            let ending = ending.map_err(|_| anyhow::anyhow!("a panic"))?;
            ensure!(
                !matches!(ending, Ok(Ending::Success | Ending::Exit(_))),
                "{ending:?}"
            );
        }
        local.shutdown_background();
        ensure!(host.cri.sh(&id, "echo fine").await? == "fine\n");
        Ok(())
    });
}

/// Says back what it is told, on a pod's loopback. A program of the pod would be as good, and slower by the hundred.
pub(super) fn echo(host: &Host, pod_id: &str, address: &str) -> anyhow::Result<Echo> {
    let name = format!("/run/netns/longshore-{pod_id}");
    let listener = host
        .sandbox
        .on_pinned_network(&name, || std::net::TcpListener::bind(address))??;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    Ok(Echo(tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((socket, _)) = listener.accept().await {
            connections.spawn(async move {
                let (mut from, mut to) = socket.into_split();
                let _end = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    })))
}

/// Its sockets keep the pod's network, so it has to go before the pod.
pub(super) struct Echo(tokio::task::JoinHandle<()>);

impl Drop for Echo {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[test]
fn attaches_share_the_output_and_the_first_owns_the_input() {
    scenario(async |host| {
        let pod = PodSettings::new("attach");
        let pod_id = host.run_pod(&pod).await?;
        for (transport, other) in [
            (Transport::Spdy, Transport::WebSocket),
            (Transport::WebSocket, Transport::Spdy),
        ] {
            let name = format!("main-{}", transport == Transport::Spdy);
            let script = "echo before; cat; echo err >&2; echo end; exit 5";
            let settings = ContainerSettings::sh(&name, script).edited(|config| {
                config.stdin = true;
                config.stdin_once = true;
            });
            let id = host.run(&pod_id, &pod, &settings).await?;
            host.until_logged(&pod, &settings, "before").await?;
            let first = host.cri.attach_url(&id, ALL).await?;
            let second = host.cri.attach_url(&id, OUTPUT).await?;
            inside(host, async || {
                let mut first = client::command(&first, &over(transport), ALL).await?;
                write(&mut first, "one\n").await?;
                // Nothing is repeated.
                ensure!(read_until(&mut first.stdout, "one\n").await? == "one\n");
                let mut second = client::command(&second, &over(other), OUTPUT).await?;
                // It listens once it has heard something.
                loop {
                    write(&mut first, "two\n").await?;
                    read_until(&mut first.stdout, "two\n").await?;
                    let heard = read_until(&mut second.stdout, "two\n");
                    if let Ok(heard) = tokio::time::timeout(Duration::from_millis(200), heard).await
                    {
                        ensure!(!heard?.contains("before"));
                        break;
                    }
                }
                if let Some(mut stdin) = first.stdin.take() {
                    stdin.shutdown().await?;
                }
                for session in [&mut first, &mut second] {
                    ensure!(read(&mut session.stdout).await?.ends_with("end\n"));
                    ensure!(read(&mut session.stderr).await? == "err\n");
                    ensure!(session.ending().await? == Ending::Success);
                }
                Ok(())
            })?;
            ensure!(host.until_exited(&id).await?.exit_code == 5);
            ensure!(host.output(&pod, &settings)?.ends_with("end\n"));
        }
        Ok(())
    });
}

#[test]
fn an_attach_to_a_terminal_is_one() {
    scenario(async |host| {
        let pod = PodSettings::new("attach-terminal");
        let pod_id = host.run_pod(&pod).await?;
        let script = "read first; while read l; do stty size; done";
        let settings = ContainerSettings::sh("main", script).edited(|config| {
            config.stdin = true;
            config.tty = true;
        });
        let id = host.run(&pod_id, &pod, &settings).await?;
        for transport in TRANSPORTS {
            let url = host.cri.attach_url(&id, TERMINAL).await?;
            inside(host, async || {
                let mut session = client::command(&url, &over(transport), TERMINAL).await?;
                let size = TerminalSize {
                    width: 77,
                    height: 33,
                };
                session.resize(size).await?;
                // The size may be on its way still; lines are echoed.
                loop {
                    write(&mut session, "\n").await?;
                    if read_until(&mut session.stdout, "\n")
                        .await?
                        .contains("33 77")
                    {
                        return Ok(());
                    }
                }
            })?;
        }
        Ok(())
    });
}

#[test]
fn an_attach_that_lags_is_told_so_and_stalls_nobody() {
    scenario(async |host| {
        let pod = PodSettings::new("laggard");
        let pod_id = host.run_pod(&pod).await?;
        let script = "read go; head -c 80000000 /dev/zero; echo; echo through; read more";
        let settings = ContainerSettings::sh("main", script).edited(|config| config.stdin = true);
        let id = host.run(&pod_id, &pod, &settings).await?;
        let url = host.cri.attach_url(&id, ALL).await?;
        inside(host, async || {
            let mut session = client::command(&url, &over(Transport::Spdy), ALL).await?;
            write(&mut session, "go\n").await?;
            // Nothing is read: the container gets through all the same.
            let words = match session.ending().await? {
                Ending::Error(words) => words,
                other => anyhow::bail!("{other:?}"),
            };
            ensure!(words.contains("behind"), "{words}");
            Ok(())
        })?;
        let end = std::time::Instant::now() + Duration::from_secs(60);
        let path = host.log_path(&pod, &settings);
        loop {
            let log = std::fs::read(&path)?;
            if log.ends_with(b" through\n") {
                break;
            }
            ensure!(std::time::Instant::now() < end, "{} bytes", log.len());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    });
}

#[test]
fn ports_are_forwarded_to_both_loopbacks() {
    scenario(async |host| {
        let pod = PodSettings::new("ports");
        let pod_id = host.run_pod(&pod).await?;
        // A program of the pod sends first, and says when it has read an end of file.
        let script = "nc -ll -p 8003 -e sh -c 'echo hello; cat; echo end'";
        let settings = ContainerSettings::sh("main", script);
        let id = host.run(&pod_id, &pod, &settings).await?;
        let listens = "until grep -q ':1F43 ' /proc/net/tcp /proc/net/tcp6; do sleep 0.02; done";
        host.cri.sh(&id, listens).await?;
        let _both = [
            echo(host, &pod_id, "127.0.0.1:8001")?,
            echo(host, &pod_id, "[::1]:8002")?,
        ];
        for transport in TRANSPORTS {
            let url = host.cri.port_forward_url(&pod_id, vec![]).await?;
            inside(host, async || {
                let forwarder = client::port_forward(&url, &over(transport)).await?;
                // One that nobody reads, and one that is dropped, hinder no other.
                let mut stalled = forwarder.connect(8001)?;
                let dropped = forwarder.connect(8001)?;
                drop(dropped);
                let mut refused = forwarder.connect(8009)?;
                let words = refused.failure().await?.context("a refusal")?;
                ensure!(words.contains("8009"), "{words}");
                stalled.stream.write_all(&[b'x'; 100_000]).await?;
                for port in [8001, 8002] {
                    let mut echo = forwarder.connect(port)?;
                    echo.stream.write_all(b"words").await?;
                    let mut words = [0; 5];
                    echo.stream
                        .read_exact(&mut words)
                        .await
                        .with_context(|| format!("port {port}"))?;
                    ensure!(&words == b"words");
                }
                let mut halves = forwarder.connect(8003)?;
                let mut hello = [0; 6];
                halves.stream.read_exact(&mut hello).await?;
                halves.stream.write_all(b"x").await?;
                halves.stream.shutdown().await?;
                let mut rest = String::new();
                halves.stream.read_to_string(&mut rest).await?;
                ensure!(rest == "xend\n", "{rest}");
                ensure!(halves.failure().await?.is_none());
                Ok(())
            })?;
        }
        Ok(())
    });
}

#[test]
fn hundreds_of_connections_and_of_commands() {
    scenario(async |host| {
        let pod = PodSettings::new("many");
        let pod_id = host.run_pod(&pod).await?;
        let id = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("main"))
            .await?;
        let _echo = echo(host, &pod_id, "127.0.0.1:8001")?;
        let url = host.cri.port_forward_url(&pod_id, vec![]).await?;
        let cri = host.cri.clone();
        inside(host, async || {
            let forwarder = client::port_forward(&url, &Options::default()).await?;
            let mut open = Vec::new();
            for number in 0..500 {
                let mut one = forwarder.connect(8001)?;
                one.stream
                    .write_all(format!("{number:4}").as_bytes())
                    .await?;
                open.push(one);
            }
            for (number, one) in open.iter_mut().enumerate() {
                let mut echo = [0; 4];
                one.stream
                    .read_exact(&mut echo)
                    .await
                    .with_context(|| format!("connection {number}"))?;
                ensure!(echo == *format!("{number:4}").as_bytes());
            }
            drop(open);
            let mut running = JoinSet::new();
            for number in 0..200 {
                let (cri, id) = (cri.clone(), id.clone());
                running.spawn(async move {
                    let options = over(TRANSPORTS[number % 2]);
                    // A URL is good for a minute, which is not long where much else runs.
                    let word = number.to_string();
                    let url = cri.exec_url(&id, &["echo", &word], OUTPUT).await?;
                    let mut session = client::command(&url, &options, OUTPUT).await?;
                    ensure!(read(&mut session.stdout).await? == format!("{number}\n"));
                    ensure!(session.ending().await? == Ending::Success);
                    Ok(number)
                });
            }
            let mut done = BTreeSet::new();
            while let Some(number) = running.join_next().await {
                done.insert(number??);
            }
            ensure!(done.len() == 200);
            Ok(())
        })?;
        Ok(())
    });
}

#[test]
fn connections_end_with_their_pod() {
    scenario(async |host| {
        let pod = PodSettings::new("stopped");
        let pod_id = host.run_pod(&pod).await?;
        let settings = ContainerSettings::sh("main", "nc -ll -p 8001 -e cat");
        let id = host.run(&pod_id, &pod, &settings).await?;
        let listens = "until grep -q ':1F41 ' /proc/net/tcp /proc/net/tcp6; do sleep 0.02; done";
        host.cri.sh(&id, listens).await?;
        let url = host.cri.port_forward_url(&pod_id, vec![]).await?;
        let cri = host.cri.clone();
        inside(host, async || {
            let forwarder = client::port_forward(&url, &Options::default()).await?;
            let mut one = forwarder.connect(8001)?;
            one.stream.write_all(b"x").await?;
            one.stream.read_u8().await?;
            cri.stop_pod(&pod_id).await?;
            let words = one.failure().await?.context("words")?;
            ensure!(words.contains("8001"), "{words}");
            let mut late = forwarder.connect(8001)?;
            ensure!(late.failure().await?.is_some());
            let refused = cri.port_forward_url(&pod_id, vec![]).await;
            ensure!(refused.err().map(|status| status.code()) == Some(Code::FailedPrecondition));
            Ok(())
        })
    });
}

#[test]
fn what_makes_no_sense_is_refused_at_once() {
    scenario(async |host| {
        let (pod_id, id) = sleeper(host, "refusals").await?;
        let nothing = Streams::default();
        let both = Streams {
            stderr: true,
            ..TERMINAL
        };
        let (cri, echo) = (&host.cri, ["echo"]);
        for (answer, code) in [
            (cri.exec_url(&id, &[], OUTPUT).await, Code::InvalidArgument),
            (
                cri.exec_url(&id, &echo, nothing).await,
                Code::InvalidArgument,
            ),
            (cri.exec_url(&id, &echo, both).await, Code::InvalidArgument),
            (cri.exec_url("0123", &echo, OUTPUT).await, Code::NotFound),
            (cri.attach_url(&id, nothing).await, Code::InvalidArgument),
            (cri.attach_url(&id, both).await, Code::InvalidArgument),
            (cri.attach_url("0123", OUTPUT).await, Code::NotFound),
            (cri.port_forward_url("0123", vec![]).await, Code::NotFound),
            (
                cri.port_forward_url(&pod_id, vec![80, 0]).await,
                Code::InvalidArgument,
            ),
            (
                cri.port_forward_url(&pod_id, vec![65536]).await,
                Code::InvalidArgument,
            ),
            (
                cri.port_forward_url(&pod_id, vec![-1]).await,
                Code::InvalidArgument,
            ),
        ] {
            assert_eq!(
                answer.as_ref().map_err(tonic::Status::code),
                Err(code),
                "{answer:?}"
            );
        }
        cri.stop(&id, 0).await?;
        for answer in [
            cri.exec_url(&id, &echo, OUTPUT).await,
            cri.attach_url(&id, OUTPUT).await,
        ] {
            assert_eq!(answer.unwrap_err().code(), Code::FailedPrecondition);
        }
        Ok(())
    });
}

#[test]
fn a_sync_execs_caller_that_goes_ends_it() {
    scenario(async |host| {
        let (_, id) = sleeper(host, "cancelled").await?;
        {
            let command = ["sh", "-c", "setsid sleep 6543 & sleep 6543"];
            let running = host.cri.exec(&id, &command, 0);
            tokio::pin!(running);
            // Long enough to begin; polled until then.
            let mut seen = false;
            while !seen {
                let pause = tokio::time::sleep(Duration::from_millis(50));
                tokio::select! {
                    ended = &mut running => anyhow::bail!("{ended:?}"),
                    () = pause => {}
                }
                let processes = host.sandbox.processes();
                seen = processes
                    .iter()
                    .any(|process| process.args.iter().any(|arg| arg == "6543"));
            }
        }
        ensure!(processes_come(host, "6543", false), "it runs on");
        Ok(())
    });
}

#[test]
fn the_command_line_passes_streams_and_exit_codes_on() {
    scenario(async |host| {
        let (_, id) = sleeper(host, "cli").await?;
        let socket = "unix:///run/longshore/longshore.sock";
        for transport in ["spdy", "websocket"] {
            let mut command = host.sandbox.command(binary("longshore")?);
            command.args(["-r", socket, "exec", "-i", "--transport", transport, &id]);
            command.args(["sh", "-c", "cat; echo err >&2; exit 9"]);
            command.stdin(std::process::Stdio::piped());
            command.stdout(std::process::Stdio::piped());
            command.stderr(std::process::Stdio::piped());
            let mut child = command.spawn()?;
            let mut stdin = child.stdin.take().context("a pipe")?;
            std::io::Write::write_all(&mut stdin, b"typed")?;
            // WebSocket's end of it is only as good as v5 makes it.
            drop(stdin);
            let output = child.wait_with_output()?;
            let words =
                [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
            assert_eq!(words, ["typed", "err\n"], "{transport}");
            assert_eq!(output.status.code(), Some(9));
        }
        Ok(())
    });
}
