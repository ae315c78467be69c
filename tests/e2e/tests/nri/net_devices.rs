//! Devices of the node's network, lent to a pod by a plugin.

use std::time::Duration;

use anyhow::ensure;
use cri::v1::NamespaceMode;
use e2e::{ContainerSettings, Host, PodSettings, scenario_with};
use nri::api;

use super::{SETTINGS, connect, creating, failing};

fn lending(device: &str, name: &str) -> api::ContainerAdjustment {
    let named = api::LinuxNetDevice {
        name: name.to_owned(),
    };
    api::ContainerAdjustment {
        linux: Some(api::LinuxContainerAdjustment {
            net_devices: [(device.to_owned(), named)].into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The device as `ip` shows it on the node, once it is there.
pub(crate) async fn on_the_node(host: &Host, device: &str) -> anyhow::Result<String> {
    for _ in 0..600 {
        let shown = host.sandbox.sh(&format!(
            "ip addr show {device} && ip link show {device} || true"
        ))?;
        // Its addresses come after it, and its own alias last.
        if shown.contains("alias the uplink") && shown.contains("192.0.2.9/24") {
            return Ok(shown);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let there = host.sandbox.sh("ip -d addr")?;
    anyhow::bail!("{device} does not come back: {there}")
}

/// Makes the device `lent` on the node.
pub(crate) const LENT: &str = "ip link add lent type veth peer name kept; ip link set kept up; ip link set lent alias 'the uplink'; \
     ip addr add 192.0.2.9/24 dev lent; ip addr add 2001:db8::9/64 dev lent nodad";

#[test]
fn a_device_is_lent_for_as_long_as_its_container_lives() {
    scenario_with(SETTINGS, async |host| {
        host.sandbox.sh(LENT)?;
        let pod = PodSettings::new("lent");
        let pod_id = host.run_pod(&pod).await?;
        let away = || -> anyhow::Result<()> {
            let links = host.sandbox.sh("ip -o link show")?;
            ensure!(!links.contains("lent"), "it is still here: {links}");
            Ok(())
        };
        let plugin = connect(host, "10", creating(lending("lent", "net%d"))).await?;
        let first = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("first"))
            .await?;
        let shown = host.cri.sh(&first, "ip addr show net0").await?;
        for words in ["192.0.2.9/24", "2001:db8::9/64", ",UP"] {
            assert!(shown.contains(words), "{words}: {shown}");
        }
        away()?;
        // While one has it nobody else does.
        let error = host
            .create(&pod_id, &pod, &ContainerSettings::sleeper("second"))
            .await
            .unwrap_err();
        assert!(
            error.message().contains("no network device lent"),
            "{error}"
        );
        let shown = host.cri.sh(&first, "ip addr show net0").await?;
        assert!(shown.contains("192.0.2.9/24"), "{shown}");
        host.cri.stop(&first, 10).await?;
        let shown = on_the_node(host, "lent").await?;
        for words in ["2001:db8::9/64", "state DOWN"] {
            assert!(shown.contains(words), "{words}: {shown}");
        }
        // The next container has it, whichever daemon is there when it ends.
        let third = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("third"))
            .await?;
        away()?;
        drop(plugin);
        host.restart_daemon().await?;
        let shown = host.cri.sh(&third, "ip addr show net0").await?;
        assert!(shown.contains("192.0.2.9/24"), "{shown}");
        host.cri.stop_pod(&pod_id).await?;
        on_the_node(host, "lent").await?;
        host.cri.remove_pod(&pod_id).await?;
        host.sandbox.sh("ip link delete lent")?;
        Ok(())
    });
}

#[test]
fn a_device_that_cannot_be_lent_stays_where_it_is() {
    scenario_with(SETTINGS, async |host| {
        host.sandbox.sh(LENT)?;
        let pod = PodSettings::new("lent");
        let pod_id = host.run_pod(&pod).await?;
        let failing = api::ContainerAdjustment {
            hooks: failing().hooks,
            ..lending("lent", "")
        };
        for (adjust, words) in [
            (
                lending("absent", ""),
                "the node has no network device absent",
            ),
            (lending("lent", "eth0"), "the pod has a eth0 already"),
            (lending("lent", "a/b"), "\"a/b\" is no name"),
            (lending("lo", "lo1"), "loopback"),
            (failing, "/bin/false"),
        ] {
            let plugin = connect(host, "10", creating(adjust)).await?;
            let main = ContainerSettings::sleeper("main");
            let error = host.create(&pod_id, &pod, &main).await.unwrap_err();
            assert!(error.message().contains(words), "{words:?}: {error}");
            on_the_node(host, "lent").await?;
            drop(plugin);
        }
        let on_host = PodSettings::edited("host", |config| {
            let linux = config.linux.get_or_insert_default();
            let security = linux.security_context.get_or_insert_default();
            let options = security.namespace_options.get_or_insert_default();
            options.network = NamespaceMode::Node.into();
        });
        let host_pod = host.run_pod(&on_host).await?;
        let _plugin = connect(host, "10", creating(lending("lent", ""))).await?;
        let main = ContainerSettings::sleeper("main");
        let error = host.create(&host_pod, &on_host, &main).await.unwrap_err();
        assert!(error.message().contains("linux.netDevices"), "{error}");
        on_the_node(host, "lent").await?;
        assert!(host.cri.containers(None).await?.is_empty());
        host.remove_all_pods().await?;
        host.sandbox.sh("ip link delete lent")?;
        Ok(())
    });
}
