//! Limits of what lives: changed from one moment to the next, and told as they are.

use std::time::{Duration, Instant};

use anyhow::Context;
use cri::v1::{
    HugepageLimit, LinuxContainerResources, LinuxPodSandboxConfig, ListPodSandboxMetricsRequest,
    Mount, UpdateContainerResourcesRequest, UpdatePodSandboxResourcesRequest,
    WindowsContainerResources,
};
use e2e::{ContainerSettings, Limits, PodSettings, is_v2, scenario};
use tonic::Code;

const MIB: i64 = 1 << 20;

fn limited(resources: LinuxContainerResources) -> ContainerSettings {
    ContainerSettings::sleeper("main").edited(move |config| {
        config.linux.get_or_insert_default().resources = Some(resources.clone());
    })
}

#[test]
fn limits_change_live_and_outlive_the_daemon() {
    scenario(async |host| {
        let pod = PodSettings::new("resized");
        let pod_id = host.run_pod(&pod).await?;
        let settings = limited(LinuxContainerResources {
            cpu_shares: 1024,
            memory_limit_in_bytes: 64 * MIB,
            ..Default::default()
        });
        let id = host.run(&pod_id, &pod, &settings).await?;
        let limits = Limits::of(host, &id).await?;
        assert_eq!(limits.memory()?, (64 * MIB).to_string());
        let shares = limits.shares()?;

        // Up: memory and swap together must not be passed by memory on the way.
        host.cri
            .update(
                &id,
                LinuxContainerResources {
                    cpu_quota: 50_000,
                    cpu_period: 100_000,
                    memory_limit_in_bytes: 128 * MIB,
                    cpuset_cpus: "0".into(),
                    cpuset_mems: "0".into(),
                    ..Default::default()
                },
            )
            .await?;
        assert_eq!(limits.memory()?, (128 * MIB).to_string());
        assert_eq!(limits.swap()?, "0");
        assert_eq!(limits.bandwidth()?, "50000 100000");
        assert_eq!(limits.cpus()?, "0");
        assert_eq!(limits.memory_nodes()?, "0");
        assert_eq!(limits.shares()?, shares, "what is not given stays");
        let allowed = host
            .cri
            .sh(&id, "grep -h Cpus_allowed_list /proc/1/status")
            .await?;
        assert_eq!(allowed.split_whitespace().last(), Some("0"), "{allowed}");

        let expected = LinuxContainerResources {
            cpu_shares: 1024,
            cpu_quota: 50_000,
            cpu_period: 100_000,
            memory_limit_in_bytes: 128 * MIB,
            cpuset_cpus: "0".into(),
            cpuset_mems: "0".into(),
            ..Default::default()
        };
        assert_eq!(told(host, &id).await?, expected);

        // Down, by another daemon.
        host.restart_daemon().await?;
        assert_eq!(told(host, &id).await?, expected);
        host.cri
            .update(
                &id,
                LinuxContainerResources {
                    cpu_shares: 2048,
                    cpu_quota: -1,
                    memory_limit_in_bytes: 32 * MIB,
                    memory_swap_limit_in_bytes: 48 * MIB,
                    ..Default::default()
                },
            )
            .await?;
        assert_eq!(limits.memory()?, (32 * MIB).to_string());
        assert_eq!(limits.swap()?, (16 * MIB).to_string());
        assert_ne!(limits.shares()?, shares);
        let unlimited = if is_v2() { "max" } else { "-1" };
        assert_eq!(limits.bandwidth()?, format!("{unlimited} 100000"));

        // The specification that tools read says the same, and a retry finds its container.
        let info = host.cri.container_status_with(&id, true).await?.info;
        let info: serde_json::Value = serde_json::from_str(&info["info"])?;
        let memory = &info["runtimeSpec"]["linux"]["resources"]["memory"];
        assert_eq!(memory["limit"], 32 * MIB);
        assert_eq!(memory["swap"], 48 * MIB);
        assert_eq!(host.create(&pod_id, &pod, &settings).await?, id);
        Ok(())
    });
}

async fn told(host: &e2e::Host, id: &str) -> anyhow::Result<LinuxContainerResources> {
    let resources = host.cri.container_status(id).await?.resources;
    Ok(resources.and_then(|all| all.linux).unwrap_or_default())
}

