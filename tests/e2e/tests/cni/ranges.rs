//! The ranges that a kubelet tells its runtime.

use std::{fs, net::Ipv4Addr, path::Path, time::Duration};

use anyhow::Context;
use e2e::{Host, PodSettings, scenario, scenario_with};
use testkit::ledger::Ledger;
use tonic::Code;

use super::Site;

const RANGES: &str = "fd00:99:7::/64,10.99.7.0/24";

async fn is_in(host: &Host, pod_id: &str, ipv4: [u8; 3], ipv6: &str) -> anyhow::Result<()> {
    let status = host.cri.pod_status(pod_id, false).await?.status;
    let network = status.unwrap_or_default().network.unwrap_or_default();
    let first: Ipv4Addr = network.ip.parse()?;
    anyhow::ensure!(first.octets()[..3] == ipv4, "{first} is not in {ipv4:?}");
    let second = &network.additional_ips.first().context("one address")?.ip;
    anyhow::ensure!(second.starts_with(ipv6), "{second} is not in {ipv6}");
    Ok(())
}

#[test]
fn the_next_pod_is_where_the_kubelet_says() {
    scenario(async |host| {
        let old = host.run_pod(&PodSettings::new("old")).await?;
        is_in(host, &old, [10, 88, 0], "fd4c:6f6e:6773::").await?;
        host.cri.update_runtime_config(RANGES).await?;
        // Kubelets say it again at each start; before they know, they say nothing.
        host.cri.update_runtime_config(RANGES).await?;
        host.cri.update_runtime_config("").await?;
        let new = host.run_pod(&PodSettings::new("new")).await?;
        is_in(host, &new, [10, 99, 7], "fd00:99:7::").await?;
        is_in(host, &old, [10, 88, 0], "fd4c:6f6e:6773::").await?;
        let info = host.cri.status(true).await?.info;
        let info = info.values().next().context("no info")?;
        assert!(info.contains("10.99.7.0/24"), "{info}");

        host.restart_daemon().await?;
        let newer = host.run_pod(&PodSettings::new("newer")).await?;
        is_in(host, &newer, [10, 99, 7], "fd00:99:7::").await?;

        host.sandbox
            .sh("ip link add taken type veth peer name taken1; ip link set taken up; ip addr add 10.97.3.1/24 dev taken")?;
        for (wrong, reason) in [
            ("10.98.0.0", "ADDRESS/PREFIX"),
            ("10.98.0.1/24", "10.98.0.0/24"),
            ("10.98.0.0/31", "no room"),
            ("127.0.0.0/16", "no pod can have"),
            ("10.98.0.0/24,", "ADDRESS/PREFIX"),
            ("10.98.0.0/24,10.96.0.0/24", "two ranges"),
            ("fd00:98::/64", "no IPv4 range"),
            ("10.97.0.0/16", "10.97.3."),
        ] {
            let status = host.cri.update_runtime_config(wrong).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{wrong}: {status}");
            for part in ["runtime_config.network_config.pod_cidr", wrong, reason] {
                assert!(status.message().contains(part), "{wrong}: {status}");
            }
        }
        host.sandbox.sh("ip link del taken")?;
        let last = host.run_pod(&PodSettings::new("last")).await?;
        is_in(host, &last, [10, 99, 7], "fd00:99:7::").await?;

        // The new range stays, for the next pod; the old one is off the bridge.
        host.remove_all_pods().await?;
        host.sandbox
            .sh("for try in $(seq 100); do ip -o addr show longshore0 | grep -q 10.88.0.1 || exit 0; sleep 0.1; done; exit 1")?;
        // Links and their records go once the kernel has taken them apart.
        let of_pods = |kind: &str, thing: &str| {
            (kind == "link" && thing.starts_with("lsv"))
                || (kind == "file" && thing.contains("/network/") && thing.ends_with(".json"))
        };
        let mut now = Ledger::take(&host.sandbox)?;
        let mut tries = 0..100;
        while host.before.difference(&now).take_out(of_pods) && tries.next().is_some() {
            tokio::time::sleep(Duration::from_millis(100)).await;
            now = Ledger::take(&host.sandbox)?;
        }
        host.before = now;
        Ok(())
    });
}

const TEMPLATE: &str = r#"{"cniVersion": "1.0.0", "name": "templated", "plugins": [{"type": "obedient",
    "ipam": {"ranges": [{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}],
             "routes": [{{range $i, $route := .Routes}}{{if $i}}, {{end}}{"dst": "{{$route}}"}{{end}}]}}]}"#;

#[test]
fn a_template_becomes_the_network_of_plugins() {
    let directory = tempfile::tempdir().unwrap();
    let template = directory.path().join("template");
    let settings = format!("[cni]\ntemplate = {template:?}");
    scenario_with(&settings, async |host| {
        let site = Site::new(host)?;
        let file = site.path("net.d/10-longshore.conflist");
        for (text, code, reason) in [
            (None, Code::Internal, "read cni.template"),
            (Some("{{.NodeName}}"), Code::FailedPrecondition, ".NodeName"),
            (Some("{{.PodCIDR}}"), Code::FailedPrecondition, "JSON"),
        ] {
            if let Some(text) = text {
                fs::write(&template, text)?;
            }
            let answer = site.host.cri.update_runtime_config(RANGES).await;
            let status = answer.unwrap_err();
            assert_eq!(status.code(), code, "{status}");
            assert!(status.message().contains(reason), "{status}");
            assert!(!file.exists());
        }
        fs::write(&template, TEMPLATE)?;
        site.host.cri.update_runtime_config(RANGES).await?;
        let message = site.until_ready(true, "CNIConfiguration").await?;
        assert!(message.contains("templated"), "{message}");
        site.host.before = Ledger::take_settled(&site.host.sandbox)?;
        let pod = site.host.run_pod(&PodSettings::new("plugged")).await?;
        assert_eq!(site.host.cri.pod_ip(&pod).await?, "203.0.113.7");
        let told: serde_json::Value = serde_json::from_str(&site.told("config.ADD"))?;
        assert_eq!(
            told["ipam"],
            serde_json::json!({
                "ranges": [[{"subnet": "fd00:99:7::/64"}], [{"subnet": "10.99.7.0/24"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            })
        );

        // What was made is made again when it changes; what others install is theirs.
        site.host.cri.update_runtime_config("10.99.8.0/24").await?;
        assert!(fs::read_to_string(&file)?.contains("10.99.8.0/24"));
        fs::rename(&file, file.with_file_name("50-other.conflist"))?;
        site.host.cri.update_runtime_config("10.99.9.0/24").await?;
        assert!(!Path::new(&file).exists());
        Ok(())
    });
}
