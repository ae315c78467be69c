use std::{path::Path, time::Instant};

use serde::Serialize;

use super::{
    BenchError,
    calls::Calls,
    samples::{Samples, Summary},
    workload::{Network, Workload},
};

/// One pod at a time on one network: how long each call took.
#[derive(Debug, Clone, Serialize)]
pub struct NetworkReport {
    /// Which network.
    pub network: Network,
    /// In the order of a pod's life.
    pub calls: Vec<CallReport>,
}

/// One call, or a sum of calls.
#[derive(Debug, Clone, Serialize)]
pub struct CallReport {
    /// The RPC's name; or `CreateContainer + StartContainer`, or `pod ready`: from RunPodSandbox to the end of StartContainer.
    pub name: &'static str,
    /// Milliseconds.
    #[serde(flatten)]
    pub summary: Summary,
}

/// The calls of a pod's life, in order.
pub(crate) const CALLS: [&str; 12] = [
    "RunPodSandbox",
    "CreateContainer",
    "StartContainer",
    "CreateContainer + StartContainer",
    "pod ready",
    "PodSandboxStatus",
    "ContainerStatus",
    "ExecSync true",
    "StopContainer",
    "RemoveContainer",
    "StopPodSandbox",
    "RemovePodSandbox",
];

/// What [`Sequence::round`] has measured so far.
#[derive(Debug)]
pub(crate) struct Sequence {
    network: Network,
    samples: [Samples; CALLS.len()],
}

/// Times one step after another: each ends where the next begins.
struct Lap<'a> {
    samples: &'a mut [Samples; CALLS.len()],
    /// The first round of an endpoint warms the way up and does not count.
    counts: bool,
    begun: Instant,
}

impl Lap<'_> {
    fn begin(&mut self) -> Instant {
        self.begun = Instant::now();
        self.begun
    }

    fn end(&mut self, call: usize) {
        self.end_since(call, self.begun);
    }

    fn end_since(&mut self, call: usize, begun: Instant) {
        if self.counts {
            self.samples[call].keep(begun.elapsed());
        }
    }
}

impl Sequence {
    pub(crate) fn on(network: Network) -> Self {
        Self {
            network,
            samples: Default::default(),
        }
    }

    /// A pod from RunPodSandbox to RemovePodSandbox.
    pub(crate) async fn round(
        &mut self,
        calls: &Calls,
        workload: &Workload,
        directory: &Path,
        round: usize,
    ) -> Result<(), BenchError> {
        let name = format!("sequence-{}-{round}", calls.subject);
        let pod = workload.pod(self.network, &name, directory);
        let container = workload.container(self.network, &name, directory);
        let mut lap = Lap {
            samples: &mut self.samples,
            counts: round > 0,
            begun: Instant::now(),
        };

        let ready = lap.begin();
        let pod_id = calls.run_pod(pod.clone()).await?;
        lap.end(0);
        let both = lap.begin();
        let id = calls.create(&pod_id, container, pod).await?;
        lap.end(1);
        lap.begin();
        calls.start(&id).await?;
        lap.end(2);
        lap.end_since(3, both);
        lap.end_since(4, ready);
        lap.begin();
        calls.pod_status(&pod_id).await?;
        lap.end(5);
        lap.begin();
        calls.container_status(&id).await?;
        lap.end(6);
        for _ in 0..3 {
            lap.begin();
            calls.exec_true(&id).await?;
            lap.end(7);
        }
        lap.begin();
        calls.stop(&id).await?;
        lap.end(8);
        lap.begin();
        calls.remove(&id).await?;
        lap.end(9);
        lap.begin();
        calls.stop_pod(&pod_id).await?;
        lap.end(10);
        lap.begin();
        calls.remove_pod(&pod_id).await?;
        lap.end(11);
        Ok(())
    }

    /// Each call and what it took.
    pub(crate) fn samples(&self) -> impl Iterator<Item = (&'static str, &Samples)> {
        CALLS.into_iter().zip(&self.samples)
    }

    pub(crate) fn report(&self) -> NetworkReport {
        NetworkReport {
            network: self.network,
            calls: (self.samples())
                .filter_map(|(name, samples)| {
                    let summary = samples.summary()?;
                    Some(CallReport { name, summary })
                })
                .collect(),
        }
    }
}