#[test]
fn an_update_that_cannot_be_is_refused_and_changes_nothing() {
    scenario(async |host| {
        let pod = PodSettings::new("refused");
        let pod_id = host.run_pod(&pod).await?;
        let asked = LinuxContainerResources {
            cpu_shares: 1024,
            memory_limit_in_bytes: 96 * MIB,
            ..Default::default()
        };
        let id = host.run(&pod_id, &pod, &limited(asked.clone())).await?;
        // On a tmpfs, which nothing can take back.
        host.cri
            .sh(&id, "dd if=/dev/zero of=/dev/shm/held bs=1M count=40")
            .await?;
        let limits = Limits::of(host, &id).await?;
        let (memory, shares) = (limits.memory()?, limits.shares()?);
        let change = LinuxContainerResources::default;
        for (refused, code, word) in [
            (
                LinuxContainerResources {
                    cpu_shares: 4096,
                    memory_limit_in_bytes: 20 * MIB,
                    ..change()
                },
                Code::FailedPrecondition,
                "memory",
            ),
            (
                LinuxContainerResources {
                    cpu_shares: 4096,
                    cpuset_cpus: "4000".into(),
                    ..change()
                },
                Code::InvalidArgument,
                "4000",
            ),
            (
                LinuxContainerResources {
                    memory_swap_limit_in_bytes: 10 * MIB,
                    ..change()
                },
                Code::InvalidArgument,
                "linux.memory_swap_limit_in_bytes",
            ),
            (
                LinuxContainerResources {
                    cpu_period: 10,
                    ..change()
                },
                Code::InvalidArgument,
                "linux.cpu_period",
            ),
            (
                LinuxContainerResources {
                    unified: [("memory.no-such-file".to_owned(), "1".to_owned())].into(),
                    ..change()
                },
                Code::InvalidArgument,
                "memory.no-such-file",
            ),
            (
                LinuxContainerResources {
                    unified: [("../memory.max".to_owned(), "1".to_owned())].into(),
                    ..change()
                },
                Code::InvalidArgument,
                "linux.unified",
            ),
        ] {
            let error = host.cri.update(&id, refused.clone()).await.unwrap_err();
            assert_eq!(error.code(), code, "{refused:?}: {error}");
            assert!(error.message().contains(word), "{error}");
            assert_eq!(limits.memory()?, memory, "{refused:?}");
            assert_eq!(limits.shares()?, shares, "{refused:?}");
            assert_eq!(told(host, &id).await?, asked, "{refused:?}");
        }
        for request in [
            UpdateContainerResourcesRequest {
                container_id: id.clone(),
                windows: Some(WindowsContainerResources::default()),
                ..Default::default()
            },
            UpdateContainerResourcesRequest {
                container_id: id.clone(),
                linux: Some(change()),
                annotations: [("some.example/key".to_owned(), String::new())].into(),
                ..Default::default()
            },
        ] {
            let error = host.cri.update_with(request).await.unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        }
        let error = host.cri.update("no-such-container", change()).await;
        assert_eq!(error.unwrap_err().code(), Code::NotFound);
        host.cri.stop(&id, 5).await?;
        let error = host.cri.update(&id, change()).await.unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
        assert!(error.message().contains("exited"), "{error}");
        Ok(())
    });
}

#[test]
fn a_created_container_is_limited_before_it_starts() {
    scenario(async |host| {
        let pod = PodSettings::new("early");
        let pod_id = host.run_pod(&pod).await?;
        let id = host
            .create(&pod_id, &pod, &ContainerSettings::sleeper("main"))
            .await?;
        host.cri
            .update(
                &id,
                LinuxContainerResources {
                    memory_limit_in_bytes: 48 * MIB,
                    oom_score_adj: 700,
                    // As kubelets' CPU and memory managers do, once they know the container's id.
                    cpuset_cpus: "0".into(),
                    cpuset_mems: "0".into(),
                    ..Default::default()
                },
            )
            .await?;
        host.cri.start(&id).await?;
        let limits = Limits::of(host, &id).await?;
        assert_eq!(limits.memory()?, (48 * MIB).to_string());
        let score = "cat /proc/1/oom_score_adj /proc/self/oom_score_adj";
        assert_eq!(host.cri.sh(&id, score).await?, "700\n700\n");
        assert_eq!((&*limits.cpus()?, &*limits.memory_nodes()?), ("0", "0"));
        // Init, which was there before, and whoever comes after.
        let allowed = "grep -hE '(Cpus|Mems)_allowed_list' /proc/1/status /proc/self/status";
        let allowed = host.cri.sh(&id, allowed).await?;
        let lists = allowed
            .lines()
            .map(|line| line.rsplit('\t').next().unwrap_or_default());
        assert_eq!(lists.collect::<Vec<_>>(), ["0"; 4], "{allowed}");
        let raised = LinuxContainerResources {
            oom_score_adj: 900,
            ..Default::default()
        };
        host.cri.update(&id, raised).await?;
        assert_eq!(host.cri.sh(&id, score).await?, "900\n900\n");
        Ok(())
    });
}

