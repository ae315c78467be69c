//! The same by upstream's kubectl: Debian's, or the one at `LONGSHORE_KUBECTL`. Between it and the runtime stands what an API server and a kubelet do
//! with a stream: they ask the runtime for a URL, and pass kubectl's own bytes on to it.

use std::{
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use e2e::{ContainerSettings, Cri, Host, PodSettings, Streams, long_scenario, scenario};
use serde_json::{Value, json};
use testkit::terminal::{LEADER, Terminal};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{
    streams::{echo, inside},
    streams_crictl::{Peers, all_others_progress, fed},
};

/// One pod with one container, behind an API.
#[derive(Clone)]
struct Cluster {
    cri: Cri,
    pod_id: String,
    container_id: String,
}

const POD: &str = "/api/v1/namespaces/default/pods/web";

impl Cluster {
    /// Serves for as long as its worker lives; where.
    async fn serve(self) -> anyhow::Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move {
            let mut clients = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let cluster = self.clone();
                clients.spawn(async move {
                    // What goes wrong, kubectl says.
                    let _outcome = cluster.answer(client).await;
                });
            }
        });
        Ok(format!("http://{address}"))
    }

    async fn answer(&self, mut client: TcpStream) -> anyhow::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await?);
        }
        let head = String::from_utf8(head)?;
        let (request, headers) = head.split_once("\r\n").context("a request")?;
        let mut words = request.split(' ');
        let (method, target) = (words.next(), words.next());
        let (method, target) = (method.context("a method")?, target.context("a path")?);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let Some(url) = self.session(path, query).await else {
            let (status, body) = object(path);
            let body = body.to_string();
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            return Ok(client.write_all(answer.as_bytes()).await?);
        };
        let url = url?;
        let (host, path) = url
            .strip_prefix("http://")
            .and_then(|rest| rest.split_once('/'))
            .context("a URL")?;
        let mut runtime = TcpStream::connect(host).await?;
        let request = format!("{method} /{path} HTTP/1.1\r\n{headers}");
        runtime.write_all(request.as_bytes()).await?;
        tokio::io::copy_bidirectional(&mut client, &mut runtime).await?;
        Ok(())
    }

    /// The runtime's URL for what the path asks for; `None` if that is no session.
    async fn session(&self, path: &str, query: &str) -> Option<anyhow::Result<String>> {
        let asked: Vec<(String, String)> = query.split('&').map(pair).collect();
        let has = |name: &str| asked.contains(&(name.to_owned(), "true".to_owned()));
        let streams = Streams {
            stdin: has("stdin"),
            stdout: has("stdout"),
            stderr: has("stderr"),
            tty: has("tty"),
        };
        let words = asked.iter().filter(|(name, _)| name == "command");
        let words: Vec<&str> = words.map(|(_, word)| word.as_str()).collect();
        let id = &self.container_id;
        let url = match path.strip_prefix(POD)? {
            "/exec" => self.cri.exec_url(id, &words, streams).await,
            "/attach" => self.cri.attach_url(id, streams).await,
            "/portforward" => self.cri.port_forward_url(&self.pod_id, vec![]).await,
            _ => return None,
        };
        Some(url.map_err(Into::into))
    }
}

/// What kubectl asks before it asks for a session.
fn object(path: &str) -> (&'static str, Value) {
    let found = match path {
        "/api" => json!({ "kind": "APIVersions", "versions": ["v1"] }),
        "/apis" => json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [] }),
        "/api/v1" => json!({
            "kind": "APIResourceList",
            "groupVersion": "v1",
            "resources": [{
                "name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod", "verbs": ["get"],
            }],
        }),
        POD => json!({
            "kind": "Pod",
            "apiVersion": "v1",
            "metadata": { "name": "web", "namespace": "default" },
            "spec": { "containers": [{ "name": "main", "image": "i", "stdin": true }] },
            "status": { "phase": "Running" },
        }),
        _ => {
            let status =
                json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404 });
            return ("404 Not Found", status);
        }
    };
    ("200 OK", found)
}

/// A name and a value of a query.
fn pair(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    let (mut plain, mut bytes) = (Vec::new(), value.bytes());
    while let Some(byte) = bytes.next() {
        let hex = |byte: Option<u8>| char::from(byte.unwrap_or(b'0')).to_digit(16);
        plain.push(match byte {
            b'+' => b' ',
            b'%' => {
                let (high, low) = (hex(bytes.next()), hex(bytes.next()));
                (high.unwrap_or_default() * 16 + low.unwrap_or_default()) as u8
            }
            byte => byte,
        });
    }
    (
        name.to_owned(),
        String::from_utf8_lossy(&plain).into_owned(),
    )
}

fn kubectl() -> PathBuf {
    std::env::var_os("LONGSHORE_KUBECTL").map_or_else(|| "/usr/bin/kubectl".into(), Into::into)
}

