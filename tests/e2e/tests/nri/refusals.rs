//! What plugins may not do, what becomes of bad ones, and of what has come to nothing.

use std::{collections::BTreeMap, time::Duration};

use cri::v1::ContainerState;
use e2e::{ContainerSettings, Limits, PodSettings, scenario_with};
use nri::api;
use prost::Message;
use testkit::nri_plugin::{Plugin, Reaction};

use super::{
    MIB, SETTINGS, connect, creating, env, failing, limits, main_with_64_mib, of_pod, socket,
    update,
};

#[test]
fn plugins_do_not_confine_less_than_the_pod() {
    scenario_with(SETTINGS, async |host| {
        let linux = |linux: api::LinuxContainerAdjustment| api::ContainerAdjustment {
            linux: Some(linux),
            ..Default::default()
        };
        let pod = PodSettings::new("confined");
        let pod_id = host.run_pod(&pod).await?;
        let all_devices = api::LinuxDeviceCgroup {
            allow: true,
            r#type: "a".into(),
            access: "rwm".into(),
            ..Default::default()
        };
        for (adjust, words) in [
            (
                linux(api::LinuxContainerAdjustment {
                    namespaces: vec![api::LinuxNamespace {
                        r#type: "-network".into(),
                        path: String::new(),
                    }],
                    ..Default::default()
                }),
                "linux.namespaces: \"-network\"",
            ),
            (
                linux(api::LinuxContainerAdjustment {
                    namespaces: vec![api::LinuxNamespace {
                        r#type: "pid".into(),
                        path: "/proc/1/ns/pid".into(),
                    }],
                    ..Default::default()
                }),
                "/proc/1/ns/pid",
            ),
            (
                linux(api::LinuxContainerAdjustment {
                    resources: Some(api::LinuxResources {
                        devices: vec![all_devices],
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                "linux.resources.devices",
            ),
            (
                linux(api::LinuxContainerAdjustment {
                    seccomp_policy: Some(api::LinuxSeccomp {
                        default_action: "SCMP_ACT_ALLOW".into(),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                "linux.seccomp_policy",
            ),
            (
                linux(api::LinuxContainerAdjustment {
                    cgroups_path: "/somewhere/else".into(),
                    ..Default::default()
                }),
                "linux.cgroups_path",
            ),
            (
                linux(api::LinuxContainerAdjustment {
                    memory_policy: Some(api::LinuxMemoryPolicy {
                        mode: api::MpolMode::MpolBind.into(),
                        nodes: "here".into(),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                "linux.memoryPolicy.nodes: \"here\"",
            ),
            (
                linux(api::LinuxContainerAdjustment {
                    resources: Some(api::LinuxResources {
                        rdt_class: Some(api::OptionalString {
                            value: "gold".into(),
                        }),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                "the node has no resctrl file system",
            ),
            (
                linux(api::LinuxContainerAdjustment {
                    resources: Some(api::LinuxResources {
                        blockio_class: Some(api::OptionalString {
                            value: "gold".into(),
                        }),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                "set classes.block_io",
            ),
            (
                api::ContainerAdjustment {
                    mounts: vec![api::Mount {
                        destination: "/host".into(),
                        r#type: "bind".into(),
                        source: "/".into(),
                        options: vec!["rbind".into(), "rshared".into()],
                    }],
                    ..Default::default()
                },
                "mounts: \"/host\"",
            ),
        ] {
            let plugin = connect(host, "10", creating(adjust)).await?;
            let main = ContainerSettings::sleeper("main").edited(|config| {
                let linux = config.linux.get_or_insert_default();
                let security = linux.security_context.get_or_insert_default();
                security.seccomp = Some(cri::v1::SecurityProfile::default());
            });
            let error = host.create(&pod_id, &pod, &main).await.unwrap_err();
            assert!(error.message().contains(words), "{words:?}: {error}");
            drop(plugin);
        }
        assert!(host.cri.containers(None).await?.is_empty());
        Ok(())
    });
}

#[test]
fn others_make_room_or_keep_what_they_have() {
    scenario_with(SETTINGS, async |host| {
        let pod = PodSettings::new("room");
        let pod_id = host.run_pod(&pod).await?;
        let main = main_with_64_mib();
        let id = host.run(&pod_id, &pod, &main).await?;
        let limits_of_main = Limits::of(host, &id).await?;
        let (of_main, of_nobody) = (
            update(&id, limits(32 * MIB)),
            update("not-there", limits(MIB)),
        );
        let both = vec![of_main.clone(), of_nobody];
        let of_main = vec![of_main];
        let adjusting = |adjust: api::ContainerAdjustment, update: Vec<_>| {
            move |told: &testkit::nri_plugin::Told| match told.method.as_str() {
                "CreateContainer" => Reaction::answer(&api::CreateContainerResponse {
                    adjust: Some(adjust.clone()),
                    update: update.clone(),
                    evict: Vec::new(),
                }),
                _ => Reaction::content(),
            }
        };
        let nowhere = api::ContainerAdjustment {
            cdi_devices: vec![api::CdiDevice {
                name: "example.com/widget=absent".into(),
            }],
            ..Default::default()
        };
        let failing = failing();
        for (adjust, update, words) in [
            (nowhere, of_main.clone(), "example.com/widget=absent"),
            (api::ContainerAdjustment::default(), both, "not-there"),
            (failing, of_main.clone(), "/bin/false"),
        ] {
            let plugin = connect(host, "10", adjusting(adjust, update)).await?;
            let error = host
                .create(&pod_id, &pod, &ContainerSettings::sleeper("second"))
                .await
                .unwrap_err();
            assert!(error.message().contains(words), "{words}: {error}");
            let kept = (64 * MIB).to_string();
            assert_eq!(limits_of_main.memory()?, kept, "{words}");
            drop(plugin);
        }
        let _plugin = connect(host, "10", adjusting(Default::default(), of_main)).await?;
        host.create(&pod_id, &pod, &ContainerSettings::sleeper("second"))
            .await?;
        assert_eq!(limits_of_main.memory()?, (32 * MIB).to_string());
        Ok(())
    });
}

#[test]
fn bad_plugins_are_let_go() {
    let settings = SETTINGS.replace("request_timeout = \"60s\"", "request_timeout = \"1s\"");
    scenario_with(&settings, async |host| {
        let pod = PodSettings::new("bad");
        let pod_id = host.run_pod(&pod).await?;
        // Slow, dead, and mad ones hold up nothing for long.
        for (name, reaction) in [
            ("silent", (|| Reaction::Silence) as fn() -> Reaction),
            ("dead", || Reaction::Die),
            ("mad", || Reaction::Answer(vec![0xff, 0xff, 0xff])),
        ] {
            let plugin = connect(host, "10", move |told| match told.method.as_str() {
                "CreateContainer" => reaction(),
                _ => Reaction::content(),
            })
            .await?;
            let (_, output) = host
                .run_to_end(&pod_id, &pod, &ContainerSettings::sh(name, "echo ran"))
                .await?;
            assert_eq!(output, "ran\n", "{name}");
            assert_eq!(plugin.count("StartContainer"), 0, "{name} is let go");
            let status = host.cri.status(false).await?.status.unwrap_or_default();
            let told = status
                .conditions
                .iter()
                .any(|one| one.r#type == "LongshoreNri" && one.message.contains("10-test"));
            assert!(told, "{name}: {status:?}");
        }
        // One that cannot say who it is, is nobody.
        for (index, name) in [("ten", "test"), ("10", "")] {
            let socket = socket(host);
            let nobody = Plugin::connect(&socket, index, name, |_| Reaction::content());
            let error = nobody.await.unwrap_err();
            assert!(format!("{error:#}").contains("register"), "{error:#}");
        }
        // One that does not take what there is never comes to be asked, and the node says so.
        let _refuses = connect(host, "11", |told| match told.method.as_str() {
            "Synchronize" => Reaction::Refuse("not mine".into()),
            _ => Reaction::content(),
        })
        .await?;
        let mut looks = 0;
        loop {
            let status = host.cri.status(false).await?.status.unwrap_or_default();
            let mut all = status.conditions.iter();
            if all.any(|one| one.r#type == "LongshoreNri" && one.message.contains("not mine")) {
                return Ok(());
            }
            looks += 1;
            assert!(looks < 600, "11-test is left out in silence: {status:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
}

#[test]
fn refusals_are_heard() {
    let settings = format!("{SETTINGS}reject = [\"hooks\"]");
    scenario_with(&settings, async |host| {
        let pod = PodSettings::new("refused");
        let pod_id = host.run_pod(&pod).await?;
        // One that says no is heard, and one that changes what none may is not.
        let there = ContainerSettings::sleeper("there");
        let there = host.create(&pod_id, &pod, &there).await?;
        let refuses = connect(host, "10", |told| match told.method.as_str() {
            "CreateContainer" | "RunPodSandbox" | "StartContainer" | "UpdateContainer"
            | "UpdatePodSandbox" => Reaction::Refuse("not today".into()),
            _ => Reaction::content(),
        })
        .await?;
        let more = cri::v1::LinuxContainerResources {
            memory_limit_in_bytes: 64 * MIB,
            ..Default::default()
        };
        let pods = of_pod(&pod_id, more.clone());
        for refused in [
            host.cri.start(&there).await,
            host.cri.update(&there, more).await,
            host.cri.update_pod(pods).await,
        ] {
            let error = refused.unwrap_err();
            assert!(error.message().contains("not today"), "{error}");
        }
        let status = host.cri.container_status(&there).await?;
        assert_eq!(status.state(), ContainerState::ContainerCreated);
        assert_ne!(
            Limits::of(host, &there).await?.memory()?,
            (64 * MIB).to_string()
        );
        let error = host
            .create(&pod_id, &pod, &ContainerSettings::sleeper("no"))
            .await
            .unwrap_err();
        assert!(
            error
                .message()
                .contains("10-test refuses CreateContainer: not today"),
            "{error}"
        );
        let error = host.run_pod(&PodSettings::new("no")).await.unwrap_err();
        assert!(format!("{error:#}").contains("not today"), "{error:#}");
        assert_eq!(host.cri.pods(None).await?.len(), 1, "nothing of it stays");
        drop(refuses);
        let hooks = api::ContainerAdjustment {
            hooks: Some(api::Hooks {
                poststop: vec![api::Hook {
                    path: "/bin/true".into(),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        };
        let hooking = connect(host, "10", creating(hooks)).await?;
        let error = host
            .create(&pod_id, &pod, &ContainerSettings::sleeper("hooked"))
            .await
            .unwrap_err();
        assert!(error.message().contains("10-test changed hooks"), "{error}");
        drop(hooking);
        // A validator looks at what others want.
        let _changing = connect(
            host,
            "10",
            creating(api::ContainerAdjustment {
                env: vec![env("A", "b")],
                ..Default::default()
            }),
        )
        .await?;
        let validator = connect(host, "90", |told| match told.method.as_str() {
            "ValidateContainerAdjustment" => {
                let request =
                    api::ValidateContainerAdjustmentRequest::decode(told.payload.as_slice());
                let owners: BTreeMap<_, _> = request
                    .unwrap_or_default()
                    .owners
                    .unwrap_or_default()
                    .owners;
                let env = i32::from(api::Field::Env);
                let owner = owners
                    .values()
                    .find_map(|fields| fields.compound.get(&env)?.owners.get("A").cloned());
                Reaction::answer(&api::ValidateContainerAdjustmentResponse {
                    reject: true,
                    reason: format!("A is {}'s", owner.unwrap_or_default()),
                })
            }
            _ => Reaction::content(),
        })
        .await?;
        let error = host
            .create(&pod_id, &pod, &ContainerSettings::sleeper("judged"))
            .await
            .unwrap_err();
        assert!(error.message().contains("A is 10-test's"), "{error}");
        drop(validator);
        // A pod may need one that is not there.
        let needs = PodSettings::edited("needs", |config| {
            let list = "[ absent ]".to_owned();
            config
                .annotations
                .insert("required-plugins.noderesource.dev".into(), list);
        });
        let error = host.run_pod(&needs).await.unwrap_err();
        assert!(
            format!("{error:#}").contains("absent is required"),
            "{error:#}"
        );
        Ok(())
    });
}
