//! Classes of block I/O and of caches, by annotation.

use std::{fs, path::Path};

use anyhow::Context;
use e2e::{ContainerSettings, Host, Limits, PodSettings, is_v2, scenario, scenario_with};
use tonic::Code;

const BLOCK_IO: &str = "blockio.resources.beta.kubernetes.io";
const RDT: &str = "rdt.resources.beta.kubernetes.io";

/// A disk of the machine, and its number.
pub(crate) fn disk() -> anyhow::Result<(String, String)> {
    let names = fs::read_dir("/sys/block")?;
    let mut names: Vec<_> = names
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| Path::new("/dev").join(name).exists())
        .collect();
    // Real ones in front.
    names.sort_by_key(|name| name.starts_with("loop"));
    let name = names.first().context("every machine has a disk")?;
    let number = fs::read_to_string(format!("/sys/block/{name}/dev"))?;
    Ok((format!("/dev/{name}"), number.trim().to_owned()))
}

pub(crate) async fn throttles(host: &Host, id: &str) -> anyhow::Result<String> {
    let limits = Limits::of(host, id).await?;
    if is_v2() {
        return limits.read("blkio", "", "io.max");
    }
    let files = ["read_bps_device", "write_iops_device"];
    let files = files.map(|file| limits.read("blkio", &format!("blkio.throttle.{file}"), ""));
    Ok(files.into_iter().collect::<Result<Vec<_>, _>>()?.join(" "))
}

#[test]
fn a_class_of_block_io_limits_a_containers_disks() {
    let (disk, number) = disk().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("blockio.yaml");
    let define = |rate: &str| {
        let text = format!(
            "Classes:\n  slow:\n  - Devices: ['{disk}', /dev/absent*]\n    ThrottleReadBps: {rate}\n    ThrottleWriteIOPS: 5k\n  broken:\n  - Weight: 1\n"
        );
        fs::write(&file, text).unwrap();
    };
    define("50M");
    let settings = format!("[classes]\nblock_io = {file:?}");
    scenario_with(&settings, async |host| {
        let pod = PodSettings::edited("slow", |config| {
            let annotations = &mut config.annotations;
            annotations.insert(format!("{BLOCK_IO}/pod"), "slow".into());
            annotations.insert(format!("{BLOCK_IO}/container.broken"), "broken".into());
            annotations.insert(format!("{BLOCK_IO}/container.free"), String::new());
        });
        let pod_id = host.run_pod(&pod).await?;
        let slow = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("slow"))
            .await?;
        let expected = |rate: u64| match is_v2() {
            true => format!("{number} rbps={rate} wbps=max riops=max wiops=5000"),
            false => format!("{number} {rate} {number} 5000"),
        };
        assert_eq!(throttles(host, &slow).await?, expected(50_000_000));
        let free = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("free"))
            .await?;
        assert_eq!(throttles(host, &free).await?.trim(), "");

        // The file as it is counts for the next container.
        define("1Mi");
        let next = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("next"))
            .await?;
        assert_eq!(throttles(host, &next).await?, expected(1 << 20));

        let broken = ContainerSettings::sleeper("broken");
        let refusal = host.create(&pod_id, &pod, &broken).await.unwrap_err();
        for word in [
            "container.broken",
            "Classes.broken[0].Weight",
            "use 10 to 1000",
        ] {
            assert!(refusal.message().contains(word), "{refusal}");
        }
        let own = ContainerSettings::sleeper("own").edited(|config| {
            let key = "io.kubernetes.cri.blockio-class".to_owned();
            config.annotations.insert(key, "gold".to_owned());
        });
        let refusal = host.create(&pod_id, &pod, &own).await.unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal}");
        assert!(
            refusal.message().contains("it has broken, slow"),
            "{refusal}"
        );
        Ok(())
    });
}

#[test]
fn a_class_that_the_node_does_not_have_is_refused() {
    scenario(async |host| {
        for (domain, words) in [
            (BLOCK_IO, "set classes.block_io"),
            (RDT, "the node has no resctrl file system"),
        ] {
            let pod = PodSettings::edited("classed", move |config| {
                config
                    .annotations
                    .insert(format!("{domain}/pod"), "gold".into());
            });
            let pod_id = host.run_pod(&pod).await?;
            let container = ContainerSettings::sleeper("main");
            let refusal = host.create(&pod_id, &pod, &container).await.unwrap_err();
            assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal}");
            for word in [domain, "gold", words] {
                assert!(refusal.message().contains(word), "{refusal}");
            }
            host.cri.stop_pod(&pod_id).await?;
            host.cri.remove_pod(&pod_id).await?;
        }
        Ok(())
    });
}
