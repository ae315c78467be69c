//! Statistics and metrics, against what the kernel says of the same containers.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::BufRead,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use cri::v1::{
    ContainerStats, ListMetricDescriptorsRequest, ListPodSandboxMetricsRequest,
    ListPodSandboxStatsRequest, Metric, NetworkInterfaceUsage, PodSandboxMetrics, PodSandboxStats,
    PodSandboxStatsFilter, PodSandboxStatsRequest, PsiStats, StreamPodSandboxMetricsRequest,
    StreamPodSandboxStatsRequest, UInt64Value,
};
use e2e::{ContainerSettings, Cri, Host, PodSettings, scenario};
use testkit::daemon::binary;
use tonic::Code;

const HANG_GUARD: Duration = Duration::from_secs(120);

/// Metrics that need what a test machine may not have, or whose figures come only with use of a disk.
const MAY_LACK: [&str; 16] = [
    "container_blkio_device_usage_total",
    "container_fs_reads_bytes_total",
    "container_fs_reads_total",
    "container_fs_writes_bytes_total",
    "container_fs_writes_total",
    "container_hugetlb_max_usage_bytes",
    "container_hugetlb_usage_bytes",
    "container_pressure_cpu_stalled_seconds_total",
    "container_pressure_cpu_waiting_seconds_total",
    "container_pressure_io_stalled_seconds_total",
    "container_pressure_io_waiting_seconds_total",
    "container_pressure_memory_stalled_seconds_total",
    "container_pressure_memory_waiting_seconds_total",
    "container_spec_cpu_quota",
    // Where no filter of the kernel's is told of it.
    "container_ulimits_soft",
    "container_memory_swap",
];

async fn pod_stats(cri: &Cri, id: &str) -> anyhow::Result<PodSandboxStats> {
    let request = PodSandboxStatsRequest {
        pod_sandbox_id: id.to_owned(),
    };
    let reply = cri
        .client
        .runtime_service()
        .pod_sandbox_stats(request)
        .await?;
    reply.into_inner().stats.context("no statistics")
}

async fn list_pod_stats(cri: &Cri) -> anyhow::Result<Vec<PodSandboxStats>> {
    let request = ListPodSandboxStatsRequest::default();
    let reply = cri
        .client
        .runtime_service()
        .list_pod_sandbox_stats(request)
        .await?;
    Ok(reply.into_inner().stats)
}

async fn metrics(cri: &Cri) -> anyhow::Result<Vec<PodSandboxMetrics>> {
    let request = ListPodSandboxMetricsRequest::default();
    let reply = cri
        .client
        .runtime_service()
        .list_pod_sandbox_metrics(request)
        .await?;
    Ok(reply.into_inner().pod_metrics)
}

/// Label keys by metric.
async fn descriptors(cri: &Cri) -> anyhow::Result<BTreeMap<String, Vec<String>>> {
    let request = ListMetricDescriptorsRequest::default();
    let reply = cri
        .client
        .runtime_service()
        .list_metric_descriptors(request)
        .await?;
    let descriptors = reply.into_inner().descriptors.into_iter();
    Ok(descriptors
        .map(|descriptor| (descriptor.name, descriptor.label_keys))
        .collect())
}

