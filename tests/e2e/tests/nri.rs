//! Plugins of the Node Resource Interface: what they are told, what they change, and what they may not.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc};

use cri::v1::{ContainerState, LinuxContainerResources};
use e2e::{ContainerSettings, Host, Limits, PodSettings, scenario_with};
use nri::api;
use prost::Message;
use testkit::nri_plugin::{Plugin, Reaction};
use tokio::sync::Semaphore;
use tonic::Code;

/// Patient: on a machine that is busy, a plugin that is well may still be slow.
const SETTINGS: &str = r#"[nri]
socket = "/run/e2e/nri.sock"
plugins = "/run/e2e/plugins"
configurations = "/run/e2e/nri.d"
registration_timeout = "60s"
request_timeout = "60s"
"#;
const MIB: i64 = 1 << 20;

fn socket(host: &Host) -> PathBuf {
    host.sandbox.view("/run/e2e/nri.sock")
}

async fn connect(
    host: &Host,
    index: &str,
    react: impl Fn(&testkit::nri_plugin::Told) -> Reaction + Send + 'static,
) -> anyhow::Result<Plugin> {
    Plugin::connect(&socket(host), index, "test", react).await
}

fn creating(
    adjust: api::ContainerAdjustment,
) -> impl Fn(&testkit::nri_plugin::Told) -> Reaction + Send + 'static {
    move |told| match told.method.as_str() {
        "CreateContainer" => Reaction::adjust(adjust.clone()),
        _ => Reaction::content(),
    }
}

fn env(key: &str, value: &str) -> api::KeyValue {
    api::KeyValue {
        key: key.to_owned(),
        value: value.to_owned(),
    }
}

