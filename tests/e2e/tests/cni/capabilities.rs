//! What a request and its annotations say reaches the plugins that take it, and no others.

use std::fs;

use e2e::{ContainerSettings, PodSettings, scenario};
use serde_json::{Value, json};

use super::Site;

/// The first takes all that there is by convention; the second says nothing, and the third that it does not.
const NETWORK: &str = r#"{"cniVersion": "1.0.0", "name": "capable", "plugins": [
    {"type": "obedient", "capabilities": {"portMappings": true, "bandwidth": true, "dns": true, "ips": true, "mac": true,
                                          "infinibandGUID": true, "ipRanges": true}},
    {"type": "silent"},
    {"type": "refusing", "capabilities": {"mac": false, "ips": false, "dns": true}}]}"#;

const ELEMENT: &str = r#"[{"name": "capable", "ips": ["203.0.113.9/24"], "mac": "02:00:00:00:00:09",
    "infiniband-guid": "c2:11:22:33:44:55:66:77"}]"#;

#[test]
fn every_capability_reaches_the_plugins_that_take_it() {
    scenario(async |host| {
        let site = Site::new(host)?;
        for name in ["silent", "refusing"] {
            // An address is the first one's to give; what came before is handed on.
            let script = format!(
                r#"#!/bin/bash
config=$(cat)
printf '%s' "$config" > STATE/{name}.$CNI_COMMAND
case $CNI_COMMAND in
VERSION) echo '{{"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0"]}}' ;;
ADD) printf '%s' "$config" | python3 -c 'import json, sys; print(json.dumps(json.load(sys.stdin)["prevResult"]))' ;;
esac
"#
            );
            site.plugin(name, &script)?;
        }
        let site = site.serving(NETWORK).await?;
        let pod = PodSettings::edited("capable", |config| {
            config.port_mappings.push(cri::v1::PortMapping {
                protocol: cri::v1::Protocol::Udp.into(),
                host_port: 18053,
                container_port: 53,
                host_ip: "127.0.0.1".to_owned(),
            });
            config.dns_config = Some(cri::v1::DnsConfig {
                servers: vec!["10.96.0.10".to_owned()],
                searches: vec!["svc.cluster.local".to_owned()],
                options: vec!["ndots:5".to_owned()],
            });
            for (name, value) in [
                ("kubernetes.io/ingress-bandwidth", "10M"),
                ("kubernetes.io/egress-bandwidth", "1.5Mi"),
                ("v1.multus-cni.io/default-network", ELEMENT),
                (
                    "longshore.io/cni-ip-ranges",
                    r#"[[{"subnet": "203.0.113.0/24"}]]"#,
                ),
            ] {
                config.annotations.insert(name.to_owned(), value.to_owned());
            }
        });
        let id = site.host.run_pod(&pod).await?;
        let dns = json!({
            "servers": ["10.96.0.10"], "searches": ["svc.cluster.local"], "options": ["ndots:5"],
        });
        let all = json!({
            "portMappings": [{"hostPort": 18053, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"}],
            "bandwidth": {
                "ingressRate": 10_000_000, "ingressBurst": u32::MAX,
                "egressRate": 1_572_864, "egressBurst": u32::MAX,
            },
            "dns": dns,
            "ips": ["203.0.113.9/24"],
            "mac": "02:00:00:00:00:09",
            "infinibandGUID": "c2:11:22:33:44:55:66:77",
            "ipRanges": [[{"subnet": "203.0.113.0/24"}]],
        });
        let each = [
            ("config", all),
            ("silent", Value::Null),
            ("refusing", json!({ "dns": dns })),
        ];
        for (plugin, expected) in &each {
            assert_eq!(
                told(&site, &format!("{plugin}.ADD"))?,
                *expected,
                "{plugin}"
            );
        }

        // DEL is told the same, by a daemon that has read it from its records too.
        site.host.restart_daemon().await?;
        site.host.cri.stop_pod(&id).await?;
        for (plugin, expected) in &each {
            assert_eq!(
                told(&site, &format!("{plugin}.DEL"))?,
                *expected,
                "{plugin}"
            );
        }
        Ok(())
    });
}

/// What a plugin was told by capability, as it noted it.
fn told(site: &Site<'_>, file: &str) -> anyhow::Result<Value> {
    let config: Value = serde_json::from_str(&site.told(file))?;
    Ok(config["runtimeConfig"].clone())
}

/// Debian's: host-local and static take addresses, bridge and tuning the hardware's.
#[test]
fn real_plugins_give_a_pod_the_addresses_that_it_asks_for() {
    scenario(async |host| {
        let bridge = r#"{"cniVersion": "1.0.0", "name": "asked", "plugins": [
            {"type": "bridge", "bridge": "cni8", "isGateway": true, "capabilities": {"ips": true, "mac": true},
             "ipam": {"type": "host-local", "dataDir": "DIR/lib/host-local", "ranges": [[{"subnet": "10.78.0.0/24"}]]}}]}"#;
        let site = Site::new(host)?;
        // Where tuning remembers what it has changed; it does not remove its directory.
        site.host.sandbox.sh("mkdir -p /run/cni/tuning")?;
        let site = site.serving(bridge).await?;
        asks_for(&site, "by-host-local", "10.78.0.55", "02:00:00:00:00:37").await?;
        // Whoever asks for no address gets one as everybody does.
        let id = site.host.run_pod(&PodSettings::new("asks-not")).await?;
        let ip = site.host.cri.pod_ip(&id).await?;
        assert!(ip.starts_with("10.78.0.") && ip != "10.78.0.55", "{ip}");
        site.host.cri.stop_pod(&id).await?;
        site.host.cri.remove_pod(&id).await?;

        let tuned = r#"{"cniVersion": "1.0.0", "name": "fixed", "plugins": [
            {"type": "bridge", "bridge": "cni8", "capabilities": {"ips": true}, "ipam": {"type": "static"}},
            {"type": "tuning", "capabilities": {"mac": true}}]}"#;
        fs::remove_file(site.path("net.d/10-net.conflist"))?;
        site.until_ready(false, "ConfigurationGone").await?;
        site.configure("10-net.conflist", tuned)?;
        site.until_ready(true, "CNIConfiguration").await?;
        asks_for(&site, "by-static", "10.79.0.9/24", "02:00:00:00:00:38").await
    });
}

async fn asks_for(site: &Site<'_>, name: &str, ip: &str, mac: &str) -> anyhow::Result<()> {
    let element = json!([{"name": "default", "ips": [ip], "mac": mac}]);
    let pod = PodSettings::edited(name, move |config| {
        config.annotations.insert(
            "v1.multus-cni.io/default-network".to_owned(),
            element.to_string(),
        );
    });
    let host = &*site.host;
    let id = host.run_pod(&pod).await?;
    let address = ip.split('/').next().unwrap_or(ip);
    assert_eq!(host.cri.pod_ip(&id).await?, address);
    let settings = ContainerSettings::sh("main", "sleep 1000");
    let container = host.run(&id, &pod, &settings).await?;
    let link = host.cri.sh(&container, "ip addr show eth0").await?;
    assert!(
        link.contains(mac) && link.contains(&format!("inet {address}/24")),
        "{link}"
    );
    host.cri.stop_pod(&id).await?;
    host.cri.remove_pod(&id).await?;
    Ok(())
}
