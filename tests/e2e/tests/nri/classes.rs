//! Classes of block I/O, named by a plugin.

use std::fs;

use e2e::{ContainerSettings, PodSettings, is_v2, scenario_with};
use nri::api;

use super::{SETTINGS, connect, creating};
use crate::classes::{disk, throttles};

#[test]
fn a_plugin_names_a_class_of_the_node() {
    let (disk, number) = disk().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("blockio.yaml");
    let text = format!(
        "Classes:\n  slow:\n  - Devices: ['{disk}']\n    ThrottleReadBps: 50M\n    ThrottleWriteIOPS: 5k\n"
    );
    fs::write(&file, text).unwrap();
    let settings = format!("[classes]\nblock_io = {file:?}\n{SETTINGS}");
    scenario_with(&settings, async |host| {
        let named = |name: &str| api::ContainerAdjustment {
            linux: Some(api::LinuxContainerAdjustment {
                resources: Some(api::LinuxResources {
                    blockio_class: Some(api::OptionalString { value: name.into() }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let pod = PodSettings::edited("classed", |config| {
            let class = "blockio.resources.beta.kubernetes.io/container.freed";
            config.annotations.insert(class.into(), "slow".into());
        });
        let pod_id = host.run_pod(&pod).await?;
        let plugin = connect(host, "10", creating(named("slow"))).await?;
        let slow = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("slow"))
            .await?;
        let expected = match is_v2() {
            true => format!("{number} rbps=50000000 wbps=max riops=max wiops=5000"),
            false => format!("{number} 50000000 {number} 5000"),
        };
        assert_eq!(throttles(host, &slow).await?, expected);
        drop(plugin);
        let plugin = connect(host, "10", creating(named("gold"))).await?;
        let gold = ContainerSettings::sleeper("gold");
        let refused = host.create(&pod_id, &pod, &gold).await.unwrap_err();
        for word in ["linux.resources.blockio_class", "gold", "it has slow"] {
            assert!(refused.message().contains(word), "{refused}");
        }
        drop(plugin);
        // An empty name takes away the class that the pod asks for.
        let _plugin = connect(host, "10", creating(named(""))).await?;
        let freed = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("freed"))
            .await?;
        assert_eq!(throttles(host, &freed).await?.trim(), "");
        Ok(())
    });
}
