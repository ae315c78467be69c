//! The pod network: the built-in bridge, host ports, and the host's own network.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::Context;
use cri::v1::{NamespaceMode, PodSandboxConfig, PortMapping, Protocol};
use e2e::{ContainerSettings, Host, PodSettings, scenario};

/// Answers every connection with a word.
const SERVER: &str = "echo up; while :; do echo hello | nc -l -p 8080; done";

#[test]
fn containers_of_a_pod_share_localhost() {
    scenario(async |host| {
        let pod = PodSettings::new("shared");
        let pod_id = host.run_pod(&pod).await?;
        let server = ContainerSettings::sh("server", SERVER);
        host.run(&pod_id, &pod, &server).await?;
        let client = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("client"))
            .await?;
        host.until_logged(&pod, &server, "up").await?;
        assert_eq!(ask(host, &client, "127.0.0.1", 8080).await?, "hello\n");
        Ok(())
    });
}

#[test]
fn pods_reach_each_other_and_the_node() {
    scenario(async |host| {
        let (one, two) = (PodSettings::new("one"), PodSettings::new("two"));
        let (one_id, two_id) = (host.run_pod(&one).await?, host.run_pod(&two).await?);
        let server = ContainerSettings::sh("server", SERVER);
        host.run(&one_id, &one, &server).await?;
        let client = host
            .run(&two_id, &two, &ContainerSettings::sleeper("client"))
            .await?;
        host.until_logged(&one, &server, "up").await?;
        let ip = host.cri.pod_ip(&one_id).await?;
        assert_eq!(ask(host, &client, &ip, 8080).await?, "hello\n");
        assert_ne!(ip, host.cri.pod_ip(&two_id).await?);
        // The node, too.
        assert_eq!(
            ask_from_node(host, format!("{ip}:8080").parse()?)?,
            "hello\n"
        );
        Ok(())
    });
}

#[test]
fn a_host_port_is_reached_from_everywhere() {
    scenario(async |host| {
        outside(host)?;
        let pod = PodSettings::edited("server", |config| {
            publish(config, 18080, 8080, "");
            publish(config, 18081, 8080, "127.0.0.1");
        });
        let pod_id = host.run_pod(&pod).await?;
        let settings = ContainerSettings::sh("server", SERVER);
        let server = host.run(&pod_id, &pod, &settings).await?;
        host.until_logged(&pod, &settings, "up").await?;
        let other = PodSettings::new("other");
        let other_id = host.run_pod(&other).await?;
        let client = host
            .run(&other_id, &other, &ContainerSettings::sleeper("client"))
            .await?;

        // From the node's loopback, by both mappings.
        for port in [18080, 18081] {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            assert_eq!(ask_from_node(host, address)?, "hello\n", "{port}");
        }
        // From outside, from another pod, and from the pod itself, by the node's address. A server that is between two connections resets a third.
        let word = host
            .sandbox
            .sh("for try in 1 2 3 4 5 6 7 8 9 10; do
                    word=$(ip netns exec outside timeout 10 bash -c 'cat < /dev/tcp/198.51.100.1/18080') || true
                    [ -n \"$word\" ] && break; sleep 0.2
                done; echo \"$word\"")?;
        assert_eq!(word, "hello\n");
        assert_eq!(ask(host, &client, "198.51.100.1", 18080).await?, "hello\n");
        assert_eq!(ask(host, &server, "198.51.100.1", 18080).await?, "hello\n");
        // A mapping of one address is not on the others.
        let refused = host
            .sandbox
            .sh("ip netns exec outside timeout 3 bash -c 'cat < /dev/tcp/198.51.100.1/18081'");
        assert!(refused.is_err());

        host.cri.remove_pod(&pod_id).await?;
        assert!(ask_from_node(host, SocketAddr::from(([127, 0, 0, 1], 18080))).is_err());
        host.cri.remove_pod(&other_id).await?;
        host.sandbox
            .sh("ip netns del outside; umount /run/netns 2>/dev/null || true")?;
        Ok(())
    });
}

#[test]
fn udp_and_ipv6_have_host_ports_too() {
    scenario(async |host| {
        let pod = PodSettings::edited("server", |config| {
            publish(config, 18053, 53, "");
            config.port_mappings[0].set_protocol(Protocol::Udp);
            publish(config, 18080, 8080, "");
        });
        let pod_id = host.run_pod(&pod).await?;
        let tcp = ContainerSettings::sh("tcp", SERVER);
        host.run(&pod_id, &pod, &tcp).await?;
        host.until_logged(&pod, &tcp, "up").await?;

        let pins = std::fs::read_dir(host.sandbox.view("/run/netns"))?;
        let pins: Vec<_> = pins
            .map(|pin| pin.map(|pin| pin.file_name()))
            .collect::<Result<_, _>>()?;
        assert_eq!(pins.len(), 1, "{pins:?}");
        let pin = std::path::Path::new("/run/netns").join(&pins[0]);
        // busybox has no server for datagrams.
        let server = host
            .sandbox
            .on_pinned_network(pin, || UdpSocket::bind("0.0.0.0:53"))??;
        let client = host
            .sandbox
            .on_network(|| UdpSocket::bind("127.0.0.1:0"))??;
        for socket in [&server, &client] {
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        }
        client.send_to(b"there", "127.0.0.1:18053")?;
        let mut datagram = [0; 16];
        let (length, from) = server.recv_from(&mut datagram)?;
        assert_eq!(&datagram[..length], b"there");
        server.send_to(b"and back", from)?;
        let (length, from) = client.recv_from(&mut datagram)?;
        assert_eq!(&datagram[..length], b"and back");
        assert_eq!(from.port(), 18053);
        drop(server);

        // An address of the node's, not loopback, for which there is no route_localnet.
        host.sandbox
            .sh("ip -6 addr add 2001:db8::1/128 dev lo nodad")?;
        assert_eq!(
            ask_from_node(host, "[2001:db8::1]:18080".parse()?)?,
            "hello\n"
        );
        host.sandbox.sh("ip -6 addr del 2001:db8::1/128 dev lo")?;
        Ok(())
    });
}

#[test]
fn pods_reach_the_outside_as_the_node() {
    scenario(async |host| {
        outside(host)?;
        let pod = PodSettings::new("out");
        let pod_id = host.run_pod(&pod).await?;
        let id = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("main"))
            .await?;
        // The outside knows no way back to pods: an answer proves that the node's address was taken.
        host.cri.sh(&id, "ping -c 1 -W 5 198.51.100.2").await?;
        host.cri.remove_pod(&pod_id).await?;
        host.sandbox
            .sh("ip netns del outside; umount /run/netns 2>/dev/null || true")?;
        Ok(())
    });
}

