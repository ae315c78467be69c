//! `longshore attach` and `longshore port-forward` where no terminal is: files, pipes and local ports.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use cri::v1::{ContainerState, NamespaceMode};
use e2e::{ContainerSettings, Host, PodSettings, scenario};
use testkit::{daemon::binary, sandbox::poll};

use crate::streams::echo;

pub(super) const SOCKET: &str = "unix:///run/longshore/longshore.sock";

pub(super) const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];

/// Against commands that hang.
const GUARD: Duration = Duration::from_secs(60);

/// A command of ours that runs, and what it says.
pub(super) struct Command {
    child: Child,
    out: PathBuf,
    err: PathBuf,
    /// An argument that no other has.
    mark: String,
}

impl Command {
    /// Its output goes to files of this name.
    pub(super) fn start(
        host: &Host,
        name: &str,
        words: &[&str],
        input: Stdio,
    ) -> anyhow::Result<Self> {
        let out = host.sandbox.directory().join(format!("{name}.out"));
        let to = Stdio::from(File::create(&out)?);
        Self::start_to(host, name, words, input, to, out)
    }

    fn start_to(
        host: &Host,
        name: &str,
        words: &[&str],
        input: Stdio,
        output: Stdio,
        out: PathBuf,
    ) -> anyhow::Result<Self> {
        let err = host.sandbox.directory().join(format!("{name}.err"));
        let mut command = host.sandbox.command("env");
        let mark = format!("MARK={name}");
        command.arg(&mark).arg(binary("longshore")?);
        command.args(["-r", SOCKET]).args(words);
        let child = command
            .stdin(input)
            .stdout(output)
            .stderr(File::create(&err)?)
            .spawn()?;
        Ok(Self {
            child,
            out,
            err,
            mark,
        })
    }

    fn said(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(&self.out)?)
    }

    fn complained(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(&self.err)?)
    }

    /// Waits for words in its output, and returns all of it.
    pub(super) fn says(&self, words: &str) -> anyhow::Result<String> {
        let said = poll(GUARD, || {
            self.said().ok().filter(|said| said.contains(words))
        });
        said.with_context(|| {
            let (out, err) = (self.said(), self.complained());
            format!("it does not say {words:?}, but {out:?} and {err:?}")
        })
    }

    pub(super) fn types(&mut self, words: &str) -> anyhow::Result<()> {
        let keys = self.child.stdin.as_mut().context("a pipe")?;
        Ok(keys.write_all(words.as_bytes())?)
    }

    /// Ends its input, and waits for its end, which is a good one.
    pub(super) fn leaves(&mut self) -> anyhow::Result<()> {
        drop(self.child.stdin.take());
        let status = self.ends()?;
        ensure!(status.success(), "{status}: {}", self.complained()?);
        Ok(())
    }

    fn complains(&self, words: &str) -> anyhow::Result<String> {
        let said = poll(GUARD, || {
            self.complained().ok().filter(|said| said.contains(words))
        });
        said.with_context(|| format!("no complaint of {words:?}: {:?}", self.complained()))
    }

    pub(super) fn signal(&self, host: &Host, signal: &str) -> anyhow::Result<()> {
        let of = |pid: u32| fs::read(host.sandbox.view(format!("/proc/{pid}/environ")));
        let processes = host.sandbox.processes();
        let ours = processes.iter().find(|one| {
            let environment = of(one.pid).unwrap_or_default();
            let mut variables = environment.split(|byte| *byte == 0);
            one.name == "longshore" && variables.any(|one| one == self.mark.as_bytes())
        });
        host.sandbox
            .kill(signal, &[ours.context("it does not run")?.pid])
    }

    pub(super) fn ends(&mut self) -> anyhow::Result<ExitStatus> {
        let ended = poll(GUARD, || self.child.try_wait().transpose());
        Ok(ended.with_context(|| format!("it does not end: {:?}", self.complained()))??)
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _gone = self.child.kill();
        }
        let _reaped = self.child.wait();
    }
}

async fn still_runs(host: &Host, id: &str) -> anyhow::Result<bool> {
    let status = host.cri.container_status(id).await?;
    Ok(status.state() == ContainerState::ContainerRunning)
}

