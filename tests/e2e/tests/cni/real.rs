//! Debian's plugins: bridge, host-local, portmap, bandwidth, tuning.

use std::{
    collections::BTreeMap,
    io::Read,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use cri::v1::PortMapping;
use e2e::{ContainerSettings, Host, PodSettings, long_scenario, scenario};

use super::Site;

const NETWORK: &str = r#"{"cniVersion": "1.0.0", "name": "realnet", "plugins": [
    {"type": "bridge", "bridge": "cni9", "isGateway": true, "ipMasq": true, "hairpinMode": true,
     "ipam": {"type": "host-local", "dataDir": "DIR/lib/host-local",
              "ranges": [[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd77::/64"}]],
              "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}},
    {"type": "bandwidth", "capabilities": {"bandwidth": true}},
    {"type": "tuning", "sysctl": {"net.core.somaxconn": "513"}}]}"#;

#[test]
fn real_plugins_connect_pods() {
    scenario(async |host| {
        let site = Site::with(host, NETWORK).await?;
        let host = &mut *site.host;
        let pod = PodSettings::edited("server", |config| {
            config.port_mappings.push(PortMapping {
                host_port: 18080,
                container_port: 8080,
                ..Default::default()
            });
            config.annotations = BTreeMap::from([(
                "kubernetes.io/ingress-bandwidth".to_owned(),
                "10M".to_owned(),
            )])
            .into_iter()
            .collect();
        });
        let id = host.run_pod(&pod).await?;
        let status = host.cri.pod_status(&id, false).await?.status.unwrap();
        let network = status.network.unwrap();
        assert!(network.ip.starts_with("10.77.0."), "{network:?}");
        let more: Vec<_> = network.additional_ips.iter().map(|ip| &ip.ip).collect();
        assert!(
            more.len() == 1 && more[0].starts_with("fd77::"),
            "{network:?}"
        );

        let settings = ContainerSettings::sh(
            "main",
            "echo up; while :; do echo hello | nc -l -p 8080; done",
        );
        let container = host.run(&id, &pod, &settings).await?;
        host.until_logged(&pod, &settings, "up").await?;
        let inside = host
            .cri
            .sh(
                &container,
                "cat /proc/sys/net/core/somaxconn; ip addr show lo; ip route",
            )
            .await?;
        assert!(inside.starts_with("513\n"), "{inside}");
        assert!(inside.contains("inet 127.0.0.1/8"), "{inside}");
        assert!(inside.contains("default via 10.77.0.1"), "{inside}");
        for address in [format!("{}:8080", network.ip), "127.0.0.1:18080".to_owned()] {
            assert_eq!(ask(host, address.parse()?)?, "hello\n", "{address}");
        }
        let shaped = host.sandbox.sh("tc qdisc show | grep -c tbf")?;
        assert_eq!(shaped.trim(), "1", "shaped towards the pod only");

        // It is the same pod for the next daemon, and DEL has what ADD had.
        host.restart_daemon().await?;
        assert_eq!(host.cri.pod_ip(&id).await?, network.ip);
        assert_eq!(ask(host, "127.0.0.1:18080".parse()?)?, "hello\n");
        host.cri.stop_pod(&id).await?;
        assert!(host.cri.pod_ip(&id).await?.is_empty());
        let allocated = host.sandbox.sh(&format!(
            "ls {}/lib/host-local/realnet | grep -c '^10\\|^fd' || true",
            host.sandbox.directory().display()
        ))?;
        assert_eq!(allocated.trim(), "0");
        Ok(())
    });
}

/// At the edges on the way to and from the network: nothing is left of it, host-local's files included.
#[test]
fn a_daemon_that_dies_leaks_nothing_of_real_plugins() {
    long_scenario(Duration::from_secs(600), async |host| {
        let site = Site::with(host, NETWORK).await?;
        let host = &mut *site.host;
        for edge in [
            "pod.attached",
            "pod.ready",
            "pod.ended",
            "pod.detached",
            "pod.stopped",
        ] {
            host.daemon.kill();
            host.start_daemon_with(&format!("{edge}:daemon")).await?;
            let pod = PodSettings::new(&edge.replace('.', "-"));
            let result = async {
                let id = host.run_pod(&pod).await?;
                host.cri.stop_pod(&id).await?;
                anyhow::Ok(())
            };
            anyhow::ensure!(result.await.is_err(), "{edge} was not reached");
            host.start_daemon().await?;
            host.remove_all_pods().await?;
            host.settles().map_err(|error| error.context(edge))?;
        }
        Ok(())
    });
}

fn ask(host: &Host, address: SocketAddr) -> anyhow::Result<String> {
    let asked = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let mut last = host.sandbox.on_network(asked)?;
    for _ in 0..25 {
        if last.as_ref().is_ok_and(|text| !text.is_empty()) {
            break;
        }
        // The one-shot server is between two connections.
        std::thread::sleep(Duration::from_millis(200));
        last = host.sandbox.on_network(asked)?;
    }
    Ok(last?)
}
