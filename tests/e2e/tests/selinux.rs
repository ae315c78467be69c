//! SELinux: what is written where, and that nothing runs without its label.

use std::{fs, path::Path};

use anyhow::Context;
use cri::v1::NamespaceMode;
use e2e::{ContainerSettings, Host, PodSettings, scenario};

/// The policy's words for containers.
const CONTEXTS: &str = "process = \"system_u:system_r:container_t:s0\"\nfile = \"system_u:object_r:container_file_t:s0\"\n";

/// Where the kernel has SELinux's files.
const KERNEL: &str = "/sys/fs/selinux";

/// The categories of a pod, as its record has them.
fn level_of(host: &Host, pod: &str) -> anyhow::Result<String> {
    let record = format!("/run/longshore/pods/{pod}/pod.json");
    let record = fs::read_to_string(host.sandbox.view(record))?;
    let record: serde_json::Value = serde_json::from_str(&record)?;
    let files = record["labels"]["files"].as_str().context("labels.files")?;
    let level = files.strip_prefix("system_u:object_r:container_file_t:");
    Ok(level.context("the files' type")?.to_owned())
}

/// A node that says that it has SELinux, with a kernel that has not: what is written is seen, and that nothing runs without its label.
#[test]
fn labels_are_written_and_a_kernel_that_takes_none_runs_nothing() {
    scenario(async |host| {
        if Path::new(KERNEL).exists() {
            anyhow::bail!(
                "this kernel has SELinux, and the test pretends: run it where there is none"
            );
        }
        let fake = format!(
            "
            mkdir -p /run/fake/upper /run/fake/work /run/fake/fs/selinux
            mount -t overlay -o lowerdir=/etc,upperdir=/run/fake/upper,workdir=/run/fake/work overlay /etc
            mkdir -p /etc/selinux/test/contexts
            echo SELINUXTYPE=test > /etc/selinux/config
            printf '{CONTEXTS}' > /etc/selinux/test/contexts/lxc_contexts
            cd /sys/fs
            for one in *; do
                mkdir -p /run/fake/fs/$one
                mount --rbind $one /run/fake/fs/$one
                mount --make-rslave /run/fake/fs/$one
            done
            echo 1 > /run/fake/fs/selinux/enforce
            touch /run/fake/fs/selinux/context
            mount --rbind /run/fake/fs /sys/fs
            mount --make-rslave /sys/fs"
        );
        host.sandbox.sh(&fake)?;
        host.restart_daemon().await?;
        let info = host.cri.status(true).await?.info["info"].clone();
        let info: serde_json::Value = serde_json::from_str(&info)?;
        assert_eq!(info["security"]["selinuxLabels"], true, "{info}");

        let own = PodSettings::new("own");
        let refusal = format!("{:#}", host.run_pod(&own).await.unwrap_err());
        assert!(
            refusal.contains("/dev/shm") && refusal.contains("context"),
            "{refusal}"
        );

        let shared = |name: &str| {
            PodSettings::edited(name, |config| {
                let linux = config.linux.get_or_insert_default();
                let security = linux.security_context.get_or_insert_default();
                let namespaces = security.namespace_options.get_or_insert_default();
                namespaces.ipc = NamespaceMode::Node.into();
            })
        };
        let (one, two) = (shared("one"), shared("two"));
        let (one_id, two_id) = (host.run_pod(&one).await?, host.run_pod(&two).await?);
        let levels = [level_of(host, &one_id)?, level_of(host, &two_id)?];
        assert!(
            levels[0].starts_with("s0:c") && levels[0] != levels[1],
            "{levels:?}"
        );
        for file in ["hosts", "hostname", "resolv.conf"] {
            let path = format!("/run/longshore/pods/{one_id}/{file}");
            let mut label = [0_u8; 256];
            let path = host.sandbox.view(path);
            let length = rustix::fs::lgetxattr(&path, "security.selinux", &mut label)?;
            let label = String::from_utf8_lossy(&label[..length]);
            let expected = format!("system_u:object_r:container_file_t:{}", levels[0]);
            assert_eq!(label, expected, "{file}");
        }
        let settings = ContainerSettings::sleeper("labelled");
        let refusal = host.create(&one_id, &one, &settings).await.unwrap_err();
        let refusal = refusal.message();
        assert!(
            refusal.contains("overlay") && refusal.contains("context"),
            "{refusal}"
        );

        // The daemon that comes after knows whose they are.
        host.restart_daemon().await?;
        assert_eq!(level_of(host, &one_id)?, levels[0]);
        host.remove_all_pods().await?;
        host.sandbox.sh("
            umount -R -l /sys/fs
            umount -l /etc
            for one in /run/fake/fs/*; do
                ! mountpoint -q $one || umount -R -l $one
            done
            rm -r --one-file-system /run/fake")?;
        Ok(())
    });
}
