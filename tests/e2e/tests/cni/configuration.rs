use std::fs;

use e2e::{PodSettings, scenario, scenario_with};

use super::{NETWORK, Site};

#[test]
fn the_network_follows_its_configuration() {
    scenario(async |host| {
        let site = Site::new(host)?;
        site.host.before = testkit::ledger::Ledger::take_settled(&site.host.sandbox)?;
        site.until_ready(true, "BuiltInBridge").await?;
        let old = site.host.run_pod(&PodSettings::new("built-in")).await?;
        site.configure("20-net.conflist", NETWORK)?;
        let message = site.until_ready(true, "CNIConfiguration").await?;
        assert!(
            message.contains("testnet") && message.contains("20-net.conflist"),
            "{message}"
        );
        let new = site.host.run_pod(&PodSettings::new("plugged")).await?;
        assert_eq!(site.host.cri.pod_ip(&new).await?, "203.0.113.7");

        // The first by name wins, also when it is wrong.
        site.configure("10-bad.conflist", "{")?;
        let message = site.until_ready(false, "InvalidConfiguration").await?;
        assert!(message.contains("10-bad.conflist"), "{message}");
        let refused = site
            .host
            .run_pod(&PodSettings::new("refused"))
            .await
            .unwrap_err();
        assert!(
            format!("{refused:#}").contains("10-bad.conflist"),
            "{refused:#}"
        );
        site.configure(
            "10-bad.conflist",
            r#"{"cniVersion": "1.0.0", "name": "x", "plugins": [{"type": "nowhere"}]}"#,
        )?;
        let message = site.until_ready(false, "PluginMissing").await?;
        assert!(
            message.contains("plugin nowhere") && message.contains("/usr/lib/cni"),
            "{message}"
        );
        // It is installed after its configuration.
        let script = "#!/bin/sh\necho '{\"supportedVersions\": [\"0.3.1\", \"0.4.0\"]}'\n";
        site.plugin("nowhere", script)?;
        let message = site.until_ready(false, "NoCommonVersion").await?;
        assert!(
            message.contains("speaks 0.3.1, 0.4.0, which is none of 1.0.0"),
            "{message}"
        );
        fs::remove_file(site.path("net.d/10-bad.conflist"))?;
        site.until_ready(true, "CNIConfiguration").await?;

        // Nobody gets another network because the file is away for a moment.
        fs::remove_file(site.path("net.d/20-net.conflist"))?;
        site.until_ready(false, "ConfigurationGone").await?;
        assert!(site.host.run_pod(&PodSettings::new("gone")).await.is_err());
        // DEL has what ADD had, though the file is gone and the plugin told otherwise now.
        site.host.cri.stop_pod(&new).await?;
        assert!(site.allocated().is_empty());
        assert!(site.told("config.DEL").contains("\"prevResult\""));
        site.host.restart_daemon().await?;
        site.until_ready(true, "BuiltInBridge").await?;
        site.host.cri.stop_pod(&old).await?;
        Ok(())
    });
}

#[test]
fn plugins_are_told_what_the_pod_asks_for() {
    scenario(async |host| {
        let site = Site::with(host, NETWORK).await?;
        let pod = PodSettings::edited("told", |config| {
            config.port_mappings.push(cri::v1::PortMapping {
                host_port: 18080,
                container_port: 80,
                ..Default::default()
            });
            for (name, value) in [
                ("kubernetes.io/egress-bandwidth", "2M"),
                (
                    "v1.multus-cni.io/default-network",
                    r#"[{"name": "n", "mac": "02:00:00:00:00:09", "ips": ["10.0.0.1"]}]"#,
                ),
            ] {
                config.annotations.insert(name.to_owned(), value.to_owned());
            }
        });
        let id = site.host.run_pod(&pod).await?;
        let environment = site.told("env.ADD");
        for line in [
            "CNI_IFNAME=eth0",
            &format!("CNI_CONTAINERID={id}"),
            &format!(
                "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=e2e;K8S_POD_NAME=told;K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID=uid-of-told"
            ),
        ] {
            assert!(
                environment.lines().any(|said| said == line),
                "{line}: {environment}"
            );
        }
        assert!(
            environment.contains("CNI_NETNS=/run/netns/"),
            "{environment}"
        );
        let config: serde_json::Value = serde_json::from_str(&site.told("config.ADD"))?;
        assert_eq!(config["name"], "testnet");
        assert_eq!(config["cniVersion"], "1.1.0");
        let told = &config["runtimeConfig"];
        assert_eq!(told["portMappings"][0]["hostPort"], 18080);
        assert_eq!(told["bandwidth"]["egressRate"], 2_000_000);
        assert_eq!(told["mac"], "02:00:00:00:00:09");
        // The plugin does not say that it takes these.
        assert!(
            told.get("ips").is_none() && told.get("cgroupPath").is_none(),
            "{told}"
        );
        let wrong = PodSettings::edited("wrong", |config| {
            let name = "kubernetes.io/ingress-bandwidth".to_owned();
            config.annotations.insert(name, "fast".to_owned());
        });
        let refused = site.host.run_pod(&wrong).await.unwrap_err();
        let status = refused.downcast_ref::<tonic::Status>().unwrap();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().contains("ingress-bandwidth"), "{status}");
        Ok(())
    });
}

