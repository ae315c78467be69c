//! The same by upstream's crictl, where it is: at `LONGSHORE_CRICTL`, or in the path.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use e2e::{ContainerSettings, Host, PodSettings, long_scenario, scenario};
use rustix::net::sockopt::set_socket_linger;
use testkit::sandbox::poll;

use crate::streams::echo;

/// Against connections that hang.
const GUARD: Duration = Duration::from_secs(60);

pub(super) fn crictl() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("LONGSHORE_CRICTL") {
        return Ok(path.into());
    }
    let path = std::env::var_os("PATH").context("there is no PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join("crictl"))
        .find(|file| file.is_file())
        .context("no crictl: set LONGSHORE_CRICTL to its path")
}

fn command(host: &Host, words: &[&str]) -> anyhow::Result<Command> {
    let socket = "unix:///run/longshore/longshore.sock";
    let mut command = host.sandbox.command(crictl()?);
    command.args(["-c", "/dev/null", "-r", socket, "-i", socket]);
    command.args(words);
    Ok(command)
}

fn run(host: &Host, words: &[&str], input: &str) -> anyhow::Result<Output> {
    fed(command(host, words)?, input)
}

/// Runs a command with this input.
pub(super) fn fed(mut command: Command, input: &str) -> anyhow::Result<Output> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().context("a pipe")?;
    stdin.write_all(input.as_bytes())?;
    drop(stdin);
    Ok(child.wait_with_output()?)
}

#[test]
#[ignore = "needs upstream's crictl (LONGSHORE_CRICTL)"]
fn crictl_execs_and_attaches_over_both_transports() {
    scenario(async |host| {
        let pod = PodSettings::new("crictl");
        let pod_id = host.run_pod(&pod).await?;
        let main = ContainerSettings::sleeper("main");
        let id = host.run(&pod_id, &pod, &main).await?;
        for transport in ["spdy", "websocket"] {
            let words = ["exec", "-r", transport, "-i", &id, "cat"];
            let output = run(host, &words, "typed")?;
            ensure!(output.stdout == b"typed", "{transport}: {output:?}");
            ensure!(output.status.success(), "{transport}: {output:?}");
            let words = [
                "exec",
                "-r",
                transport,
                &id,
                "sh",
                "-c",
                "echo x >&2; exit 3",
            ];
            let output = run(host, &words, "")?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(said.contains("exit code 3"), "{transport}: {said}");
            ensure!(output.status.code() == Some(1), "{transport}: {said}");

            let name = format!("shell-{transport}");
            let shell = ContainerSettings::new(&name, ["sh"]).edited(|config| {
                config.stdin = true;
                config.stdin_once = true;
            });
            let shell_id = host.run(&pod_id, &pod, &shell).await?;
            let words = ["attach", "-r", transport, "-i", &shell_id];
            let output = run(host, &words, "echo hello\n")?;
            ensure!(output.stdout == b"hello\n", "{transport}: {output:?}");
            host.until_exited(&shell_id).await?;
        }
        Ok(())
    });
}

/// Ends with the test.
struct Forwarder(Child);

impl Drop for Forwarder {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn connect(host: &Host, port: u16) -> anyhow::Result<TcpStream> {
    let connected = poll(GUARD, || {
        host.sandbox
            .on_network(|| TcpStream::connect(("127.0.0.1", port)))
            .ok()?
            .ok()
    });
    let socket = connected.with_context(|| format!("nobody listens on {port}"))?;
    socket.set_read_timeout(Some(GUARD))?;
    socket.set_write_timeout(Some(GUARD))?;
    Ok(socket)
}

/// Local ports that a client forwards.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peers {
    /// To one that says back what it is told.
    pub(super) echo: u16,
    /// To one that never reads.
    pub(super) deaf: u16,
}

/// With one peer stalled, one reset and one half-closed on the same connection, all others progress: whatever program it is that forwards.
pub(super) async fn all_others_progress(
    host: &Host,
    mut forwarder: Command,
    program: &str,
    peers: Peers,
) -> anyhow::Result<()> {
    let mut forwarder = Forwarder(forwarder.spawn()?);
    let Peers { echo, deaf } = peers;
    let mut half = connect(host, echo)?;
    half.write_all(b"before")?;
    half.shutdown(Shutdown::Write)?;
    let mut reset = connect(host, echo)?;
    reset.write_all(b"x")?;
    reset.read_exact(&mut [0])?;
    set_socket_linger(&reset, Some(Duration::ZERO))?;
    drop(reset);
    let mut stalled = connect(host, deaf)?;
    let stuffing = std::thread::spawn(move || {
        let mut sent = 0;
        while sent < 256 << 20 && stalled.write_all(&[b'x'; 1 << 16]).is_ok() {
            sent += 1 << 16;
        }
        sent
    });
    let words = vec![b'y'; 50_000];
    for round in 0..40 {
        let mut other = connect(host, echo)?;
        other.write_all(&words)?;
        other.shutdown(Shutdown::Write)?;
        let mut back = Vec::new();
        other.read_to_end(&mut back)?;
        ensure!(back == words, "{round}: {}", back.len());
    }
    let mut back = Vec::new();
    half.read_to_end(&mut back)?;
    ensure!(back == b"before", "{back:?}");
    ensure!(forwarder.0.try_wait()?.is_none(), "it has ended");
    let sent = tokio::task::spawn_blocking(|| stuffing.join()).await?;
    let sent = sent.map_err(|_| anyhow::anyhow!("the stalled one"))?;
    ensure!(sent < 256 << 20, "somebody read it");
    let processes = host.sandbox.processes();
    let ours = processes.iter().filter(|one| one.name.starts_with(program));
    let ours: Vec<u32> = ours.map(|one| one.pid).collect();
    host.sandbox.kill("KILL", &ours)?;
    let ended = poll(GUARD, || forwarder.0.try_wait().transpose());
    ended.context("it does not end")??;
    Ok(())
}

#[test]
#[ignore = "needs upstream's crictl (LONGSHORE_CRICTL)"]
fn crictl_forwards_past_peers_that_stall_reset_and_half_close() {
    long_scenario(Duration::from_secs(240), async |host| {
        let pod = PodSettings::new("crictl");
        let pod_id = host.run_pod(&pod).await?;
        let _echo = echo(host, &pod_id, "127.0.0.1:8001")?;
        // It is connected to, and never read from.
        let name = format!("/run/netns/longshore-{pod_id}");
        let _deaf = host
            .sandbox
            .on_pinned_network(&name, || TcpListener::bind("127.0.0.1:8004"))??;
        for (transport, local) in [("spdy", 9000), ("websocket", 9100)] {
            let (echo, deaf) = (local + 1, local + 4);
            let ports = [format!("{echo}:8001"), format!("{deaf}:8004")];
            let words = [
                "port-forward",
                "-r",
                transport,
                &pod_id,
                &ports[0],
                &ports[1],
            ];
            let mut forwarder = command(host, &words)?;
            forwarder.stdout(Stdio::null()).stderr(Stdio::null());
            all_others_progress(host, forwarder, "crictl", Peers { echo, deaf })
                .await
                .context(transport)?;
        }
        Ok(())
    });
}
