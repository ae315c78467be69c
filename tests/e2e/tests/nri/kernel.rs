//! What plugins adjust beside what requests can say, as the kernel has it: limits of cgroup v1, and memory policies.

use std::{fs, path::Path};

use cri::v1::security_profile::ProfileType;
use e2e::{ContainerSettings, Limits, PodSettings, is_v2, scenario_with};
use nri::api;
use testkit::nri_plugin::Reaction;

use super::{MIB, SETTINGS, connect, creating, update};

fn linux(linux: api::LinuxContainerAdjustment) -> api::ContainerAdjustment {
    api::ContainerAdjustment {
        linux: Some(linux),
        ..Default::default()
    }
}

fn limited(resources: api::LinuxResources) -> api::ContainerAdjustment {
    linux(api::LinuxContainerAdjustment {
        resources: Some(resources),
        ..Default::default()
    })
}

fn of_memory(memory: api::LinuxMemory) -> api::LinuxResources {
    api::LinuxResources {
        memory: Some(memory),
        ..Default::default()
    }
}

fn of_cpu(cpu: api::LinuxCpu) -> api::LinuxResources {
    api::LinuxResources {
        cpu: Some(cpu),
        ..Default::default()
    }
}

fn swappiness(value: u64) -> api::LinuxMemory {
    api::LinuxMemory {
        swappiness: Some(api::OptionalUInt64 { value }),
        ..Default::default()
    }
}

fn no_oom_killer(value: bool) -> api::LinuxMemory {
    api::LinuxMemory {
        disable_oom_killer: Some(api::OptionalBool { value }),
        ..Default::default()
    }
}

fn realtime(period: u64, runtime: i64) -> api::LinuxCpu {
    api::LinuxCpu {
        realtime_period: Some(api::OptionalUInt64 { value: period }),
        realtime_runtime: Some(api::OptionalInt64 { value: runtime }),
        ..Default::default()
    }
}

#[test]
fn what_no_kernel_here_limits_is_refused_by_name() {
    scenario_with(SETTINGS, async |host| {
        let pod = PodSettings::new("refused");
        let pod_id = host.run_pod(&pod).await?;
        let bytes = Some(api::OptionalInt64 { value: MIB });
        let kernel = api::LinuxMemory {
            kernel: bytes,
            ..Default::default()
        };
        let kernel_tcp = api::LinuxMemory {
            kernel_tcp: bytes,
            ..Default::default()
        };
        let mut cases = vec![(of_memory(kernel), "linux.resources.memory.kernel", "5.16")];
        if is_v2() {
            let v2 = "cgroup v2";
            cases.extend([
                (
                    of_memory(kernel_tcp),
                    "linux.resources.memory.kernel_tcp",
                    v2,
                ),
                (
                    of_memory(swappiness(5)),
                    "linux.resources.memory.swappiness",
                    v2,
                ),
                (
                    of_memory(no_oom_killer(true)),
                    "linux.resources.memory.disable_oom_killer",
                    v2,
                ),
                (
                    of_cpu(realtime(1000, 500)),
                    "linux.resources.cpu.realtime",
                    v2,
                ),
            ]);
        }
        for (resources, field, why) in cases {
            let plugin = connect(host, "10", creating(limited(resources))).await?;
            let main = ContainerSettings::sleeper("main");
            let error = host.create(&pod_id, &pod, &main).await.unwrap_err();
            for words in [field, why] {
                assert!(error.message().contains(words), "{words:?}: {error}");
            }
            drop(plugin);
        }
        assert!(host.cri.containers(None).await?.is_empty());
        Ok(())
    });
}