/// Asks until the answer is as wanted: figures are samples.
async fn until<T: std::fmt::Debug>(
    ask: impl AsyncFn() -> anyhow::Result<T>,
    wanted: impl Fn(&T) -> bool,
) -> anyhow::Result<T> {
    let end = Instant::now() + HANG_GUARD;
    loop {
        let answer = ask().await?;
        if wanted(&answer) {
            return Ok(answer);
        }
        ensure!(Instant::now() < end, "never as wanted: {answer:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn number(value: Option<UInt64Value>) -> u64 {
    value.map_or(0, |value| value.value)
}

/// The pid of the process with this argument, as the daemon's machine counts.
fn pid_of(host: &Host, argument: &str) -> anyhow::Result<u32> {
    let has = |arguments: &[String]| arguments.iter().any(|a| a.contains(argument));
    let processes = host.sandbox.processes();
    let found = processes.iter().find(|process| has(&process.args));
    Ok(found.with_context(|| format!("no process {argument}"))?.pid)
}

fn own(stats: &[ContainerStats], id: &str) -> anyhow::Result<ContainerStats> {
    let is = |stats: &&ContainerStats| stats.attributes.as_ref().is_some_and(|a| a.id == id);
    stats.iter().find(is).cloned().context("not in the list")
}

#[test]
fn processors_and_memory_are_what_the_kernel_says() {
    scenario(async |host| {
        let pod = PodSettings::new("busy");
        let pod_id = host.run_pod(&pod).await?;
        let burner = ContainerSettings::sh("burner", ": burns; while :; do :; done");
        let burner = host.run(&pod_id, &pod, &burner).await?;
        let hoarder = ContainerSettings::sh(
            "hoarder",
            "x=$(head -c 30000000 /dev/zero | tr '\\0' x); echo hoarded; while :; do sleep 1; done",
        );
        let hoarder_id = host.run(&pod_id, &pod, &hoarder).await?;
        host.until_logged(&pod, &hoarder, "hoarded").await?;
        let pid = pid_of(host, ": burns")?;
        let burnt = || -> anyhow::Result<u64> {
            let text = host.sandbox.sh(&format!("cat /proc/{pid}/schedstat"))?;
            Ok(text.split_whitespace().next().context("empty")?.parse()?)
        };
        let before = burnt()?;
        let enough = |stats: &Vec<ContainerStats>| {
            let burner = own(stats, &burner).ok().and_then(|stats| stats.cpu);
            burner.is_some_and(|cpu| number(cpu.usage_core_nano_seconds) > before + 500_000_000)
        };
        let stats = until(async || Ok(host.cri.list_stats(None).await?), enough).await?;
        let after = burnt()?;
        let cpu = own(&stats, &burner)?.cpu.unwrap();
        let used = number(cpu.usage_core_nano_seconds);
        // What made the container is counted with it.
        ensure!(used < after + 1_000_000_000, "{used} of {after}");
        // It shares the machine, but it never sleeps.
        ensure!(number(cpu.usage_nano_cores) > 10_000_000, "{cpu:?}");
        let idle = own(&stats, &hoarder_id)?;
        ensure!(number(idle.cpu.unwrap().usage_nano_cores) < number(cpu.usage_nano_cores));

        let memory = own(&stats, &hoarder_id)?.memory.unwrap();
        ensure!(number(memory.rss_bytes) > 30_000_000, "{memory:?}");
        ensure!(
            number(memory.usage_bytes) >= number(memory.rss_bytes),
            "{memory:?}"
        );
        ensure!(
            number(memory.working_set_bytes) >= number(memory.rss_bytes),
            "{memory:?}"
        );
        // Fewer than its pages: where the kernel gives huge ones unasked, each is one fault.
        ensure!(number(memory.page_faults) > 1_000, "{memory:?}");
        let other = own(&stats, &burner)?.memory.unwrap();
        ensure!(number(other.rss_bytes) < 30_000_000, "{other:?}");

        // The pod named no cgroup: it is the sum of its containers.
        let sum = pod_stats(&host.cri, &pod_id).await?.linux.unwrap();
        ensure!(number(sum.cpu.unwrap().usage_core_nano_seconds) >= used);
        ensure!(number(sum.memory.unwrap().rss_bytes) > 30_000_000);
        assert_eq!(sum.containers.len(), 2);

        // A new daemon knows nothing, and learns.
        host.restart_daemon().await?;
        let again = own(&host.cri.list_stats(None).await?, &burner)?
            .cpu
            .unwrap();
        ensure!(number(again.usage_core_nano_seconds) >= used);
        let ended = host.cri.stop(&hoarder_id, 0).await;
        ended?;
        let refused = host.cri.container_stats(&hoarder_id).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert_eq!(host.cri.list_stats(None).await?.len(), 1);
        Ok(())
    });
}

#[test]
fn what_was_written_is_counted_in_the_background() {
    scenario(async |host| {
        let pod = PodSettings::new("writer");
        let pod_id = host.run_pod(&pod).await?;
        let id = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("writer"))
            .await?;
        let before = until(
            async || Ok(host.cri.container_stats(&id).await?.unwrap_or_default()),
            |stats| stats.writable_layer.is_some(),
        );
        let before = before.await?.writable_layer.unwrap();
        host.cri
            .sh(
                &id,
                "mkdir /d; for i in 1 2 3 4; do head -c 1000000 /dev/zero >/d/$i; done; sync",
            )
            .await?;
        let more = |stats: &ContainerStats| {
            let layer = stats.writable_layer.clone().unwrap_or_default();
            number(layer.used_bytes) >= number(before.used_bytes) + 4_000_000
        };
        let ask = async || Ok(host.cri.container_stats(&id).await?.unwrap_or_default());
        let after = until(ask, more).await?.writable_layer.unwrap();
        ensure!(
            number(after.inodes_used) >= number(before.inodes_used) + 5,
            "{after:?}"
        );
        ensure!(
            number(after.used_bytes) < number(before.used_bytes) + 8_000_000,
            "{after:?}"
        );
        // Of its own walk.
        ensure!(after.timestamp > before.timestamp, "{after:?}");
        Ok(())
    });
}

#[test]
fn traffic_is_that_of_the_pods_own_interfaces() {
    scenario(async |host| {
        let pod = PodSettings::new("talker");
        let pod_id = host.run_pod(&pod).await?;
        let id = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("talker"))
            .await?;
        host.cri.sh(&id, "ping -c 3 -s 1000 127.0.0.1").await?;
        let kernel = async || -> anyhow::Result<BTreeMap<String, Vec<u64>>> {
            let text = host.cri.sh(&id, "cat /proc/net/dev").await?;
            let lines = text.lines().skip(2);
            let counts = |text: &str| text.split_whitespace().flat_map(str::parse).collect();
            let line = |line: &str| {
                let (name, rest) = line.split_once(':')?;
                Some((name.trim().to_owned(), counts(rest)))
            };
            Ok(lines.filter_map(line).collect())
        };
        let before = kernel().await?;
        let network = pod_stats(&host.cri, &pod_id)
            .await?
            .linux
            .unwrap()
            .network
            .unwrap();
        let after = kernel().await?;
        let default = network
            .default_interface
            .clone()
            .context("no default interface")?;
        assert_eq!(default.name, "eth0");
        let between = |usage: &NetworkInterfaceUsage| {
            let (before, after) = (&before[&usage.name], &after[&usage.name]);
            let figures = [
                (0, number(usage.rx_bytes)),
                (2, number(usage.rx_errors)),
                (8, number(usage.tx_bytes)),
                (10, number(usage.tx_errors)),
            ];
            figures
                .iter()
                .all(|(at, figure)| before[*at] <= *figure && *figure <= after[*at])
        };
        ensure!(between(&default), "{default:?}: {before:?} {after:?}");
        let loopback = network.interfaces.iter().find(|one| one.name == "lo");
        let loopback = loopback.context("no loopback")?;
        ensure!(between(loopback), "{loopback:?}: {before:?} {after:?}");
        ensure!(number(loopback.rx_bytes) >= 6_000, "{loopback:?}");

        // One descriptor a pod, however often one asks; none keeps the namespace of a pod that has ended.
        let second = PodSettings::new("second");
        let second_id = host.run_pod(&second).await?;
        let daemon = host.daemon.pid().context("no daemon")?;
        let open = || -> anyhow::Result<(usize, usize)> {
            let descriptors = std::fs::read_dir(format!("/proc/{daemon}/fd"))?;
            let targets = descriptors
                .flatten()
                .flat_map(|fd| std::fs::read_link(fd.path()));
            let targets: Vec<_> = targets.collect();
            let networks = targets.iter().filter(|target| target.ends_with("net/dev"));
            Ok((networks.count(), targets.len()))
        };
        assert_eq!(list_pod_stats(&host.cri).await?.len(), 2);
        let (networks, all) = open()?;
        assert_eq!(networks, 2);
        for _ in 0..5 {
            list_pod_stats(&host.cri).await?;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let now = open()?;
        ensure!(now.0 == networks && now.1 <= all, "{now:?} of {all}");
        host.cri.stop_pod(&second_id).await?;
        assert_eq!(open()?.0, 1);
        assert_eq!(list_pod_stats(&host.cri).await?.len(), 1);
        let stopped = pod_stats(&host.cri, &second_id).await?.linux.unwrap();
        ensure!(
            stopped.network.is_none() && stopped.containers.is_empty(),
            "{stopped:?}"
        );

        // The host's network is nobody's.
        let node = PodSettings::edited("node", |config| {
            let linux = config.linux.as_mut().unwrap();
            let security = linux.security_context.as_mut().unwrap();
            let options = security.namespace_options.as_mut().unwrap();
            options.network = cri::v1::NamespaceMode::Node.into();
        });
        let node = host.run_pod(&node).await?;
        ensure!(
            pod_stats(&host.cri, &node)
                .await?
                .linux
                .unwrap()
                .network
                .is_none()
        );
        Ok(())
    });
}

#[test]
fn a_pod_with_a_cgroup_of_its_own_has_that_ones_figures() {
    scenario(async |host| {
        let (named, parent) = host.pod_parent("alone");
        let pod = PodSettings::edited("alone", move |config| {
            config
                .linux
                .as_mut()
                .unwrap()
                .cgroup_parent
                .clone_from(&named);
            config.labels.insert("app".into(), "alone".into());
        });
        let pod_id = host.run_pod(&pod).await?;
        let script = "sleep 1000 & sleep 1000 & echo up; while :; do sleep 1; done";
        let four = ContainerSettings::sh("four", script);
        host.run(&pod_id, &pod, &four).await?;
        host.until_logged(&pod, &four, "up").await?;
        // Its shell, two that sleep, and at most times one that it waits for.
        let counted = |stats: &PodSandboxStats| {
            let linux = stats.linux.clone().unwrap_or_default();
            number(linux.process.unwrap_or_default().process_count) == 4
        };
        let stats = until(async || pod_stats(&host.cri, &pod_id).await, counted).await?;
        let linux = stats.linux.unwrap();
        let container = linux.containers[0].clone();
        // The two are read one after the other, and the shell starts a process between them.
        let apart = 4 << 20;
        ensure!(
            number(linux.memory.unwrap().usage_bytes) + apart
                >= number(container.memory.unwrap().usage_bytes)
        );
        let pressure = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
            .map(|root| Path::new(root).join(&parent).join("cpu.pressure"));
        // The files are there where the kernel counts, and then everything has its pressure.
        let counts = host.sandbox.sh(&format!(
            "cat {} {} 2>/dev/null || true",
            pressure[0].display(),
            pressure[1].display()
        ))?;
        let counts = counts.contains("avg10");
        let whole = |psi: &Option<PsiStats>| {
            psi.as_ref()
                .is_some_and(|psi| psi.some.is_some() && psi.full.is_some())
        };
        let io = |io: &Option<cri::v1::IoUsage>| io.as_ref().is_some_and(|io| whole(&io.psi));
        assert_eq!(whole(&linux.cpu.unwrap().psi), counts);
        assert_eq!(whole(&container.cpu.unwrap().psi), counts);
        assert_eq!(io(&linux.io), counts);
        assert_eq!(io(&container.io), counts);

        // Filters, and the stream, which has the same.
        let filter = |id: &str, value: &str| PodSandboxStatsFilter {
            id: id.to_owned(),
            label_selector: [("app".to_owned(), value.to_owned())].into(),
        };
        for (filter, found) in [
            (filter(&pod_id[..12], "alone"), 1),
            (filter("", "alone"), 1),
            (filter("", "other"), 0),
        ] {
            let mut rpc = host.cri.client.runtime_service();
            let request = ListPodSandboxStatsRequest {
                filter: Some(filter.clone()),
            };
            let listed = rpc
                .list_pod_sandbox_stats(request)
                .await?
                .into_inner()
                .stats;
            assert_eq!(listed.len(), found);
            let request = StreamPodSandboxStatsRequest {
                filter: Some(filter),
            };
            let mut stream = rpc.stream_pod_sandbox_stats(request).await?.into_inner();
            let mut streamed = 0;
            while let Some(batch) = stream.message().await? {
                streamed += batch.pod_sandbox_stats.len();
            }
            assert_eq!(streamed, found);
        }
        let missing = pod_stats(&host.cri, "0123456789ab").await.unwrap_err();
        assert_eq!(missing.downcast::<tonic::Status>()?.code(), Code::NotFound);
        host.remove_all_pods().await?;
        host.give_up_parent("alone")
    });
}

#[test]
fn metrics_are_whole_and_labelled_as_described() {
    scenario(async |host| {
        let pod = PodSettings::new("measured");
        let pod_id = host.run_pod(&pod).await?;
        let script = "sleep 1000 & exec 7>/dev/null; echo up; while :; do sleep 1 & wait $!; done";
        let limited = ContainerSettings::sh("limited", script).edited(|config| {
            let linux = config.linux.get_or_insert_default();
            linux.resources = Some(cri::v1::LinuxContainerResources {
                cpu_period: 100_000,
                cpu_quota: 50_000,
                cpu_shares: 512,
                memory_limit_in_bytes: 64 << 20,
                ..Default::default()
            });
        });
        let id = host.run(&pod_id, &pod, &limited).await?;
        host.until_logged(&pod, &limited, "up").await?;
        // The figures of its layer come from the background.
        let all = until(
            async || metrics(&host.cri).await,
            |all| {
                let containers = all.iter().flat_map(|pod| &pod.container_metrics);
                let mut metrics = containers.flat_map(|container| &container.metrics);
                metrics.any(|metric| metric.name == "container_fs_usage_bytes")
            },
        )
        .await?;
        let descriptors = descriptors(&host.cri).await?;
        let of_pod = all.iter().find(|pod| pod.pod_sandbox_id == pod_id).unwrap();
        let container = &of_pod.container_metrics[0];
        assert_eq!(container.container_id, id);
        let every: Vec<&Metric> = of_pod.metrics.iter().chain(&container.metrics).collect();
        for metric in &every {
            let keys = &descriptors[&metric.name];
            ensure!(
                keys.len() == metric.label_values.len(),
                "{metric:?} {keys:?}"
            );
            ensure!(metric.timestamp > 0 && metric.value.is_some(), "{metric:?}");
        }
        let found: BTreeSet<&str> = every.iter().map(|metric| metric.name.as_str()).collect();
        let missing = descriptors
            .keys()
            .filter(|name| !found.contains(name.as_str()) && !MAY_LACK.contains(&name.as_str()));
        assert_eq!(missing.collect::<Vec<_>>(), Vec::<&String>::new());

        let figure = |name: &str| {
            let metric = container.metrics.iter().find(|metric| metric.name == name);
            metric.map(|metric| number(metric.value))
        };
        assert_eq!(figure("container_spec_cpu_period"), Some(100_000));
        assert_eq!(figure("container_spec_cpu_quota"), Some(50_000));
        assert_eq!(figure("container_spec_memory_limit_bytes"), Some(64 << 20));
        // Through v2's weight and back.
        let shares = figure("container_spec_cpu_shares").unwrap();
        ensure!((450..=512).contains(&shares), "{shares}");
        let (processes, threads) = (figure("container_processes"), figure("container_threads"));
        ensure!(
            processes >= Some(2) && threads >= Some(2),
            "{processes:?} {threads:?}"
        );
        ensure!(figure("container_file_descriptors") >= Some(7));
        assert_eq!(figure("container_oom_events_total"), Some(0));
        ensure!(figure("container_memory_max_usage_bytes") > Some(0));
        ensure!(figure("container_start_time_seconds") <= figure("container_last_seen"));

        let label = |metric: &Metric, key: &str| {
            let at = descriptors[&metric.name]
                .iter()
                .position(|known| known == key);
            at.map(|at| metric.label_values[at].clone())
                .unwrap_or_default()
        };
        let cpu = container
            .metrics
            .iter()
            .find(|metric| metric.name == "container_cpu_usage_seconds_total")
            .unwrap();
        assert_eq!(label(cpu, "name"), id);
        assert_eq!(label(cpu, "container"), "limited");
        assert_eq!(label(cpu, "pod"), "measured");
        assert_eq!(label(cpu, "namespace"), "e2e");
        assert_eq!(label(cpu, "image"), host.image);
        assert_eq!(label(cpu, "cpu"), "total");
        ensure!(label(cpu, "id").starts_with('/') && label(cpu, "id").ends_with(&id));
        let received = of_pod
            .metrics
            .iter()
            .filter(|metric| metric.name == "container_network_receive_bytes_total");
        let interfaces: Vec<_> = received.map(|metric| label(metric, "interface")).collect();
        assert_eq!(interfaces, ["eth0"]);

        let mut rpc = host.cri.client.runtime_service();
        let request = StreamPodSandboxMetricsRequest::default();
        let mut stream = rpc.stream_pod_sandbox_metrics(request).await?.into_inner();
        let batch = stream.message().await?.context("no batch")?;
        assert_eq!(batch.pod_sandbox_metrics.len(), 1);
        Ok(())
    });
}

#[test]
fn lists_never_fail_while_containers_come_and_go() {
    scenario(async |host| {
        let pod = PodSettings::new("churn");
        let pod_id = host.run_pod(&pod).await?;
        host.run(&pod_id, &pod, &ContainerSettings::sleeper("stays"))
            .await?;
        let churn = Box::pin(async {
            for number in 0..12 {
                let brief = ContainerSettings::sh(&format!("brief-{number}"), "exit 0");
                let id = host.run(&pod_id, &pod, &brief).await?;
                host.cri.remove(&id).await?;
                let other = PodSettings::new(&format!("other-{number}"));
                let other = host.run_pod(&other).await?;
                host.cri.stop_pod(&other).await?;
                host.cri.remove_pod(&other).await?;
            }
            anyhow::Ok(())
        });
        let (done, mut over) = tokio::sync::watch::channel(false);
        let churn = Box::pin(async {
            churn.await?;
            done.send_replace(true);
            anyhow::Ok(())
        });
        let list = Box::pin(async {
            let mut lists = 0;
            while !*over.borrow_and_update() {
                ensure!(!host.cri.list_stats(None).await?.is_empty());
                ensure!(!list_pod_stats(&host.cri).await?.is_empty());
                ensure!(!metrics(&host.cri).await?.is_empty());
                lists += 1;
            }
            Ok(lists)
        });
        let ((), lists) = tokio::try_join!(churn, list)?;
        ensure!(lists > 0);
        Ok(())
    });
}

#[test]
fn the_commands_show_them() {
    scenario(async |host| {
        let pod = PodSettings::new("shown");
        let pod_id = host.run_pod(&pod).await?;
        let id = host
            .run(&pod_id, &pod, &ContainerSettings::sleeper("shown"))
            .await?;
        let longshore = |arguments: &[&str]| -> anyhow::Result<String> {
            let mut command = host.sandbox.command(binary("longshore")?);
            // Inside, the daemon's socket is where it is by default.
            command.args(arguments);
            let output = command.output()?;
            let error = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{arguments:?}: {error}");
            Ok(String::from_utf8(output.stdout)?)
        };
        for (arguments, shown) in [
            (&["stats"][..], &id[..12]),
            (&["statsp", "--id", &pod_id[..8]], &pod_id[..12]),
            (&["statsp", "-o", "json"], "usageNanoCores"),
            (&["metricsp"], "container_threads"),
            (&["metricdescs", "-o", "yaml"], "container_threads"),
        ] {
            let output = longshore(arguments)?;
            ensure!(output.contains(shown), "{arguments:?}: {output}");
        }
        let mut command = host.sandbox.command(binary("longshore")?);
        command.arg("events");
        let mut events = command.stdout(std::process::Stdio::piped()).spawn()?;
        let output = events.stdout.take().context("no output")?;
        let (sender, lines) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            for line in std::io::BufReader::new(output)
                .lines()
                .map_while(Result::ok)
            {
                let _unwanted = sender.send(line);
            }
        });
        // It reads once it shows what happens to others.
        let told = until(
            async || {
                let other = PodSettings::new("other");
                let other = host.run_pod(&other).await?;
                host.cri.stop_pod(&other).await?;
                host.cri.remove_pod(&other).await?;
                Ok(lines
                    .try_iter()
                    .any(|line| line.contains("CONTAINER_DELETED_EVENT")))
            },
            |told| *told,
        )
        .await;
        // With the daemon they end, and so does the command.
        host.daemon.terminate()?;
        assert!(!events.wait()?.success());
        reader.join().expect("it only reads");
        host.daemon.kill();
        host.start_daemon().await?;
        told.map(drop)
    });
}
