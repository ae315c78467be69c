use std::net::{IpAddr, Ipv4Addr};

use cri::v1::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::check::{
    case::{Case, Ended, Verdict, case, ensure, ensure_eq},
    scene::{Pod, Scene},
};

pub(super) const CASES: &[Case] = &[
    case!(
        "network",
        "a pod has an address of its own, which its status tells",
        address
    ),
    case!("network", "a pod on the host's network has none", host),
    case!("network", "a pod has its hostname", hostname),
    case!(
        "network",
        "a pod is reached from the node by its address",
        reached
    ),
    case!("network", "a pod is reached from another pod", pod_to_pod),
    case!("network", "a port of the node leads to the pod", host_port),
    case!(
        "network",
        "a port of the pod alone is reached by its address",
        container_port
    ),
    case!("network", "resolv.conf is as asked for", dns),
    case!("network", "the loopback device is up", loopback),
];

async fn serving(scene: &Scene<'_>, config: PodSandboxConfig, port: u16) -> Verdict<(Pod, String)> {
    let pod = scene.pod(config).await?;
    let script = format!(
        "mkdir -p /tmp/w; echo {} >/tmp/w/it; echo ready; exec httpd -f -p {port} -h /tmp/w",
        scene.name
    );
    let server = scene.script(&pod, "server", &script);
    scene.run(&pod, server.clone()).await?;
    scene.until_logged(&pod, &server, "ready").await?;
    let ip = ip(scene, &pod).await?;
    Ok((pod, ip))
}

async fn ip(scene: &Scene<'_>, pod: &Pod) -> Verdict<String> {
    let network = scene.pod_status(&pod.id).await?.network;
    Ok(network.map(|network| network.ip).unwrap_or_default())
}

/// Whether the server of [`serving`] answers there, sooner or later.
async fn answers(scene: &Scene<'_>, address: &str) -> Verdict {
    scene
        .until(&format!("an answer at {address}"), async || {
            let Ok(mut stream) = TcpStream::connect(address).await else {
                return Ok(None);
            };
            let mut answer = String::new();
            let asked = stream.write_all(b"GET /it HTTP/1.0\r\n\r\n").await;
            let read = stream.read_to_string(&mut answer).await;
            if asked.is_err() || read.is_err() || answer.is_empty() {
                return Ok(None);
            }
            ensure!(
                answer.trim_end().ends_with(&scene.name),
                "somebody else answers: {answer}"
            );
            Ok(Some(()))
        })
        .await
}

async fn address(scene: &Scene<'_>) -> Verdict {
    let pod = scene.pod(scene.network_pod("pod")).await?;
    let ip = ip(scene, &pod).await?;
    ensure!(ip.parse::<IpAddr>().is_ok(), "no address: {ip:?}");
    let config = scene.script(&pod, "one", "ip -o addr show; ifconfig");
    let output = scene.written_by(&pod, config).await?;
    ensure!(
        output.contains(&ip),
        "{ip} is on none of the pod's devices: {output}"
    );
    let other = scene.pod(scene.network_pod("other")).await?;
    let other = self::ip(scene, &other).await?;
    ensure!(other != ip, "two pods have {ip}");
    Ok(())
}

async fn host(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    ensure_eq!(ip(scene, &pod).await?, "", "its address");
    let config = scene.script(&pod, "one", "ls -l /proc/self/ns/net");
    let output = scene.written_by(&pod, config).await?;
    let own = std::fs::read_link("/proc/self/ns/net")?
        .display()
        .to_string();
    ensure!(
        output.contains(&own),
        "its namespace is not the node's {own}: {output}"
    );
    Ok(())
}

async fn hostname(scene: &Scene<'_>) -> Verdict {
    let mut config = scene.network_pod("pod");
    config.hostname = "some-host-1".to_owned();
    let pod = scene.pod(config).await?;
    let config = scene.script(&pod, "one", "hostname; cat /etc/hostname; echo $HOSTNAME");
    let output = scene.written_by(&pod, config).await?;
    let words: Vec<_> = output.split_whitespace().collect();
    ensure_eq!(words.first(), Some(&"some-host-1"), "the kernel's");
    ensure_eq!(words.get(1), Some(&"some-host-1"), "that of /etc/hostname");
    Ok(())
}

async fn reached(scene: &Scene<'_>) -> Verdict {
    let (_, ip) = serving(scene, scene.network_pod("pod"), 80).await?;
    answers(scene, &format!("{ip}:80")).await
}

async fn pod_to_pod(scene: &Scene<'_>) -> Verdict {
    let (_, ip) = serving(scene, scene.network_pod("server"), 80).await?;
    let pod = scene.pod(scene.network_pod("client")).await?;
    let script = format!("until wget -q -O - http://{ip}/it; do sleep 0.1; done 2>/dev/null");
    let output = scene
        .written_by(&pod, scene.script(&pod, "one", &script))
        .await?;
    ensure_eq!(output.trim(), scene.name, "what the other pod serves");
    Ok(())
}

async fn host_port(scene: &Scene<'_>) -> Verdict {
    let port = scene.free_port()?;
    let mut config = scene.network_pod("pod");
    config.port_mappings = vec![PortMapping {
        protocol: Protocol::Tcp.into(),
        container_port: 80,
        host_port: port.into(),
        host_ip: String::new(),
    }];
    serving(scene, config, 80).await?;
    answers(scene, &format!("{}:{port}", node_address()?)).await
}

/// Another than the loopback's, which not every runtime maps ports of.
fn node_address() -> Verdict<IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // Nothing is sent: the kernel only looks for the way.
    match socket.connect("192.0.2.1:9") {
        Ok(()) => Ok(socket.local_addr()?.ip()),
        Err(_) => Ok(Ipv4Addr::LOCALHOST.into()),
    }
}

async fn container_port(scene: &Scene<'_>) -> Verdict {
    let mut config = scene.network_pod("pod");
    config.port_mappings = vec![PortMapping {
        container_port: 80,
        ..Default::default()
    }];
    let (_, ip) = serving(scene, config, 80).await?;
    answers(scene, &format!("{ip}:80")).await
}

async fn dns(scene: &Scene<'_>) -> Verdict {
    let mut config = scene.network_pod("pod");
    config.dns_config = Some(DnsConfig {
        servers: vec!["10.10.10.10".to_owned()],
        searches: vec!["a.example".to_owned(), "b.example".to_owned()],
        options: vec!["ndots:8".to_owned()],
    });
    let pod = scene.pod(config).await?;
    let config = scene.script(&pod, "one", "cat /etc/resolv.conf");
    let output = scene.written_by(&pod, config).await?;
    for line in [
        "nameserver 10.10.10.10",
        "search a.example b.example",
        "options ndots:8",
    ] {
        ensure!(
            output.lines().any(|it| it.trim() == line),
            "no {line:?}: {output}"
        );
    }
    Ok(())
}

async fn loopback(scene: &Scene<'_>) -> Verdict {
    let pod = scene.pod(scene.network_pod("pod")).await?;
    let config = scene.script(&pod, "one", "ifconfig lo");
    let output = scene.written_by(&pod, config).await?;
    if !output.contains("127.0.0.1") || !output.contains("UP") {
        return Err(Ended::Failed(format!("it is not: {output}")));
    }
    Ok(())
}
