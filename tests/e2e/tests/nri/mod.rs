//! Plugins of the Node Resource Interface: what they are told, what they change, and what they may not.

mod classes;
mod kernel;
mod late;
pub(crate) mod net_devices;
mod refusals;
mod required;

use std::{fs, path::PathBuf};

use cri::v1::{ContainerState, LinuxContainerResources, UpdatePodSandboxResourcesRequest};
use e2e::{ContainerSettings, Host, Limits, PodSettings, scenario_with};
use nri::api;
use prost::Message;
use testkit::nri_plugin::{Plugin, Reaction};
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

/// What plugins' updates start from.
fn main_with_64_mib() -> ContainerSettings {
    ContainerSettings::sleeper("main").edited(|config| {
        let linux = config.linux.get_or_insert_default();
        let resources = linux.resources.get_or_insert_default();
        resources.memory_limit_in_bytes = 64 * MIB;
    })
}

/// A hook that fails before the container is made.
fn failing() -> api::ContainerAdjustment {
    api::ContainerAdjustment {
        hooks: Some(api::Hooks {
            create_runtime: vec![api::Hook {
                path: "/bin/false".into(),
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
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

fn of_pod(id: &str, resources: LinuxContainerResources) -> UpdatePodSandboxResourcesRequest {
    UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: id.to_owned(),
        overhead: None,
        resources: Some(resources),
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
        host.cri.update(&id, resources.clone()).await?;
        host.cri.update_pod(of_pod(&pod_id, resources)).await?;
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
                "UpdatePodSandbox",
                "PostUpdatePodSandbox",
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
        let updated = all
            .iter()
            .find(|one| one.method == "UpdatePodSandbox")
            .expect("its resources were changed");
        let updated = api::UpdatePodSandboxRequest::decode(updated.payload.as_slice())?;
        assert_eq!(updated.pod.unwrap_or_default().id, pod_id);
        let asked = updated.linux_resources.unwrap_or_default();
        assert_eq!(asked.memory, limits(64 * MIB).memory);
        assert_eq!(updated.overhead_linux_resources, None);
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