fn limits(memory: i64) -> api::LinuxResources {
    api::LinuxResources {
        memory: Some(api::LinuxMemory {
            limit: Some(api::OptionalInt64 { value: memory }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn update(id: &str, resources: api::LinuxResources) -> api::ContainerUpdate {
    api::ContainerUpdate {
        container_id: id.to_owned(),
        linux: Some(api::LinuxContainerUpdate {
            resources: Some(resources),
        }),
        ignore_failure: false,
    }
}

#[test]
fn plugins_are_told_of_everything_in_order() {
    scenario_with(SETTINGS, async |host| {
        let plugin = connect(host, "10", |_| Reaction::content()).await?;
        let pod = PodSettings::new("told");
        let pod_id = host.run_pod(&pod).await?;
        let main = ContainerSettings::sleeper("main");
        let id = host.run(&pod_id, &pod, &main).await?;
        let resources = LinuxContainerResources {
            memory_limit_in_bytes: 64 * MIB,
            ..Default::default()
        };
        host.cri.update(&id, resources).await?;
        host.cri.stop(&id, 10).await?;
        host.cri.remove(&id).await?;
        // One that ends by itself, and one that goes with its pod.
        host.run_to_end(&pod_id, &pod, &ContainerSettings::sh("short", "exit 3"))
            .await?;
        plugin.until("told", "StopContainer short").await?;
        host.run(&pod_id, &pod, &ContainerSettings::sleeper("last"))
            .await?;
        host.cri.stop_pod(&pod_id).await?;
        // Again is no news.
        host.cri.stop_pod(&pod_id).await?;
        host.cri.remove_pod(&pod_id).await?;
        let mut told = plugin.about("told");
        let removals = told.split_off(told.len() - 3);
        assert_eq!(
            told,
            [
                "RunPodSandbox",
                "CreateContainer main",
                "ValidateContainerAdjustment main",
                "PostCreateContainer main",
                "StartContainer main",
                "PostStartContainer main",
                "UpdateContainer main",
                "PostUpdateContainer main",
                "StopContainer main",
                "RemoveContainer main",
                "CreateContainer short",
                "ValidateContainerAdjustment short",
                "PostCreateContainer short",
                "StartContainer short",
                "PostStartContainer short",
                "StopContainer short",
                "CreateContainer last",
                "ValidateContainerAdjustment last",
                "PostCreateContainer last",
                "StartContainer last",
                "PostStartContainer last",
                "StopContainer last",
                "StopPodSandbox",
            ]
        );
        assert_eq!(
            removals.last().map(String::as_str),
            Some("RemovePodSandbox"),
            "{removals:?}"
        );
        let all = plugin.told();
        let started = all
            .iter()
            .find(|one| one.method == "PostStartContainer")
            .expect("it was started");
        let started = api::PostStartContainerRequest::decode(started.payload.as_slice())?;
        let (pod, container) = (
            started.pod.unwrap_or_default(),
            started.container.unwrap_or_default(),
        );
        assert_eq!(
            (pod.id.as_str(), pod.uid.as_str()),
            (pod_id.as_str(), "uid-of-told")
        );
        assert_eq!(container.state(), api::ContainerState::ContainerRunning);
        assert!(container.pid != 0 && !container.args.is_empty() && !container.mounts.is_empty());
        let ended = all
            .iter()
            .find(|one| one.method == "StopContainer" && one.container == "short")
            .expect("it ended");
        let ended = api::StopContainerRequest::decode(ended.payload.as_slice())?;
        assert_eq!(ended.container.unwrap_or_default().exit_code, 3);
        Ok(())
    });
}

#[test]
fn what_plugins_change_the_kernel_shows() {
    let cdi = "[cdi]\ndirectories = [\"/run/e2e/cdi\"]\n";
    scenario_with(&format!("{cdi}{SETTINGS}"), async |host| {
        let write = |name: &str, text: &str| {
            let path = host.sandbox.view(PathBuf::from("/run/e2e").join(name));
            fs::create_dir_all(path.parent().expect("it has a parent"))?;
            fs::write(path, text)
        };
        write("given", "by a plugin\n")?;
        write("hook", "#!/bin/sh\ncat >/run/e2e/hooked\n")?;
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(
            host.sandbox.view("/run/e2e/hook"),
            fs::Permissions::from_mode(0o755),
        )?;
        write(
            "cdi/widget.json",
            r#"{"cdiVersion": "0.6.0", "kind": "example.com/widget", "devices": [{"name": "one", "containerEdits": {"env": ["WIDGET=one"]}}]}"#,
        )?;
        let adjust = api::ContainerAdjustment {
            annotations: [("example.com/by".to_owned(), "plugin".to_owned())].into(),
            mounts: vec![
                api::Mount {
                    destination: "/given".into(),
                    r#type: "bind".into(),
                    source: "/run/e2e/given".into(),
                    options: vec!["bind".into(), "ro".into()],
                },
                api::Mount {
                    destination: "-/etc/hostname".into(),
                    ..Default::default()
                },
            ],
            env: vec![env("ADDED", "yes"), env("-TAKEN", ""), env("CHANGED", "after")],
            args: vec![
                "sh".into(),
                "-c".into(),
                "echo $ADDED/$TAKEN/$CHANGED/$WIDGET; cat /given; test -s /etc/hostname || echo nameless; \
                 ulimit -n; echo x >/dev/fuller; cat /proc/sys/net/ipv4/ip_local_port_range; sleep 1000"
                    .into(),
            ],
            hooks: Some(api::Hooks {
                create_runtime: vec![api::Hook {
                    path: "/run/e2e/hook".into(),
                    args: vec!["hook".into()],
                    ..Default::default()
                }],
                ..Default::default()
            }),
            rlimits: vec![api::PosixRlimit {
                r#type: "RLIMIT_NOFILE".into(),
                hard: 321,
                soft: 123,
            }],
            cdi_devices: vec![api::CdiDevice {
                name: "example.com/widget=one".into(),
            }],
            linux: Some(api::LinuxContainerAdjustment {
                devices: vec![api::LinuxDevice {
                    path: "/dev/fuller".into(),
                    r#type: "c".into(),
                    major: 1,
                    minor: 7,
                    ..Default::default()
                }],
                resources: Some(api::LinuxResources {
                    cpu: Some(api::LinuxCpu {
                        shares: Some(api::OptionalUInt64 { value: 512 }),
                        cpus: "0".into(),
                        ..Default::default()
                    }),
                    pids: Some(api::LinuxPids { limit: 77 }),
                    ..limits(48 * MIB)
                }),
                oom_score_adj: Some(api::OptionalInt { value: 777 }),
                io_priority: Some(api::LinuxIoPriority {
                    class: api::IoPrioClass::IoprioClassIdle.into(),
                    priority: 0,
                }),
                scheduler: Some(api::LinuxScheduler {
                    policy: api::LinuxSchedulerPolicy::SchedBatch.into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
        };
        let _plugin = connect(host, "10", creating(adjust)).await?;
        let pod = PodSettings::new("changed");
        let pod_id = host.run_pod(&pod).await?;
        let main = ContainerSettings::sh("main", "echo not this").edited(|config| {
            for (key, value) in [("TAKEN", "away"), ("CHANGED", "before")] {
                config.envs.push(cri::v1::KeyValue {
                    key: key.into(),
                    value: value.into(),
                });
            }
        });
        let id = host.run(&pod_id, &pod, &main).await?;
        host.until_logged(&pod, &main, "nameless").await?;
        host.until_logged(&pod, &main, "No space left").await?;
        let output = host.output(&pod, &main)?;
        for words in ["yes//after/one\n", "by a plugin\n", "nameless\n", "123\n"] {
            assert!(output.contains(words), "{words:?}: {output}");
        }
        let limits = Limits::of(host, &id).await?;
        assert_eq!(limits.memory()?, (48 * MIB).to_string());
        assert_eq!(limits.cpus()?, "0");
        assert_eq!(
            host.cri.sh(&id, "cat /proc/1/oom_score_adj").await?.trim(),
            "777"
        );
        // SCHED_BATCH is 3, of the program and, soon after its beginning, of what is executed beside it.
        let policy = host.cri.sh(&id, "cut -d' ' -f41 /proc/1/stat").await?;
        assert_eq!(policy.trim(), "3");
        let soon =
            "until [ \"$(cut -d' ' -f41 /proc/$$/stat)\" = 3 ]; do sleep 0.05; done; echo batch";
        assert_eq!(host.cri.sh(&id, soon).await?, "batch\n");
        assert_eq!(host.cri.sh(&id, "ionice -p 1").await?.trim(), "idle");
        let shown = host.cri.container_status(&id).await?.resources;
        let shown = shown.and_then(|all| all.linux).unwrap_or_default();
        assert_eq!(
            (shown.memory_limit_in_bytes, shown.oom_score_adj),
            (48 * MIB, 777),
            "what is in force"
        );
        let hooked = fs::read_to_string(host.sandbox.view("/run/e2e/hooked"))?;
        assert!(hooked.contains(&id), "{hooked}");
        let info = host.cri.container_status_with(&id, true).await?.info;
        let info: serde_json::Value = serde_json::from_str(&info["info"])?;
        let spec = &info["runtimeSpec"];
        assert_eq!(spec["annotations"]["example.com/by"], "plugin");
        assert_eq!(spec["linux"]["resources"]["pids"]["limit"], 77);
        for name in ["given", "hook", "hooked", "cdi/widget.json"] {
            fs::remove_file(host.sandbox.view(PathBuf::from("/run/e2e").join(name)))?;
        }
        Ok(fs::remove_dir(host.sandbox.view("/run/e2e/cdi"))?)
    });
}

#[test]
fn plugins_are_asked_by_index_and_do_not_contradict_each_other() {
    scenario_with(SETTINGS, async |host| {
        let adjust = |changes: Vec<api::KeyValue>| api::ContainerAdjustment {
            env: changes,
            ..Default::default()
        };
        let later = adjust(vec![env("-BOTH", ""), env("BOTH", "second")]);
        let second = connect(host, "20", creating(later)).await?;
        let _first = connect(host, "10", creating(adjust(vec![env("BOTH", "first")]))).await?;
        let pod = PodSettings::new("ordered");
        let pod_id = host.run_pod(&pod).await?;
        let told = ContainerSettings::sh("told", "echo $BOTH");
        let (_, output) = host.run_to_end(&pod_id, &pod, &told).await?;
        assert_eq!(output, "second\n", "taken away, then claimed");
        let seen = second.told();
        let seen = seen
            .iter()
            .find(|one| one.method == "CreateContainer")
            .expect("it was asked");
        let seen = api::CreateContainerRequest::decode(seen.payload.as_slice())?;
        let env_seen = seen.container.unwrap_or_default().env;
        assert!(env_seen.contains(&"BOTH=first".to_owned()), "{env_seen:?}");

        let _third = connect(host, "30", creating(adjust(vec![env("BOTH", "third")]))).await?;
        let error = host
            .create(&pod_id, &pod, &ContainerSettings::sleeper("both"))
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
        for words in ["20-test", "30-test", "Env \"BOTH\""] {
            assert!(error.message().contains(words), "{words}: {error}");
        }
        assert_eq!(host.cri.containers(None).await?.len(), 1, "the first one");
        Ok(())
    });
}

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
                        nodes: "0".into(),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                "linux.memoryPolicy is not supported",
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
                "linux.resources.rdt_class",
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
fn a_late_plugin_loses_nothing() {
    scenario_with(SETTINGS, async |host| {
        let pod = PodSettings::new("late");
        let pod_id = host.run_pod(&pod).await?;
        let before = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("before"))
            .await?;
        // It is asked about a container while another one comes, and about others while it synchronizes.
        let (held, syncing) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let hold = Arc::clone(&held);
        let first = connect(host, "10", move |told| match told.method.as_str() {
            "CreateContainer" if told.container == "under-way" => Reaction::Wait(Arc::clone(&hold)),
            _ => Reaction::content(),
        })
        .await?;
        let create = |name: &'static str| {
            let (pod_id, pod, cri) = (pod_id.clone(), host.pod_config(&pod), host.cri.clone());
            let config = ContainerSettings::sleeper(name).config(&host.image);
            tokio::spawn(async move { cri.create(&pod_id, config, pod).await })
        };
        let under_way = create("under-way");
        first.until("late", "CreateContainer under-way").await?;
        let wait = Arc::clone(&syncing);
        let late = connect(host, "20", move |told| match told.method.as_str() {
            "Synchronize" => Reaction::Wait(Arc::clone(&wait)),
            _ => Reaction::content(),
        })
        .await?;
        held.add_permits(1);
        let during = create("during");
        first.until("late", "CreateContainer during").await?;
        syncing.add_permits(1);
        let (under_way, during) = (under_way.await??, during.await??);
        late.until("late", "PostCreateContainer during").await?;
        let told = late.told();
        let synchronized = told
            .iter()
            .find(|one| one.method == "Synchronize")
            .expect("it was asked");
        let synchronized = api::SynchronizeRequest::decode(synchronized.payload.as_slice())?;
        let mut known: Vec<_> = synchronized
            .containers
            .iter()
            .map(|one| one.id.clone())
            .collect();
        assert_eq!(synchronized.pods.len(), 1);
        let created = told.iter().filter(|one| one.method == "CreateContainer");
        for one in created {
            let request = api::CreateContainerRequest::decode(one.payload.as_slice())?;
            known.push(request.container.unwrap_or_default().id);
        }
        known.sort_unstable();
        let mut all = vec![before, under_way, during];
        all.sort_unstable();
        assert_eq!(known, all, "each once: {:?}", late.about("late"));
        Ok(())
    });
}

#[test]
fn plugins_change_and_end_containers_that_live() {
    scenario_with(SETTINGS, async |host| {
        let plugin = connect(host, "10", |told| {
            if told.method != "UpdateContainer" {
                return Reaction::content();
            }
            let request =
                api::UpdateContainerRequest::decode(told.payload.as_slice()).unwrap_or_default();
            let id = request.container.unwrap_or_default().id;
            // Half of what is asked for.
            let asked = request
                .linux_resources
                .and_then(|all| all.memory?.limit)
                .map_or(0, |limit| limit.value);
            Reaction::answer(&api::UpdateContainerResponse {
                update: vec![update(&id, limits(asked / 2))],
                ..Default::default()
            })
        })
        .await?;
        let pod = PodSettings::new("lively");
        let pod_id = host.run_pod(&pod).await?;
        let id = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("main"))
            .await?;
        let failed = plugin
            .update(
                vec![
                    update(&id, limits(96 * MIB)),
                    update("not-there", limits(MIB)),
                ],
                Vec::new(),
            )
            .await?;
        assert_eq!(failed.len(), 1);
        assert_eq!(failed[0].container_id, "not-there");
        let shown = Limits::of(host, &id).await?;
        assert_eq!(shown.memory()?, (96 * MIB).to_string());
        assert_eq!(
            plugin.count("UpdateContainer"),
            0,
            "its own wishes are no news"
        );
        let asked = LinuxContainerResources {
            memory_limit_in_bytes: 64 * MIB,
            ..Default::default()
        };
        host.cri.update(&id, asked).await?;
        assert_eq!(shown.memory()?, (32 * MIB).to_string());
        let eviction = api::ContainerEviction {
            container_id: id.clone(),
            reason: "a test".into(),
        };
        plugin.update(Vec::new(), vec![eviction]).await?;
        let status = host.until_exited(&id).await?;
        assert_eq!(status.state(), ContainerState::ContainerExited);
        plugin.until("lively", "StopContainer main").await?;
        Ok(())
    });
}

#[test]
fn others_make_room_or_keep_what_they_have() {
    scenario_with(SETTINGS, async |host| {
        let pod = PodSettings::new("room");
        let pod_id = host.run_pod(&pod).await?;
        let main = ContainerSettings::sleeper("main").edited(|config| {
            let linux = config.linux.get_or_insert_default();
            let resources = linux.resources.get_or_insert_default();
            resources.memory_limit_in_bytes = 64 * MIB;
        });
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
        let failing = api::ContainerAdjustment {
            hooks: Some(api::Hooks {
                create_runtime: vec![api::Hook {
                    path: "/bin/false".into(),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        };
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
fn late_plugins_lose_nothing_while_containers_come_and_go() {
    /// Of each pod; every second one is removed again.
    const CONTAINERS: usize = 6;
    scenario_with(SETTINGS, async |host| {
        let mut churn = Vec::new();
        for name in ["one", "two", "three"] {
            let pod = PodSettings::new(name);
            let pod_id = host.run_pod(&pod).await?;
            let (pod, cri, image) = (host.pod_config(&pod), host.cri.clone(), host.image.clone());
            churn.push(tokio::spawn(async move {
                let mut kept = Vec::new();
                for number in 0..CONTAINERS {
                    let settings = ContainerSettings::sleeper(&format!("c{number}"));
                    let id = cri
                        .create(&pod_id, settings.config(&image), pod.clone())
                        .await?;
                    match number % 2 {
                        0 => kept.push(id),
                        _ => cri.remove(&id).await?,
                    }
                }
                Ok::<_, tonic::Status>(kept)
            }));
        }
        let mut plugins = Vec::new();
        while !churn.iter().all(tokio::task::JoinHandle::is_finished) && plugins.len() < 20 {
            let index = format!("{:02}", plugins.len());
            plugins.push(connect(host, &index, |_| Reaction::content()).await?);
        }
        let mut kept = Vec::new();
        for task in churn {
            kept.extend(task.await??);
        }
        assert!(plugins.len() > 1, "some came while containers did");
        for plugin in &plugins {
            let mut known = Vec::new();
            for one in plugin.told() {
                match one.method.as_str() {
                    "Synchronize" => {
                        let all = api::SynchronizeRequest::decode(one.payload.as_slice())?;
                        known.extend(all.containers.into_iter().map(|container| container.id));
                    }
                    "CreateContainer" => {
                        let asked = api::CreateContainerRequest::decode(one.payload.as_slice())?;
                        known.push(asked.container.unwrap_or_default().id);
                    }
                    _ => {}
                }
            }
            let told = known.len();
            known.sort_unstable();
            known.dedup();
            assert_eq!(known.len(), told, "each once");
            for id in &kept {
                assert!(known.contains(id), "{id} is lost: {known:?}");
            }
        }
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
        Ok(())
    });
}

#[test]
fn refusals_are_heard() {
    let settings = format!("{SETTINGS}reject = [\"hooks\"]");
    scenario_with(&settings, async |host| {
        let pod = PodSettings::new("refused");
        let pod_id = host.run_pod(&pod).await?;
        // One that says no is heard, and one that changes what none may is not.
        let refuses = connect(host, "10", |told| match told.method.as_str() {
            "CreateContainer" | "RunPodSandbox" => Reaction::Refuse("not today".into()),
            _ => Reaction::content(),
        })
        .await?;
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

#[test]
fn installed_plugins_are_there_before_the_first_pod() {
    scenario_with(SETTINGS, async |host| {
        let directory = host.sandbox.view("/run/e2e/plugins");
        fs::create_dir_all(&directory)?;
        fs::copy(
            testkit::daemon::binary("testkit-nri-plugin")?,
            directory.join("30-echo"),
        )?;
        fs::write(directory.join("no-plugin"), "")?;
        let configurations = host.sandbox.view("/run/e2e/nri.d");
        fs::create_dir_all(&configurations)?;
        fs::write(configurations.join("echo.conf"), "as configured")?;
        host.restart_daemon().await?;
        let pod = PodSettings::new("installed");
        let pod_id = host.run_pod(&pod).await?;
        let (_, output) = host
            .run_to_end(
                &pod_id,
                &pod,
                &ContainerSettings::sh("main", "echo $NRI_CONFIG"),
            )
            .await?;
        assert_eq!(output, "as configured\n");
        fs::remove_dir_all(directory)?;
        fs::remove_dir_all(configurations)?;
        // It goes with the daemon that has started it.
        host.restart_daemon().await
    });
}