#[test]
fn limits_of_v1_are_set_and_changed() {
    if is_v2() {
        // All of them are refused there: the test above.
        return;
    }
    scenario_with(SETTINGS, async |host| {
        let pod = PodSettings::new("v1");
        let pod_id = host.run_pod(&pod).await?;
        // A share of realtime comes from above, where the kernel shares it out.
        let top = host.sandbox.cgroup();
        let share = Path::new("/sys/fs/cgroup/cpu")
            .join(top.trim_matches('/'))
            .join("cpu.rt_runtime_us");
        let shares = share.exists();
        let cpu = match shares {
            true => {
                fs::write(&share, "20000")?;
                Some(realtime(500_000, 4000))
            }
            false => None,
        };
        let resources = api::LinuxResources {
            cpu,
            ..of_memory(api::LinuxMemory {
                reservation: Some(api::OptionalInt64 { value: 32 * MIB }),
                kernel_tcp: Some(api::OptionalInt64 { value: 8 * MIB }),
                disable_oom_killer: Some(api::OptionalBool { value: true }),
                ..swappiness(7)
            })
        };
        let fifo = api::LinuxScheduler {
            policy: api::LinuxSchedulerPolicy::SchedFifo.into(),
            priority: 1,
            ..Default::default()
        };
        let adjust = linux(api::LinuxContainerAdjustment {
            resources: Some(resources),
            scheduler: shares.then_some(fifo),
            ..Default::default()
        });
        let plugin = connect(host, "10", creating(adjust)).await?;
        let id = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("main"))
            .await?;
        let now = Limits::of(host, &id).await?;
        let of_memory_file = |name: &str| now.read("memory", name, name);
        let file = |name: &str, value: String| -> anyhow::Result<()> {
            assert_eq!(of_memory_file(name)?, value, "{name}");
            Ok(())
        };
        file("memory.soft_limit_in_bytes", (32 * MIB).to_string())?;
        file("memory.kmem.tcp.limit_in_bytes", (8 * MIB).to_string())?;
        file("memory.swappiness", "7".to_owned())?;
        let oom_killer = || of_memory_file("memory.oom_control");
        assert!(oom_killer()?.contains("oom_kill_disable 1"));
        if shares {
            assert_eq!(now.read("cpu", "cpu.rt_period_us", "")?, "500000");
            assert_eq!(now.read("cpu", "cpu.rt_runtime_us", "")?, "4000");
            // SCHED_FIFO, which without a share nobody is.
            let policy = host.cri.sh(&id, "cut -d' ' -f41 /proc/1/stat").await?;
            assert_eq!(policy.trim(), "1");
        }
        // Of the living: one after the other, and all or nothing.
        let change = of_memory(api::LinuxMemory {
            disable_oom_killer: Some(api::OptionalBool { value: false }),
            ..swappiness(9)
        });
        let failed = plugin.update(vec![update(&id, change)], Vec::new()).await?;
        assert_eq!(failed, []);
        file("memory.swappiness", "9".to_owned())?;
        assert!(oom_killer()?.contains("oom_kill_disable 0"));
        let wrong = of_memory(api::LinuxMemory {
            reservation: Some(api::OptionalInt64 { value: 16 * MIB }),
            ..swappiness(9999)
        });
        let failed = plugin.update(vec![update(&id, wrong)], Vec::new()).await?;
        assert_eq!(failed.len(), 1);
        file("memory.soft_limit_in_bytes", (32 * MIB).to_string())?;
        file("memory.swappiness", "9".to_owned())?;
        // What comes to nothing with another container is given back: what the kernel had by itself, too.
        drop(plugin);
        let plain = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("plain"))
            .await?;
        let of_plain = Limits::of(host, &plain).await?;
        let before = of_plain.read("memory", "memory.swappiness", "")?;
        let both = vec![
            update(&plain, of_memory(swappiness(3))),
            update("not-there", of_memory(swappiness(3))),
        ];
        let _greedy = connect(host, "10", move |told| match told.method.as_str() {
            "CreateContainer" => Reaction::answer(&api::CreateContainerResponse {
                update: both.clone(),
                ..Default::default()
            }),
            _ => Reaction::content(),
        })
        .await?;
        let third = ContainerSettings::sleeper("third");
        let error = host.create(&pod_id, &pod, &third).await.unwrap_err();
        assert!(error.message().contains("not-there"), "{error}");
        assert_eq!(of_plain.read("memory", "memory.swappiness", "")?, before);
        Ok(())
    });
}