#[test]
fn resources_of_a_pod_are_kept_for_whoever_asks() {
    scenario(async |host| {
        let memory = |bytes: i64| LinuxContainerResources {
            memory_limit_in_bytes: bytes,
            ..Default::default()
        };
        let pod = PodSettings::edited("costly", move |config| {
            let linux: &mut LinuxPodSandboxConfig = config.linux.get_or_insert_default();
            linux.overhead = Some(memory(10));
            linux.resources = Some(memory(100));
        });
        let id = host.run_pod(&pod).await?;
        host.cri
            .update_pod(UpdatePodSandboxResourcesRequest {
                pod_sandbox_id: id.clone(),
                overhead: None,
                resources: Some(memory(200)),
            })
            .await?;
        host.restart_daemon().await?;
        let info = host.cri.pod_status(&id, true).await?.info;
        let info: serde_json::Value = serde_json::from_str(&info["info"])?;
        let linux = &info["config"]["linux"];
        assert_eq!(linux["overhead"]["memory_limit_in_bytes"], 10);
        assert_eq!(linux["resources"]["memory_limit_in_bytes"], 200);
        // The same request is the same pod.
        assert_eq!(host.run_pod(&pod).await?, id);
        host.cri.stop_pod(&id).await?;
        let late = UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: id,
            ..Default::default()
        };
        let error = host.cri.update_pod(late).await.unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
        Ok(())
    });
}

/// As kubelets ask for it on v2: no process of a container outlives another's end for want of memory.
#[test]
fn an_oom_group_dies_as_one() {
    scenario(async |host| {
        let pod = PodSettings::new("group");
        let pod_id = host.run_pod(&pod).await?;
        let script = "head -c 64m /dev/zero | tail; echo survived; sleep 1000";
        let settings = ContainerSettings::sh("main", script).edited(|config| {
            config.linux.get_or_insert_default().resources = Some(LinuxContainerResources {
                memory_limit_in_bytes: 16 * MIB,
                unified: [("memory.oom.group".to_owned(), "1".to_owned())].into(),
                ..Default::default()
            });
        });
        if !is_v2() {
            let error = host.create(&pod_id, &pod, &settings).await.unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{error}");
            assert!(error.message().contains("memory.oom.group"), "{error}");
            return Ok(());
        }
        let (status, output) = host.run_to_end(&pod_id, &pod, &settings).await?;
        assert_eq!(
            (status.exit_code, status.reason.as_str()),
            (137, "OOMKilled")
        );
        assert_eq!(output, "");
        Ok(())
    });
}

