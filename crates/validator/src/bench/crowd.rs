use std::{path::Path, time::Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use super::{
    BenchError,
    calls::Calls,
    census::{Census, Cpu, Memory, ProcessClass},
    samples::milliseconds,
    workload::{Network, Workload},
};

/// Many pods at once: how long until all are ready, what they cost while they idle, how long until all are gone.
#[derive(Debug, Clone, Serialize)]
pub struct CrowdReport {
    /// Pods, of one container each.
    pub pods: usize,
    /// How many are being made at a time.
    pub concurrency: usize,
    /// Which network they are on.
    pub network: Network,
    /// From the first RunPodSandbox to the end of the last StartContainer, milliseconds.
    pub ready_ms: f64,
    /// Stopping and removing all of them, milliseconds.
    pub gone_ms: f64,
    /// Processor seconds of the whole machine from the first call to the last, the benchmark's own and the workload's aside.
    pub cpu_seconds: f64,
    /// The daemon before.
    pub daemon_idle: Memory,
    /// The daemon with the pods running.
    pub daemon_loaded: Memory,
    /// What else the pods added, by program; the workload's own processes are not in it.
    pub added: Vec<ProcessClass>,
}

/// Runs `pods` pods, `concurrency` at a time, looks at the process table, and removes them, `concurrency` at a time.
pub(crate) async fn measure(
    calls: &Calls,
    daemon: i32,
    workload: &Workload,
    directory: &Path,
    shape: (usize, usize, Network),
) -> Result<CrowdReport, BenchError> {
    let (pods, concurrency, network) = shape;
    let before = Census::take(daemon)?;
    let cpu = Cpu::now()?;
    let begun = Instant::now();
    let running: Vec<(String, String)> = stream::iter(0..pods)
        .map(|number| one(calls, workload, directory, network, number))
        .buffer_unordered(concurrency)
        .try_collect()
        .await?;
    let ready_ms = milliseconds(begun.elapsed());
    let mut cpu_seconds = cpu.seconds_since()?;

    let after = Census::take(daemon)?;
    let cpu = Cpu::now()?;
    let begun = Instant::now();
    stream::iter(&running)
        .map(|(pod, container)| gone(calls, pod, container))
        .buffer_unordered(concurrency)
        .try_collect::<()>()
        .await?;
    let gone_ms = milliseconds(begun.elapsed());
    cpu_seconds += cpu.seconds_since()?;
    Ok(CrowdReport {
        pods,
        concurrency,
        network,
        ready_ms,
        gone_ms,
        cpu_seconds,
        daemon_idle: before.daemon,
        daemon_loaded: after.daemon,
        added: after.added_since(&before),
    })
}

async fn one(
    calls: &Calls,
    workload: &Workload,
    directory: &Path,
    network: Network,
    number: usize,
) -> Result<(String, String), BenchError> {
    let name = format!("crowd-{}-{number}", calls.subject);
    let pod = workload.pod(network, &name, directory);
    let container = workload.container(network, &name, directory);
    let pod_id = calls.run_pod(pod.clone()).await?;
    let id = calls.create(&pod_id, container, pod).await?;
    calls.start(&id).await?;
    Ok((pod_id, id))
}

/// As the kubelet ends a pod.
async fn gone(calls: &Calls, pod: &str, container: &str) -> Result<(), BenchError> {
    calls.stop(container).await?;
    calls.stop_pod(pod).await?;
    calls.remove(container).await?;
    calls.remove_pod(pod).await
}