#[test]
fn memory_comes_from_the_nodes_of_the_policy() {
    scenario_with(SETTINGS, async |host| {
        let pod = PodSettings::new("nodes");
        let pod_id = host.run_pod(&pod).await?;
        let policy = |nodes: &str| {
            linux(api::LinuxContainerAdjustment {
                memory_policy: Some(api::LinuxMemoryPolicy {
                    mode: api::MpolMode::MpolBind.into(),
                    nodes: nodes.to_owned(),
                    flags: vec![api::MpolFlag::MpolFStaticNodes.into()],
                }),
                ..Default::default()
            })
        };
        let plugin = connect(host, "10", creating(policy("1023"))).await?;
        let main = ContainerSettings::sleeper("main");
        let error = host.create(&pod_id, &pod, &main).await.unwrap_err();
        assert!(error.message().contains("memory policy"), "{error}");
        drop(plugin);
        assert!(host.cri.containers(None).await?.is_empty());
        let plugin = connect(host, "10", creating(policy("0"))).await?;
        let created = host.create(&pod_id, &pod, &main).await;
        if !Path::new("/proc/self/numa_maps").exists() {
            let error = created.unwrap_err();
            assert!(error.message().contains("memory policy"), "{error}");
            return Ok(());
        }
        let id = created?;
        host.cri.start(&id).await?;
        // Of the program, and of what is executed beside it.
        for process in ["1", "self"] {
            let script = format!("head -n 1 /proc/{process}/numa_maps");
            let maps = host.cri.sh(&id, &script).await?;
            assert!(maps.contains(" bind=static:0"), "{process}: {maps}");
        }
        drop(plugin);
        let plain = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("plain"))
            .await?;
        let maps = host
            .cri
            .sh(&plain, "head -n 1 /proc/self/numa_maps")
            .await?;
        assert!(maps.contains(" default"), "{maps}");
        Ok(())
    });
}

#[test]
fn a_plugin_places_a_container_below_its_pod() {
    scenario_with(SETTINGS, async |host| {
        let (parent, path) = host.pod_parent("placed");
        let pod = PodSettings::edited("placed", move |config| {
            config.linux.get_or_insert_default().cgroup_parent = parent.clone();
        });
        let pod_id = host.run_pod(&pod).await?;
        let main = ContainerSettings::sleeper("main");
        let first = host.create(&pod_id, &pod, &main).await?;
        let own = Limits::of(host, &first).await?.cgroup().to_owned();
        let (below, _) = own.rsplit_once('/').expect("it is below something");
        assert!(below.starts_with(&path), "{own}");
        let placing = |path: &str| {
            creating(linux(api::LinuxContainerAdjustment {
                cgroups_path: path.to_owned(),
                ..Default::default()
            }))
        };
        let apart = format!("/{below}/apart/main");
        let controller = match is_v2() {
            true => Path::new("/sys/fs/cgroup").to_owned(),
            false => Path::new("/sys/fs/cgroup/memory").to_owned(),
        };
        let foreign = controller.join(below).join("foreign");
        fs::create_dir(&foreign)?;
        for (path, words) in [
            ("/elsewhere/main", "below its pod"),
            (&*format!("/{below}/../main"), "linux.cgroups_path"),
            (&*format!("/{below}"), "below its pod"),
            (&*format!("/{own}/inner"), "is in use"),
            (&*format!("/{below}/foreign"), "there is a cgroup already"),
        ] {
            let plugin = connect(host, "10", placing(path)).await?;
            let error = host
                .create(&pod_id, &pod, &ContainerSettings::sleeper("stray"))
                .await
                .unwrap_err();
            assert!(error.message().contains(words), "{path}: {error}");
            drop(plugin);
        }
        fs::remove_dir(&foreign)?;
        let plugin = connect(host, "10", placing(&apart)).await?;
        let second = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("second"))
            .await?;
        let third = ContainerSettings::sleeper("third");
        let error = host.create(&pod_id, &pod, &third).await.unwrap_err();
        assert!(
            error.message().contains("there is a cgroup already"),
            "{error}"
        );
        drop(plugin);
        let limits = Limits::of(host, &second).await?;
        assert_eq!(limits.cgroup(), apart.trim_matches('/'));
        let pids = || limits.read("memory", "cgroup.procs", "cgroup.procs");
        assert_ne!(pids()?, "", "its program is there");
        // Whoever comes next knows it, and leaves nothing of it.
        host.restart_daemon().await?;
        assert_eq!(Limits::of(host, &second).await?.cgroup(), limits.cgroup());
        host.cri.sh(&second, "true").await?;
        host.cri.remove(&second).await?;
        assert!(!controller.join(below).join("apart").exists());
        host.cri.remove(&first).await?;
        host.remove_all_pods().await?;
        host.give_up_parent("placed")
    });
}

