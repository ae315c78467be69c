//! Networks of CNI plugins: Debian's real ones, and one of our own that does as it is told, wrongly too.

mod broken;
mod capabilities;
mod configuration;
mod ranges;
mod real;
mod versions;

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

use anyhow::Context;
use cri::v1::RuntimeCondition;
use e2e::{Host, PodSettings};
use testkit::{ledger::Ledger, sandbox::poll};

/// How long the daemon may take to see what changed in a directory, or to try again.
const NOTICES_WITHIN: Duration = Duration::from_secs(120);

/// A plugin that keeps a file per attachment, as an address management does, and sources `do.COMMAND` of its directory first.
const PLUGIN: &str = r#"#!/bin/bash
state=STATE
config=$(cat)
[ $CNI_COMMAND = STATUS ] || [ $CNI_COMMAND = VERSION ] || echo "$CNI_COMMAND $CNI_CONTAINERID" >> $state/log
printf '%s' "$config" > $state/config.$CNI_COMMAND
env | grep ^CNI_ > $state/env.$CNI_COMMAND
[ -e $state/do.$CNI_COMMAND ] && . $state/do.$CNI_COMMAND
case $CNI_COMMAND in
VERSION) echo '{"cniVersion": "1.1.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]}' ;;
ADD)
    echo "$CNI_NETNS" > ALLOCATED/$CNI_CONTAINERID
    echo '{"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "'$CNI_NETNS'"}],
           "ips": [{"interface": 0, "address": "203.0.113.7/24"}]}' ;;
DEL) rm -f ALLOCATED/$CNI_CONTAINERID ;;
GC)
    for file in ALLOCATED/*; do
        [[ $config == *"$(basename $file)"* ]] || rm -f $file
    done ;;
esac
exit 0
"#;

/// The network of that plugin.
const NETWORK: &str = r#"{"cniVersion": "1.1.0", "name": "testnet", "plugins": [{"type": "obedient",
    "capabilities": {"portMappings": true, "bandwidth": true, "mac": true, "dns": true}}]}"#;

/// The parts of a host that has CNI.
struct Site<'a> {
    host: &'a mut Host,
}

impl<'a> Site<'a> {
    /// With the obedient plugin; no configuration yet.
    fn new(host: &'a mut Host) -> anyhow::Result<Self> {
        let site = Self { host };
        for directory in [
            "net.d",
            "plugins",
            "state",
            "lib/allocated",
            "others/results",
        ] {
            fs::create_dir_all(site.path(directory))?;
        }
        site.plugin("obedient", PLUGIN)?;
        Ok(site)
    }

    /// With a network that serves, and a ledger that has what its first pod leaves for the others.
    async fn with(host: &'a mut Host, network: &str) -> anyhow::Result<Self> {
        Self::new(host)?.serving(network).await
    }

    /// As [`Self::with`], once it has the plugins.
    async fn serving(self, network: &str) -> anyhow::Result<Self> {
        let site = self;
        site.configure("10-net.conflist", network)?;
        site.until_ready(true, "CNIConfiguration").await?;
        let id = site.host.run_pod(&first_pod()).await?;
        site.host.cri.stop_pod(&id).await?;
        site.host.cri.remove_pod(&id).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        site.host.before = Ledger::take_settled(&site.host.sandbox)?;
        Ok(site)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.host.sandbox.directory().join(name)
    }

    fn configure(&self, name: &str, text: &str) -> anyhow::Result<()> {
        // As installers do it.
        let path = self.path("net.d").join(name);
        let new = path.with_extension("new");
        fs::write(
            &new,
            text.replace("DIR", &self.path("").display().to_string()),
        )?;
        fs::rename(&new, &path).with_context(|| format!("write {name}"))
    }

    fn plugin(&self, name: &str, script: &str) -> anyhow::Result<()> {
        let text = script
            .replace("STATE", &self.path("state").display().to_string())
            .replace(
                "ALLOCATED",
                &self.path("lib/allocated").display().to_string(),
            );
        let path = self.path("plugins").join(name);
        // Not written in place: one that runs is busy.
        let new = self.path("plugins").join(format!(".{name}"));
        fs::write(&new, text)?;
        fs::set_permissions(&new, PermissionsExt::from_mode(0o755))?;
        Ok(fs::rename(new, path)?)
    }

    /// What the obedient plugin does first at a command; nothing, if empty.
    fn command(&self, command: &str, script: &str) -> anyhow::Result<()> {
        let path = self.path("state").join(format!("do.{command}"));
        match script {
            "" => Ok(fs::remove_file(path)?),
            script => Ok(fs::write(path, script)?),
        }
    }

    /// What it was told, and what it noted.
    fn told(&self, name: &str) -> String {
        fs::read_to_string(self.path("state").join(name)).unwrap_or_default()
    }

    /// Attachments that it has not forgotten.
    fn allocated(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("lib/allocated"))
            .into_iter()
            .flatten();
        entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect()
    }

    async fn condition(&self, kind: &str) -> anyhow::Result<Option<RuntimeCondition>> {
        let status = self.host.cri.status(false).await?.status;
        let conditions = status.unwrap_or_default().conditions;
        Ok(conditions
            .into_iter()
            .find(|condition| condition.r#type == kind))
    }

    /// Waits until NetworkReady is so; returns its message.
    async fn until_ready(&self, ready: bool, reason: &str) -> anyhow::Result<String> {
        let end = tokio::time::Instant::now() + NOTICES_WITHIN;
        loop {
            let condition = self.condition("NetworkReady").await?.unwrap_or_default();
            if condition.status == ready && condition.reason == reason {
                return Ok(condition.message);
            }
            anyhow::ensure!(
                tokio::time::Instant::now() < end,
                "never {reason}: {condition:?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn until(&self, what: &str, probe: impl Fn() -> bool) -> anyhow::Result<()> {
        poll(NOTICES_WITHIN, || probe().then_some(())).with_context(|| format!("never {what}"))
    }
}

/// Has a host port, so that what plugins make for the first one is there.
fn first_pod() -> PodSettings {
    PodSettings::edited("first", |config| {
        config.port_mappings.push(cri::v1::PortMapping {
            host_port: 17999,
            container_port: 80,
            ..Default::default()
        });
    })
}