#[test]
fn attached_clients_hear_the_same_and_leave_the_container_alone() {
    scenario(async |host| {
        let pod = PodSettings::new("heard");
        let pod_id = host.run_pod(&pod).await?;
        let script = "echo before; while read word; do echo \"<$word>\"; echo \"$word\" >&2; done";
        let settings = ContainerSettings::sh("main", script).edited(|config| config.stdin = true);
        let id = host.run(&pod_id, &pod, &settings).await?;
        host.until_logged(&pod, &settings, "before").await?;
        for transport in TRANSPORTS {
            let listen = ["attach", "--transport", transport, &id];
            let mut listeners = Vec::new();
            for number in 0..20 {
                let name = format!("{transport}-{number}");
                listeners.push(Command::start(host, &name, &listen, Stdio::null())?);
            }
            let type_ = ["attach", "-i", "--transport", transport, &id];
            let mut typist = Command::start(host, "typist", &type_, Stdio::piped())?;
            let mut keys = typist.child.stdin.take().context("a pipe")?;
            // Each listens from some moment on.
            let end = std::time::Instant::now() + GUARD;
            loop {
                keys.write_all(b"hello\n")?;
                let hears = |one: &Command| {
                    let said = one.said().unwrap_or_default();
                    said.contains("<hello>")
                        && one.complained().unwrap_or_default().contains("hello")
                };
                if listeners.iter().all(hears) {
                    break;
                }
                ensure!(std::time::Instant::now() < end, "they do not all listen");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            // One is killed, one interrupted; the others hear the rest.
            listeners[0].signal(host, "KILL")?;
            listeners[1].signal(host, "INT")?;
            assert_eq!(listeners[1].ends()?.code(), Some(130));
            keys.write_all(b"goodbye\n")?;
            for listener in &listeners[2..] {
                let said = listener.says("<goodbye>\n")?;
                // Nothing from before it came.
                ensure!(!said.contains("before"), "{said}");
            }
            // The end of the typist's input is its own end, and nobody else's.
            drop(keys);
            assert_eq!(typist.ends()?.code(), Some(0));
            ensure!(typist.said()?.ends_with("<goodbye>\n"));
            ensure!(still_runs(host, &id).await?);
            for listener in &mut listeners[2..] {
                ensure!(listener.child.try_wait()?.is_none(), "it has ended");
            }
        }
        // The container's end is everybody's.
        let mut last = Command::start(host, "last", &["attach", &id], Stdio::null())?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        host.cri.stop(&id, 0).await?;
        let status = last.ends()?;
        ensure!(
            status.code() == Some(0) || last.complained()?.contains("not running"),
            "{status}: {}",
            last.complained()?
        );
        Ok(())
    });
}

#[test]
fn the_end_of_the_first_input_ends_that_of_a_container_that_has_it_once() {
    scenario(async |host| {
        let pod = PodSettings::new("once");
        let pod_id = host.run_pod(&pod).await?;
        for transport in TRANSPORTS {
            let settings =
                ContainerSettings::sh(transport, "cat; echo end; exit 4").edited(|config| {
                    config.stdin = true;
                    config.stdin_once = true;
                });
            let id = host.run(&pod_id, &pod, &settings).await?;
            let words = ["attach", "-i", "--transport", transport, &id];
            let mut attach = Command::start(host, transport, &words, Stdio::piped())?;
            let mut keys = attach.child.stdin.take().context("a pipe")?;
            keys.write_all(b"typed\n")?;
            attach.says("typed\n")?;
            drop(keys);
            // It stays, and hears what comes after.
            assert_eq!(attach.ends()?.code(), Some(0), "{}", attach.complained()?);
            ensure!(attach.said()? == "typed\nend\n");
            ensure!(host.until_exited(&id).await?.exit_code == 4);
        }
        Ok(())
    });
}

#[test]
fn a_client_that_lags_is_let_go_with_a_reason() {
    scenario(async |host| {
        let pod = PodSettings::new("lags");
        let pod_id = host.run_pod(&pod).await?;
        for transport in TRANSPORTS {
            let script = "read go; head -c 60000000 /dev/zero; echo; echo through; read more";
            let settings =
                ContainerSettings::sh(transport, script).edited(|config| config.stdin = true);
            let id = host.run(&pod_id, &pod, &settings).await?;
            let words = ["attach", "-i", "--transport", transport, &id];
            let none = PathBuf::from("/dev/null");
            let (piped, output) = (Stdio::piped(), Stdio::piped());
            let mut attach = Command::start_to(host, transport, &words, piped, output, none)?;
            let mut keys = attach.child.stdin.take().context("a pipe")?;
            let mut output = attach.child.stdout.take().context("a pipe")?;
            keys.write_all(b"go\n")?;
            // Nobody reads what our client shows; the container gets through all the same.
            let path = host.log_path(&pod, &settings);
            let through = poll(GUARD, || {
                fs::read(&path).ok()?.ends_with(b" through\n").then_some(())
            });
            through.context("the container is held up")?;
            let mut some = Vec::new();
            output.read_to_end(&mut some)?;
            ensure!(some.len() < 60_000_000, "it got everything");
            assert_eq!(attach.ends()?.code(), Some(1));
            attach.complains("has fallen too far behind its output")?;
            ensure!(still_runs(host, &id).await?);
        }
        Ok(())
    });
}

/// The local ports that were opened for these of the pod: what is said of each is a line for 127.0.0.1 and one for [::1].
pub(super) fn forwarding(command: &Command, remotes: &[u16]) -> anyhow::Result<Vec<u16>> {
    let mut locals = Vec::new();
    for remote in remotes {
        let of = |said: &str, address: &str| {
            let mut lines = said.lines();
            let prefix = format!("Forwarding from {address}:");
            lines.find_map(|line| {
                let (port, to) = line.strip_prefix(&prefix)?.split_once(" -> ")?;
                (to == remote.to_string()).then(|| port.parse::<u16>().ok())?
            })
        };
        let both = poll(GUARD, || {
            let said = command.said().ok()?;
            Some((of(&said, "127.0.0.1")?, of(&said, "[::1]")?))
        });
        let (four, six) = both.with_context(|| format!("{:?}", command.complained()))?;
        ensure!(four == six && four != 0, "{four} and {six}");
        locals.push(four);
    }
    Ok(locals)
}

pub(super) const LOOPBACKS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

fn connect(host: &Host, address: IpAddr, port: u16) -> anyhow::Result<TcpStream> {
    let socket = host
        .sandbox
        .on_network(|| TcpStream::connect(SocketAddr::new(address, port)))??;
    socket.set_read_timeout(Some(GUARD))?;
    Ok(socket)
}

pub(super) fn echoes(host: &Host, address: IpAddr, port: u16) -> anyhow::Result<()> {
    let mut socket = connect(host, address, port)?;
    socket.write_all(b"through and back")?;
    socket.shutdown(std::net::Shutdown::Write)?;
    let mut back = String::new();
    socket.read_to_string(&mut back)?;
    ensure!(back == "through and back", "{back:?}");
    Ok(())
}

#[test]
fn local_ports_lead_to_both_loopbacks_of_a_pod() {
    scenario(async |host| {
        let pod = PodSettings::new("forwarded");
        let pod_id = host.run_pod(&pod).await?;
        let _both = [
            echo(host, &pod_id, "127.0.0.1:8001")?,
            echo(host, &pod_id, "[::1]:8002")?,
        ];
        for transport in TRANSPORTS {
            // Two of the kernel's choice, one that is the same as the pod's, and one where nobody listens.
            let words = ["port-forward", "--transport", transport, &pod_id];
            let words = [&words[..], &[":8001", "0:8002", "8002", ":8009"]].concat();
            let mut command = Command::start(host, transport, &words, Stdio::null())?;
            let locals = forwarding(&command, &[8001, 8009])?;
            let said = command.said()?;
            ensure!(
                said.contains("Forwarding from 127.0.0.1:8002 -> 8002\n"),
                "{said}"
            );
            let others: Vec<u16> = said
                .lines()
                .filter_map(|line| {
                    line.strip_prefix("Forwarding from [::1]:")?
                        .strip_suffix(" -> 8002")
                })
                .filter_map(|port| port.parse().ok())
                .collect();
            ensure!(others.len() == 2, "{said}");
            for address in LOOPBACKS {
                echoes(host, address, locals[0])?;
                for port in &others {
                    echoes(host, address, *port)?;
                }
            }
            // One that nobody reads, one that is dropped, and one that is refused hinder no other.
            let mut stalled = connect(host, LOOPBACKS[0], locals[0])?;
            stalled.set_write_timeout(Some(Duration::from_millis(300)))?;
            while stalled.write_all(&[b'x'; 100_000]).is_ok() {}
            drop(connect(host, LOOPBACKS[0], locals[0])?);
            let mut refused = connect(host, LOOPBACKS[0], locals[1])?;
            let end = refused.read(&mut [0]);
            ensure!(
                matches!(&end, Ok(0))
                    || end
                        .as_ref()
                        .is_err_and(|e| e.kind() == ErrorKind::ConnectionReset),
                "a refused connection stays open: {end:?}"
            );
            let words = command.complains("8009")?;
            let expected = format!("an error occurred forwarding {} -> 8009: ", locals[1]);
            ensure!(words.contains(&expected), "{words}");
            ensure!(words.to_lowercase().contains("refused"), "{words}");
            echoes(host, LOOPBACKS[1], locals[0])?;
            drop(stalled);
            command.signal(host, "INT")?;
            assert_eq!(command.ends()?.code(), Some(0), "{}", command.complained()?);
            let gone = host
                .sandbox
                .on_network(|| TcpStream::connect((LOOPBACKS[0], locals[0])))?;
            ensure!(gone.is_err(), "the local port is open still");
        }
        Ok(())
    });
}

#[test]
fn forwarding_ends_with_its_pod_and_with_the_daemon() {
    scenario(async |host| {
        let pod = PodSettings::new("ended");
        let pod_id = host.run_pod(&pod).await?;
        let server = echo(host, &pod_id, "127.0.0.1:8001")?;
        for transport in TRANSPORTS {
            let words = ["port-forward", "--transport", transport, &pod_id, ":8001"];
            let mut command = Command::start(host, transport, &words, Stdio::null())?;
            let locals = forwarding(&command, &[8001])?;
            let mut open = connect(host, LOOPBACKS[0], locals[0])?;
            open.write_all(b"x")?;
            open.read_exact(&mut [0])?;
            host.restart_daemon().await?;
            assert_eq!(command.ends()?.code(), Some(1));
            command.complains("lost the connection to the runtime")?;
            let end = open.read(&mut [0]);
            ensure!(!matches!(end, Ok(1..)), "{end:?}");
        }
        let words = ["port-forward", &pod_id, ":8001"];
        let mut command = Command::start(host, "stopped", &words, Stdio::null())?;
        let locals = forwarding(&command, &[8001])?;
        let mut open = connect(host, LOOPBACKS[0], locals[0])?;
        open.write_all(b"x")?;
        open.read_exact(&mut [0])?;
        drop(server);
        host.cri.stop_pod(&pod_id).await?;
        let end = open.read(&mut [0]);
        ensure!(!matches!(end, Ok(1..)), "{end:?}");
        command.signal(host, "INT")?;
        assert_eq!(command.ends()?.code(), Some(0));
        // No pod, no ports.
        let mut late = Command::start(host, "late", &words, Stdio::null())?;
        assert_eq!(late.ends()?.code(), Some(1));
        late.complains("FAILED_PRECONDITION")?;
        Ok(())
    });
}

#[test]
fn ports_of_a_pod_on_the_nodes_network_are_the_nodes() {
    scenario(async |host| {
        let pod = PodSettings::edited("node", |config| {
            let linux = config.linux.get_or_insert_default();
            let security = linux.security_context.get_or_insert_default();
            let options = security.namespace_options.get_or_insert_default();
            options.network = NamespaceMode::Node.into();
        });
        let pod_id = host.run_pod(&pod).await?;
        for transport in TRANSPORTS {
            for address in LOOPBACKS {
                let server = host
                    .sandbox
                    .on_network(|| std::net::TcpListener::bind((address, 0)))??;
                let port = server.local_addr()?.port();
                let wanted = format!(":{port}");
                let words = ["port-forward", "--transport", transport, &pod_id, &wanted];
                let mut command = Command::start(host, transport, &words, Stdio::null())?;
                let locals = forwarding(&command, &[port])?;
                let mut socket = connect(host, LOOPBACKS[0], locals[0])?;
                socket.write_all(b"ping")?;
                let (mut served, _) = server.accept()?;
                served.read_exact(&mut [0; 4])?;
                served.write_all(b"pong")?;
                drop(served);
                let mut back = String::new();
                socket.read_to_string(&mut back)?;
                assert_eq!(back, "pong", "{transport}");
                command.signal(host, "INT")?;
                assert_eq!(command.ends()?.code(), Some(0));
            }
        }
        Ok(())
    });
}