#[test]
fn a_plugin_gives_a_namespace_a_parameter_and_a_filter() {
    scenario_with(SETTINGS, async |host| {
        let own = api::LinuxNamespace {
            r#type: "ipc".into(),
            path: String::new(),
        };
        let denied = api::LinuxSyscall {
            names: vec!["mkdir".into(), "mkdirat".into()],
            action: "SCMP_ACT_ERRNO".into(),
            errno_ret: Some(api::OptionalUInt32 { value: 122 }),
            ..Default::default()
        };
        let policy = api::LinuxSeccomp {
            default_action: "SCMP_ACT_ALLOW".into(),
            syscalls: vec![denied],
            ..Default::default()
        };
        let parameter = ("kernel.shm_rmid_forced".to_owned(), "1".to_owned());
        let mine = linux(api::LinuxContainerAdjustment {
            namespaces: vec![own],
            sysctl: [parameter.clone()].into(),
            seccomp_policy: Some(policy),
            ..Default::default()
        });
        let pod = PodSettings::new("apart");
        let pod_id = host.run_pod(&pod).await?;
        let script =
            "readlink /proc/self/ns/ipc; cat /proc/sys/kernel/shm_rmid_forced; mkdir /tmp/made";
        let unconfined = |name: &str| {
            ContainerSettings::sh(name, script).edited(|config| {
                let linux = config.linux.get_or_insert_default();
                let security = linux.security_context.get_or_insert_default();
                security.seccomp = Some(cri::v1::SecurityProfile {
                    profile_type: ProfileType::Unconfined.into(),
                    ..Default::default()
                });
            })
        };
        let (_, before) = host
            .run_to_end(&pod_id, &pod, &unconfined("before"))
            .await?;
        let plugin = connect(host, "10", creating(mine)).await?;
        let (_, after) = host.run_to_end(&pod_id, &pod, &unconfined("after")).await?;
        drop(plugin);
        let [before, after] = [before, after]
            .map(|output| -> Vec<String> { output.lines().map(str::to_owned).collect() });
        assert_ne!(before[0], after[0], "an IPC namespace of its own");
        assert_eq!((&*before[1], &*after[1]), ("0", "1"));
        // EDQUOT is nothing that mkdir ever says here.
        assert!(before.len() == 2 && after[2].contains("quota"), "{after:?}");
        // In the pod's it would be another's.
        let others = linux(api::LinuxContainerAdjustment {
            sysctl: [parameter].into(),
            ..Default::default()
        });
        let _plugin = connect(host, "10", creating(others)).await?;
        let error = host
            .create(&pod_id, &pod, &ContainerSettings::sleeper("others"))
            .await
            .unwrap_err();
        assert!(
            error.message().contains("sysctls.kernel.shm_rmid_forced"),
            "{error}"
        );
        Ok(())
    });
}