/// Its words, with `leader` before it where it is to have a terminal.
fn command(host: &Host, leader: &[&str], server: &str, words: &[&str]) -> Command {
    let home = host.sandbox.directory().join("home");
    let program = kubectl();
    let mut command = match leader {
        [] => host.sandbox.command(program),
        [first, more @ ..] => {
            let mut command = host.sandbox.command(first);
            command.args(more).arg(program);
            command
        }
    };
    command
        .env("HOME", home)
        .args(["--kubeconfig", "/dev/null"]);
    command.args(["--server", server]).args(words);
    command
}

fn run(host: &Host, server: &str, words: &[&str], input: &str) -> anyhow::Result<Output> {
    fed(command(host, &[], server, words), input)
}

/// A container that says back what it is told, and the cluster that it is.
async fn cluster(host: &Host) -> anyhow::Result<Cluster> {
    let pod = PodSettings::new("kubectl");
    let pod_id = host.run_pod(&pod).await?;
    let script = "while read word; do echo \"<$word>\"; done";
    let settings = ContainerSettings::sh("main", script).edited(|config| config.stdin = true);
    let container_id = host.run(&pod_id, &pod, &settings).await?;
    Ok(Cluster {
        cri: host.cri.clone(),
        pod_id,
        container_id,
    })
}

#[test]
fn kubectl_execs_and_attaches() {
    scenario(async |host| {
        let cluster = cluster(host).await?;
        inside(host, async || {
            let server = cluster.serve().await?;
            let output = run(host, &server, &["exec", "-i", "web", "--", "cat"], "typed")?;
            ensure!(output.stdout == b"typed", "{output:?}");
            ensure!(output.status.success(), "{output:?}");
            let script = "echo out; echo err >&2; exit 3";
            let output = run(
                host,
                &server,
                &["exec", "web", "--", "sh", "-c", script],
                "",
            )?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.stdout == b"out\n", "{output:?}");
            ensure!(said.starts_with("err\n"), "{said}");
            ensure!(said.contains("exit code 3"), "{said}");
            ensure!(output.status.code() == Some(3), "{output:?}");
            let output = run(host, &server, &["exec", "web", "--", "/no/such"], "")?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(said.contains("/no/such"), "{said}");
            let output = run(host, &server, &["exec", "web", "--", "seq", "100000"], "")?;
            let expected: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
            let all = output.stdout == expected.as_bytes();
            ensure!(all, "{} bytes", output.stdout.len());
            let output = run(host, &server, &["attach", "-i", "web"], "hello\n")?;
            ensure!(output.stdout == b"<hello>\n", "{output:?}");
            Ok(())
        })
    });
}

#[test]
fn kubectl_at_a_terminal() {
    scenario(async |host| {
        let cluster = cluster(host).await?;
        inside(host, async || {
            let server = cluster.serve().await?;
            let script = "stty -echo; echo ready; while read word; do stty size; done; exit 4";
            let words = ["exec", "-it", "web", "--", "sh", "-c", script];
            let mut terminal = Terminal::start(command(host, &LEADER, &server, &words), 30, 90)?;
            terminal.shows("ready\r\n")?;
            terminal.until_raw()?;
            for (rows, columns) in [(30, 90), (41, 77)] {
                terminal.resize(rows, columns)?;
                let size = format!("{rows} {columns}");
                loop {
                    terminal.types(b"\r")?;
                    if terminal.shows("\r\n")?.contains(&size) {
                        break;
                    }
                }
            }
            terminal.types(b"\x04")?;
            assert_eq!(terminal.ends()?.code(), Some(4));
            ensure!(terminal.is_as_before()?);
            Ok(())
        })
    });
}

/// With one peer stalled, one reset and one half-closed on the same connection, all others progress.
#[test]
fn kubectl_forwards_past_peers_that_stall_reset_and_half_close() {
    long_scenario(Duration::from_secs(240), async |host| {
        let cluster = cluster(host).await?;
        let name = format!("/run/netns/longshore-{}", cluster.pod_id);
        let _echo = echo(host, &cluster.pod_id, "127.0.0.1:8001")?;
        // It is connected to, and never read from.
        let _deaf = host
            .sandbox
            .on_pinned_network(&name, || std::net::TcpListener::bind("127.0.0.1:8004"))??;
        inside(host, async || {
            let server = cluster.serve().await?;
            let words = ["port-forward", "pod/web", "9001:8001", "9004:8004"];
            let mut forwarder = command(host, &[], &server, &words);
            forwarder.stdout(Stdio::null()).stderr(Stdio::null());
            let peers = Peers {
                echo: 9001,
                deaf: 9004,
            };
            all_others_progress(host, forwarder, "kubectl", peers).await
        })
    });
}