#[test]
fn status_gc_and_check_are_asked_for() {
    scenario(async |host| {
        let site = Site::with(host, NETWORK).await?;
        site.command(
            "STATUS",
            "echo '{\"code\": 50, \"msg\": \"no route to the controller\"}'; exit 1",
        )?;
        let message = site.until_ready(false, "PluginNotReady").await?;
        assert!(
            message.contains("STATUS of plugin obedient") && message.contains("no route"),
            "{message}"
        );
        site.command("STATUS", "")?;
        site.until_ready(true, "CNIConfiguration").await?;

        let id = site.host.run_pod(&PodSettings::new("mine")).await?;
        let allocated = site.path("lib/allocated");
        for name in ["leaked", "neighbour"] {
            fs::write(allocated.join(name), "")?;
        }
        let cached = r#"{"kind": "cniCacheV1", "containerId": "neighbour", "ifName": "eth0", "networkName": "testnet"}"#;
        fs::write(site.path("others/results/testnet-neighbour-eth0"), cached)?;
        site.command(
            "CHECK",
            "echo '{\"code\": 99, \"msg\": \"no eth0\"}'; exit 1",
        )?;
        site.host.restart_daemon().await?;
        site.until("collected", || !allocated.join("leaked").exists())?;
        assert!(allocated.join("neighbour").exists() && allocated.join(&id).exists());
        assert!(site.told("config.GC").contains("cni.dev/valid-attachments"));
        site.until("checked", || site.told("log").contains("CHECK"))?;
        let mut impaired = None;
        for _ in 0..100 {
            impaired = site.condition("LongshoreNetwork").await?;
            if impaired.is_some() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        let message = impaired.unwrap().message;
        assert!(
            message.contains(&id) && message.contains("no eth0"),
            "{message}"
        );
        fs::remove_file(allocated.join("neighbour"))?;

        // Neither, where the configuration says so.
        site.configure(
            "10-net.conflist",
            &NETWORK.replacen('{', r#"{"disableGC": true, "disableCheck": true,"#, 1),
        )?;
        site.host.cri.stop_pod(&id).await?;
        site.host.restart_daemon().await?;
        site.host.run_pod(&PodSettings::new("again")).await?;
        fs::write(site.path("state/log"), "")?;
        site.host.restart_daemon().await?;
        site.host.run_pod(&PodSettings::new("another")).await?;
        let log = site.told("log");
        assert!(!log.contains("GC") && !log.contains("CHECK"), "{log}");
        Ok(())
    });
}

#[test]
fn pods_wait_for_a_configuration_that_is_required() {
    scenario_without_network(async |site| {
        site.until_ready(false, "NoConfiguration").await?;
        let refused = site
            .host
            .run_pod(&PodSettings::new("early"))
            .await
            .unwrap_err();
        let status = refused.downcast_ref::<tonic::Status>().unwrap();
        assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
        site.configure("10-net.conflist", NETWORK)?;
        site.until_ready(true, "CNIConfiguration").await?;
        let id = site.host.run_pod(&PodSettings::new("early")).await?;
        assert_eq!(site.host.cri.pod_ip(&id).await?, "203.0.113.7");
        Ok(())
    });
}

/// The host's first pod wants a network: so the setting comes with a restart.
fn scenario_without_network(story: impl AsyncFnOnce(&mut Site<'_>) -> anyhow::Result<()>) {
    scenario_with("[cni]\nrequired = false", async |host| {
        let path = host.sandbox.directory().join("config.toml");
        let text = fs::read_to_string(&path)?;
        fs::write(&path, text.replace("required = false", "required = true"))?;
        let mut site = Site::new(host)?;
        site.host.restart_daemon().await?;
        site.host.before = testkit::ledger::Ledger::take_settled(&site.host.sandbox)?;
        story(&mut site).await
    });
}
