use std::{
    path::Path,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
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

/// Pods that run at the same time.
#[derive(Debug)]
pub(crate) struct Crowd {
    pods: Vec<Running>,
    at_once: usize,
    /// From the first call to the last.
    pub(crate) took: Duration,
}

/// A pod with its container.
#[derive(Debug)]
struct Running {
    pod: String,
    container: String,
    took: Took,
}

/// What the calls that make a pod took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Took {
    pub(crate) run_pod: Duration,
    pub(crate) create: Duration,
    pub(crate) start: Duration,
}

/// How many pods, how many at a time, and where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) pods: usize,
    pub(crate) at_once: usize,
    pub(crate) network: Network,
}

/// Runs the pods, looks at the process table, and removes them, as many at a time.
pub(crate) async fn measure(
    calls: &Calls,
    daemon: i32,
    workload: &Workload,
    directory: &Path,
    shape: Shape,
) -> Result<CrowdReport, BenchError> {
    let before = Census::take(daemon)?;
    let cpu = Cpu::now()?;
    let crowd = Crowd::run(calls, workload, directory, shape).await?;
    let mut cpu_seconds = cpu.seconds_since()?;

    let after = Census::take(daemon)?;
    let cpu = Cpu::now()?;
    let ready_ms = milliseconds(crowd.took);
    let gone_ms = milliseconds(crowd.remove(calls).await?);
    cpu_seconds += cpu.seconds_since()?;
    Ok(CrowdReport {
        pods: shape.pods,
        concurrency: shape.at_once,
        network: shape.network,
        ready_ms,
        gone_ms,
        cpu_seconds,
        daemon_idle: before.daemon,
        daemon_loaded: after.daemon,
        added: after.added_since(&before),
    })
}

impl Crowd {
    pub(crate) async fn run(
        calls: &Calls,
        workload: &Workload,
        directory: &Path,
        shape: Shape,
    ) -> Result<Self, BenchError> {
        let begun = Instant::now();
        let network = shape.network;
        let pods = (0..shape.pods).map(|number| one(calls, workload, directory, network, number));
        let pods = together(shape.at_once, pods).await?;
        Ok(Self {
            pods,
            at_once: shape.at_once,
            took: begun.elapsed(),
        })
    }

    pub(crate) fn took(&self) -> impl Iterator<Item = Took> {
        self.pods.iter().map(|pod| pod.took)
    }

    /// How long it took until the last was gone.
    pub(crate) async fn remove(self, calls: &Calls) -> Result<Duration, BenchError> {
        let begun = Instant::now();
        let pods = self.pods.iter();
        let gone = pods.map(|pod| gone(calls, &pod.pod, &pod.container));
        together(self.at_once, gone).await?;
        Ok(begun.elapsed())
    }
}

/// Does all `work`, so many at a time. After a failure no more is begun, and what has begun comes to its end: a call that were dropped might
/// make its pod yet, behind the back of who removes them.
pub(crate) async fn together<T>(
    at_once: usize,
    work: impl IntoIterator<Item = impl Future<Output = Result<T, BenchError>>>,
) -> Result<Vec<T>, BenchError> {
    let mut waiting = work.into_iter();
    let mut begun: FuturesUnordered<_> = waiting.by_ref().take(at_once.max(1)).collect();
    let (mut done, mut failure) = (Vec::new(), None);
    while let Some(result) = begun.next().await {
        match result {
            Ok(one) => done.push(one),
            Err(error) => {
                failure.get_or_insert(error);
            }
        }
        if let (None, Some(next)) = (&failure, waiting.next()) {
            begun.push(next);
        }
    }
    match failure {
        None => Ok(done),
        Some(error) => Err(error),
    }
}

async fn one(
    calls: &Calls,
    workload: &Workload,
    directory: &Path,
    network: Network,
    number: usize,
) -> Result<Running, BenchError> {
    let name = format!("crowd-{}-{number}", calls.subject);
    let config = workload.pod(network, &name, directory);
    let container = workload.container(network, &name, directory);
    let begun = Instant::now();
    let pod = calls.run_pod(config.clone()).await?;
    let run_pod = begun.elapsed();
    let begun = Instant::now();
    let id = calls.create(&pod, container, config).await?;
    let create = begun.elapsed();
    let begun = Instant::now();
    calls.start(&id).await?;
    let start = begun.elapsed();
    Ok(Running {
        pod,
        container: id,
        took: Took {
            run_pod,
            create,
            start,
        },
    })
}

/// As the kubelet ends a pod.
async fn gone(calls: &Calls, pod: &str, container: &str) -> Result<(), BenchError> {
    calls.stop(container).await?;
    calls.stop_pod(pod).await?;
    calls.remove(container).await?;
    calls.remove_pod(pod).await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn what_has_begun_ends_and_what_has_not_never_begins() {
        let (begun, ended) = (&Cell::new(0), &Cell::new(0));
        let work = (0..100).map(|number| async move {
            begun.set(begun.get() + 1);
            tokio::task::yield_now().await;
            ended.set(ended.get() + 1);
            match number {
                5 => Err(BenchError::Interrupted),
                number => Ok(number),
            }
        });
        let result = together(4, work).await;
        assert!(matches!(result, Err(BenchError::Interrupted)));
        assert!(begun.get() < 20, "{}", begun.get());
        assert_eq!(begun.get(), ended.get());
        let all = together(0, (0..9).map(async |number| Ok(number))).await;
        assert_eq!(all.unwrap().len(), 9);
    }
}
