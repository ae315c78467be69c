//! Each version of the specification that is spoken, from the plugin's side.

use std::{fs, time::Duration};

use anyhow::ensure;
use e2e::{PodSettings, long_scenario};
use serde_json::Value;

use super::{NETWORK, Site};

/// A version; whether an address names its family there, whether there is CHECK and DEL has what ADD had, and whether there is GC.
const VERSIONS: [(&str, bool, bool, bool); 4] = [
    ("0.3.1", true, false, false),
    ("0.4.0", true, true, false),
    ("1.0.0", false, true, false),
    ("1.1.0", false, true, true),
];

#[test]
fn every_version_is_spoken_as_its_specification_says() {
    long_scenario(Duration::from_secs(240), async |host| {
        let site = Site::with(host, NETWORK).await?;
        for (version, family, check, gc) in VERSIONS {
            fs::remove_file(site.path("net.d/10-net.conflist"))?;
            site.until_ready(false, "ConfigurationGone").await?;
            let family = if family { r#""version": "4", "# } else { "" };
            let allocated = site.path("lib/allocated").display().to_string();
            let result = format!(
                r#"echo x > {allocated}/$CNI_CONTAINERID
                echo '{{"cniVersion": "{version}", "interfaces": [{{"name": "eth0", "sandbox": "'$CNI_NETNS'"}}],
                    "ips": [{{{family}"interface": 0, "address": "203.0.113.7/24"}}]}}'
                exit 0"#
            );
            site.command("ADD", &result)?;
            site.configure("10-net.conflist", &NETWORK.replace("1.1.0", version))?;
            site.until_ready(true, "CNIConfiguration").await?;

            let pod = site.host.run_pod(&PodSettings::new("spoken-to")).await?;
            ensure!(site.host.cri.pod_ip(&pod).await? == "203.0.113.7");
            let told: Value = serde_json::from_str(&site.told("config.ADD"))?;
            ensure!(told["cniVersion"] == version, "{version}: {told}");

            fs::write(site.path("state/log"), "")?;
            site.host.restart_daemon().await?;
            if check {
                site.until("checked", || site.told("log").contains("CHECK"))?;
            }
            if gc {
                site.until("collected", || site.told("log").contains("GC"))?;
            }
            // Whatever is asked at the start has been asked by then.
            let other = site.host.run_pod(&PodSettings::new("other")).await?;
            let log = site.told("log");
            ensure!(log.contains("CHECK") == check, "{version}: {log}");
            ensure!(log.contains("GC") == gc, "{version}: {log}");

            for id in [&pod, &other] {
                site.host.cri.stop_pod(id).await?;
                site.host.cri.remove_pod(id).await?;
            }
            let told: Value = serde_json::from_str(&site.told("config.DEL"))?;
            ensure!(told["cniVersion"] == version, "{version}: {told}");
            ensure!(
                told.get("prevResult").is_some() == check,
                "{version}: {told}"
            );
            ensure!(site.allocated().is_empty());
        }
        site.command("ADD", "")
    });
}
