//! What `[streaming]` bounds, and the node's own ports.

use std::{io::ErrorKind, net::TcpStream, time::Duration};

use anyhow::{Context, ensure};
use cri::v1::NamespaceMode;
use e2e::{ContainerSettings, PodSettings, scenario, scenario_with};
use streaming::client;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::streams::{ALL, TRANSPORTS, inside, over, processes_come, sleeper};

#[test]
fn a_client_whose_network_is_gone_loses_its_command() {
    scenario_with("[streaming]\nclient_timeout = \"3s\"", async |host| {
        let (_, id) = sleeper(host, "cut-off").await?;
        // One is silent, the other has output on its way.
        for (mark, script) in [("7651", "sleep 7651"), ("7652", "yes & sleep 7652")] {
            let url = host.cri.exec_url(&id, &["sh", "-c", script], ALL).await?;
            let port = url.split([':', '/']).nth(4).context("the URL has a port")?;
            let cut = format!(
                "nft add table inet cut; nft add chain inet cut in '{{ type filter hook input priority 0; }}'; \
                 nft add rule inet cut in tcp dport {port} drop; nft add rule inet cut in tcp sport {port} drop"
            );
            inside(host, async || {
                let _session = client::command(&url, &over(TRANSPORTS[0]), ALL).await?;
                ensure!(
                    processes_come(host, mark, true),
                    "{script}: it does not run"
                );
                host.sandbox.sh(&cut)?;
                ensure!(processes_come(host, mark, false), "{script}: it runs on");
                Ok(())
            })?;
            host.sandbox.sh("nft delete table inet cut")?;
        }
        Ok(())
    });
}

#[test]
fn a_client_that_vanishes_behind_unread_input_loses_its_command() {
    scenario_with("[streaming]\nclient_timeout = \"3s\"", async |host| {
        let (_, id) = sleeper(host, "unread").await?;
        for transport in TRANSPORTS {
            let url = host.cri.exec_url(&id, &["sleep", "7654"], ALL).await?;
            inside(host, async || {
                let mut session = client::command(&url, &over(transport), ALL).await?;
                let stdin = session.stdin.as_mut().context("there is no stdin")?;
                let stuffing = async { while stdin.write_all(&[b'x'; 60_000]).await.is_ok() {} };
                let bound = Duration::from_millis(500);
                ensure!(
                    tokio::time::timeout(bound, stuffing).await.is_err(),
                    "it is read"
                );
                ensure!(processes_come(host, "7654", true), "it does not run");
                // The connection is closed where it stands, with the event loop that drives it.
                std::mem::forget(session);
                Ok(())
            })?;
            ensure!(processes_come(host, "7654", false), "it runs on");
        }
        Ok(())
    });
}

#[test]
fn clients_that_dawdle_or_idle_are_let_go() {
    let settings = "[streaming]\ncreation_timeout = \"1s\"\nidle_timeout = \"2s\"";
    scenario_with(settings, async |host| {
        let (_, id) = sleeper(host, "dawdle").await?;
        for transport in TRANSPORTS {
            let url = host.cri.exec_url(&id, &["sleep", "7653"], ALL).await?;
            let address = url.split('/').nth(2).context("the URL has an address")?;
            inside(host, async || {
                // Says nothing at all: the server hangs up.
                let socket = TcpStream::connect(address)?;
                socket.set_read_timeout(Some(Duration::from_secs(20)))?;
                let said = std::io::Read::read(&mut &socket, &mut [0]);
                ensure!(
                    matches!(&said, Ok(0))
                        || said
                            .as_ref()
                            .is_err_and(|e| e.kind() == ErrorKind::ConnectionReset),
                    "{said:?}"
                );
                let mut session = client::command(&url, &over(transport), ALL).await?;
                let ending = tokio::time::timeout(Duration::from_secs(20), session.ending()).await;
                ensure!(ending.is_ok(), "{transport:?}: an idle session goes on");
                Ok(())
            })?;
            ensure!(processes_come(host, "7653", false), "its command runs on");
        }
        Ok(())
    });
}

#[test]
fn a_pod_on_the_nodes_network_forwards_the_nodes_ports() {
    scenario(async |host| {
        let pod = PodSettings::edited("node", |config| {
            let linux = config.linux.get_or_insert_default();
            let security = linux.security_context.get_or_insert_default();
            let options = security.namespace_options.get_or_insert_default();
            options.network = NamespaceMode::Node.into();
        });
        let pod_id = host.run_pod(&pod).await?;
        host.run(&pod_id, &pod, &ContainerSettings::sleeper("main"))
            .await?;
        for transport in TRANSPORTS {
            let server = host
                .sandbox
                .on_network(|| std::net::TcpListener::bind("127.0.0.1:0"))??;
            let port = server.local_addr()?.port();
            let url = host
                .cri
                .port_forward_url(&pod_id, vec![port.into()])
                .await?;
            let said = inside(host, async || {
                let forwarder = client::port_forward(&url, &over(transport)).await?;
                let mut forwarded = forwarder.connect(port)?;
                forwarded.stream.write_all(b"ping").await?;
                let (mut socket, _) = server.accept()?;
                std::io::Read::read_exact(&mut socket, &mut [0; 4])?;
                std::io::Write::write_all(&mut socket, b"pong")?;
                drop(socket);
                let mut said = String::new();
                forwarded.stream.read_to_string(&mut said).await?;
                Ok(said)
            })?;
            assert_eq!(said, "pong", "{transport:?}");
        }
        Ok(())
    });
}

/// The address and the port that are configured, and the name by which clients know them.
#[test]
fn urls_lead_where_the_configuration_says() {
    for (settings, base) in [
        (
            "address = \"::1\"\nport = 10350",
            "http://[::1]:10350/exec/",
        ),
        (
            "address = \"0.0.0.0\"\nport = 10350\nadvertise = \"127.0.0.9\"",
            "http://127.0.0.9:10350/exec/",
        ),
        (
            "address = \"::\"\nport = 10350\nadvertise = \"localhost:10350\"",
            "http://localhost:10350/exec/",
        ),
    ] {
        scenario_with(&format!("[streaming]\n{settings}"), async |host| {
            let (_, id) = sleeper(host, "configured").await?;
            for transport in TRANSPORTS {
                let url = host.cri.exec_url(&id, &["cat"], ALL).await?;
                ensure!(url.starts_with(base), "{url}");
                inside(host, async || {
                    let mut session = client::command(&url, &over(transport), ALL).await?;
                    let mut stdin = session.stdin.take().context("there is no stdin")?;
                    stdin.write_all(b"there and back").await?;
                    stdin.shutdown().await?;
                    let mut said = String::new();
                    let stdout = session.stdout.as_mut().context("there is no stdout")?;
                    stdout.read_to_string(&mut said).await?;
                    ensure!(said == "there and back", "{said}");
                    Ok(())
                })?;
            }
            Ok(())
        });
    }
}