#[test]
fn a_pod_may_have_the_hosts_network() {
    scenario(async |host| {
        let pod = PodSettings::edited("on-host", |config| {
            let context = config.linux.get_or_insert_default();
            let options = context.security_context.get_or_insert_default();
            let options = options.namespace_options.get_or_insert_default();
            options.network = NamespaceMode::Node.into();
        });
        let pod_id = host.run_pod(&pod).await?;
        let settings = ContainerSettings::sleeper("main").edited(|config| {
            let context = config.linux.get_or_insert_default();
            let options = context.security_context.get_or_insert_default();
            let options = options.namespace_options.get_or_insert_default();
            options.network = NamespaceMode::Node.into();
        });
        let id = host.run(&pod_id, &pod, &settings).await?;
        let inside = host.cri.sh(&id, "readlink /proc/self/ns/net").await?;
        assert_eq!(inside, host.sandbox.sh("readlink /proc/self/ns/net")?);
        let status = host.cri.pod_status(&pod_id, false).await?.status.unwrap();
        let namespaces = status.linux.unwrap().namespaces.unwrap().options.unwrap();
        assert_eq!(namespaces.network(), NamespaceMode::Node);
        Ok(())
    });
}

#[test]
fn addresses_are_given_once_and_again() {
    scenario(async |host| {
        let mut seen = std::collections::BTreeSet::new();
        let mut pods = Vec::new();
        for number in 0..5 {
            let id = host
                .run_pod(&PodSettings::new(&format!("pod-{number}")))
                .await?;
            assert!(seen.insert(host.cri.pod_ip(&id).await?));
            pods.push(id);
        }
        host.restart_daemon().await?;
        let id = host.run_pod(&PodSettings::new("after")).await?;
        assert!(seen.insert(host.cri.pod_ip(&id).await?));
        Ok(())
    });
}

/// A network namespace `outside` at 198.51.100.2, linked to the node's 198.51.100.1.
fn outside(host: &Host) -> anyhow::Result<()> {
    host.sandbox.sh("ip netns add outside
         ip link add uplink type veth peer name eth0 netns outside
         ip addr add 198.51.100.1/24 dev uplink
         ip link set uplink up
         ip -n outside addr add 198.51.100.2/24 dev eth0
         ip -n outside link set eth0 up
         ip -n outside link set lo up")?;
    Ok(())
}

fn publish(config: &mut PodSandboxConfig, host_port: i32, container_port: i32, host_ip: &str) {
    config.port_mappings.push(PortMapping {
        protocol: Protocol::Tcp.into(),
        container_port,
        host_port,
        host_ip: host_ip.to_owned(),
    });
}

/// What a server says to a container. The one-shot server may be between two connections: ask again.
async fn ask(host: &Host, container: &str, ip: &str, port: u16) -> anyhow::Result<String> {
    let script = format!(
        "for n in 1 2 3 4 5 6 7 8 9 10; do nc -w 5 {ip} {port} </dev/null && exit; sleep 0.2; done; exit 1"
    );
    Ok(host.cri.sh(container, &script).await?)
}

fn ask_from_node(host: &Host, address: SocketAddr) -> anyhow::Result<String> {
    let asked = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let mut last = host.sandbox.on_network(asked)?;
    for _ in 0..10 {
        if last.as_ref().is_ok_and(|text| !text.is_empty()) {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
        last = host.sandbox.on_network(asked)?;
    }
    last.with_context(|| format!("ask {address} from the node"))
}