/// Where the machine has any, a container may swap as much as it was given and no more.
#[test]
fn what_a_container_may_swap_is_limited() {
    scenario(async |host| {
        let memory = std::fs::read_to_string("/proc/meminfo")?;
        let swap = memory.lines().find(|line| line.starts_with("SwapTotal:"));
        let swaps = swap.is_some_and(|line| !line.contains(" 0 kB"));
        let pod = PodSettings::new("swapped");
        let pod_id = host.run_pod(&pod).await?;
        // On a tmpfs, whose pages go to swap or nowhere.
        let script = "dd if=/dev/zero of=/dev/shm/held bs=1M count=40 2>/dev/null || exit 3
            echo held; sleep 1000";
        for (name, both, held) in [("generous", 96, swaps), ("strict", 24, false)] {
            let settings = ContainerSettings::sh(name, script).edited(move |config| {
                config.linux.get_or_insert_default().resources = Some(LinuxContainerResources {
                    memory_limit_in_bytes: 24 * MIB,
                    memory_swap_limit_in_bytes: both * MIB,
                    ..Default::default()
                });
            });
            let id = host.run(&pod_id, &pod, &settings).await?;
            if !held {
                let status = host.until_exited(&id).await?;
                assert_eq!(status.reason, "OOMKilled", "{status:?}");
                continue;
            }
            host.until_logged(&pod, &settings, "held").await?;
            let figure = |value: Option<cri::v1::UInt64Value>| value.unwrap_or_default().value;
            // Figures are samples: the first may be from before.
            let end = Instant::now() + Duration::from_secs(60);
            let swap = loop {
                let stats = host.cri.container_stats(&id).await?.unwrap_or_default();
                let swap = stats.swap.unwrap_or_default();
                if figure(swap.swap_usage_bytes) > 0 {
                    break swap;
                }
                assert!(Instant::now() < end, "never: {swap:?}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            };
            let used = figure(swap.swap_usage_bytes);
            assert!(used <= 72 << 20, "{swap:?}");
            assert_eq!(figure(swap.swap_available_bytes), (72 << 20) - used);
            host.cri.sh(&id, "rm /dev/shm/held").await?;
            host.cri.stop(&id, 0).await?;
        }
        Ok(())
    });
}

fn pages(limit: u64) -> LinuxContainerResources {
    LinuxContainerResources {
        hugepage_limits: vec![HugepageLimit {
            page_size: "2MB".into(),
            limit,
        }],
        ..Default::default()
    }
}

#[test]
fn huge_pages_are_limited_wherever_the_controller_is() {
    scenario(async |host| {
        let pod = PodSettings::new("huge");
        let pod_id = host.run_pod(&pod).await?;
        // Of a size that no kernel has: a limit of nothing needs nothing, any other is refused.
        let no_size = |limit: u64| {
            let mut asked = pages(limit);
            asked.hugepage_limits[0].page_size = "3MB".into();
            asked
        };
        let error = host
            .create(&pod_id, &pod, &limited(no_size(1 << 20)))
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        let id = host.run(&pod_id, &pod, &limited(no_size(0))).await?;
        let limits = Limits::of(host, &id).await?;
        let Some(hugetlb) = limits.hugetlb() else {
            let error = host.cri.update(&id, pages(4 << 20)).await.unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{error}");
            return Ok(());
        };
        host.cri.update(&id, pages(4 << 20)).await?;
        assert_eq!(std::fs::read_to_string(&hugetlb)?.trim(), "4194304");
        host.cri.update(&id, pages(0)).await?;
        assert_eq!(std::fs::read_to_string(&hugetlb)?.trim(), "0");
        Ok(())
    });
}

/// A file system of huge pages that the node has mounted into a container, as kubelets do for an `emptyDir`: where the node has such pages, a
/// container gets as many of them as it may have and no more; where it has none, nobody does.
#[test]
fn huge_pages_are_had_up_to_the_limit_and_no_further() {
    scenario(async |host| {
        let free = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
        let free: u64 = std::fs::read_to_string(free).map_or(Ok(0), |text| text.trim().parse())?;
        host.sandbox
            .sh("mkdir /run/huge && mount -t hugetlbfs -o pagesize=2M none /run/huge")?;
        let pod = PodSettings::new("huge");
        let pod_id = host.run_pod(&pod).await?;
        // What no controller can limit is refused, which another scenario sees.
        let asked = if free > 0 { 4 << 20 } else { 0 };
        let settings = ContainerSettings::sleeper("main").edited(move |config| {
            config.linux.get_or_insert_default().resources = Some(pages(asked));
            config.mounts.push(Mount {
                container_path: "/huge".into(),
                host_path: "/run/huge".into(),
                ..Mount::default()
            });
        });
        let id = host.run(&pod_id, &pod, &settings).await?;
        let take = async |file: &str, size: &str| {
            let taken = format!("fallocate -l {size} /huge/{file}");
            host.cri.sh(&id, &taken).await.map_err(|refusal| {
                assert!(refusal.message().contains("fallocate: "), "{refusal}");
            })
        };
        let metric = async || {
            let request = ListPodSandboxMetricsRequest::default();
            let mut rpc = host.cri.client.runtime_service();
            let pods = rpc.list_pod_sandbox_metrics(request).await?.into_inner();
            let containers = pods
                .pod_metrics
                .into_iter()
                .flat_map(|pod| pod.container_metrics);
            let used = containers
                .flat_map(|container| container.metrics)
                .find(|metric| {
                    metric.name == "container_hugetlb_usage_bytes"
                        && metric.label_values.iter().any(|size| size == "2MB")
                });
            anyhow::Ok(used.and_then(|used| used.value).map(|used| used.value))
        };
        if free == 0 {
            assert_eq!(take("any", "2M").await, Err(()), "there are none");
        } else {
            assert!(free >= 6, "{free} huge pages are too few to see a limit");
            take("within", "4M").await.expect("two pages");
            assert_eq!(take("beyond", "2M").await, Err(()), "a third page");
            host.cri.update(&id, pages(8 << 20)).await?;
            take("more", "4M").await.expect("two more pages");
            assert_eq!(take("beyond", "2M").await, Err(()), "a fifth page");
            assert_eq!(metric().await?, Some(8 << 20));
        }
        host.remove_all_pods().await?;
        host.sandbox.sh("umount /run/huge && rmdir /run/huge")?;
        Ok(())
    });
}

/// Limits that CRI has no field for, the number of processes for one: by the kernel's own files, from the start and live.
#[test]
fn files_of_v2_are_limits_from_the_start_and_live() {
    let processes = |most: &str| LinuxContainerResources {
        unified: [("pids.max".to_owned(), most.to_owned())].into(),
        ..Default::default()
    };
    scenario(async |host| {
        let pod = PodSettings::new("counted");
        let pod_id = host.run_pod(&pod).await?;
        if !is_v2() {
            let created = host.create(&pod_id, &pod, &limited(processes("20"))).await;
            let plain = limited(LinuxContainerResources::default());
            let id = host.run(&pod_id, &pod, &plain).await?;
            let updated = host.cri.update(&id, processes("20")).await;
            for refusal in [created.unwrap_err(), updated.unwrap_err()] {
                assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal}");
                assert!(refusal.message().contains("pids.max"), "{refusal}");
            }
            return Ok(());
        }
        let id = host.run(&pod_id, &pod, &limited(processes("20"))).await?;
        let limits = Limits::of(host, &id).await?;
        let most = || limits.read("pids", "", "pids.max");
        assert_eq!(most()?, "20");
        let many = "for i in $(seq 30); do sleep 1000 >/dev/null 2>&1 & done";
        let refusal = host.cri.sh(&id, many).await.unwrap_err();
        assert!(refusal.message().contains("can't fork"), "{refusal}");
        host.cri.update(&id, processes("200")).await?;
        assert_eq!(most()?, "200");
        host.cri.sh(&id, many).await?;
        assert_eq!(told(host, &id).await?.unified, processes("200").unified);
        Ok(())
    });
}

/// As kubelets' memory managers ask: memory of one node of the machine's, and of another from one moment to the next.
#[test]
fn memory_comes_from_the_nodes_that_are_asked_for() {
    scenario(async |host| {
        let nodes = std::fs::read_to_string("/sys/devices/system/node/has_memory")?;
        let pod = PodSettings::new("near");
        let pod_id = host.run_pod(&pod).await?;
        let from = |node: &str| LinuxContainerResources {
            cpuset_mems: node.to_owned(),
            ..Default::default()
        };
        if nodes.trim() == "0" {
            let far = limited(from("1"));
            let refusal = host.create(&pod_id, &pod, &far).await.unwrap_err();
            // The kernel's file where it is the kernel that refuses, the field where the daemon knows.
            let named = ["cpuset.mems", "cpuset_mems"];
            let said = refusal.message();
            assert!(named.iter().any(|name| said.contains(name)), "{refusal}");
            return Ok(());
        }
        let id = host.run(&pod_id, &pod, &limited(from("1"))).await?;
        let limits = Limits::of(host, &id).await?;
        let allowed = async || {
            host.cri
                .sh(&id, "grep Mems_allowed_list /proc/1/status")
                .await
        };
        for node in ["1", "0"] {
            assert_eq!(limits.memory_nodes()?, node);
            assert_eq!(allowed().await?, format!("Mems_allowed_list:\t{node}\n"));
            assert_eq!(told(host, &id).await?.cpuset_mems, node);
            let fill = format!("dd if=/dev/zero of=/dev/shm/{node} bs=1M count=8");
            host.cri.sh(&id, &fill).await?;
            // The kernel adds up when it is time.
            let end = Instant::now() + Duration::from_secs(60);
            while is_v2() && held(&limits, node)? < (7 << 20) {
                assert!(Instant::now() < end, "never of node {node}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            host.cri.update(&id, from("0")).await?;
        }
        Ok(())
    });
}

/// Bytes of tmpfs that a container has of one node's memory.
fn held(limits: &Limits, node: &str) -> anyhow::Result<u64> {
    let all = limits.read("memory", "memory.numa_stat", "memory.numa_stat")?;
    let shared = all.lines().find_map(|line| line.strip_prefix("shmem "));
    let of_node = format!("N{node}=");
    let mut figures = shared.context("no shmem")?.split_whitespace();
    let figure = figures.find_map(|figure| figure.strip_prefix(&of_node));
    Ok(figure.context("no such node")?.parse()?)
}
