//! One pod at a time, from RunPodSandbox to RemovePodSandbox.

use std::path::Path;

use super::{Kind, Run};
use crate::bench::{
    BenchError,
    census::Cpu,
    pods::Measured,
    record::{At, Suite, Unit},
    sequence::Sequence,
    workload::Workload,
};

/// What critest calls a call when it measures it, as (experiment, operation); for what it does not measure, a name of our own.
pub(super) fn measure_of(call: &str) -> (&'static str, &str) {
    match call {
        "RunPodSandbox" => ("PodLifecycle", "CreatePod"),
        "PodSandboxStatus" => ("PodLifecycle", "StatusPod"),
        "StopPodSandbox" => ("PodLifecycle", "StopPod"),
        "RemovePodSandbox" => ("PodLifecycle", "RemovePod"),
        "CreateContainer" => ("ContainerOps", "CreateContainer"),
        "StartContainer" => ("ContainerOps", "StartContainer"),
        "ContainerStatus" => ("ContainerOps", "StatusContainer"),
        "StopContainer" => ("ContainerOps", "StopContainer"),
        "RemoveContainer" => ("ContainerOps", "RemoveContainer"),
        other => (OTHERS, other),
    }
}

/// The experiment of what critest does not measure.
pub(super) const OTHERS: &str = "Others";

impl<P: FnMut(&str)> Run<'_, P> {
    pub(super) async fn pods(&mut self) -> Result<(), BenchError> {
        let (workload, directory) = (self.workload, self.directory);
        let rounds = self.settings.repeats;
        for &network in &self.settings.networks {
            let mut inside = self.everybody();
            self.warm_up(&mut inside, network).await?;
            let mut sequences: Vec<Sequence> =
                inside.iter().map(|_| Sequence::on(network)).collect();
            let mut processor = vec![Vec::new(); inside.len()];
            for round in 1..=rounds {
                let what = format!("{}, pod {round} of {rounds}", network.variant());
                let life = async |index: usize, subject: &Measured| {
                    life(subject, &mut sequences[index], workload, directory, round)
                        .await
                        .map(|seconds| processor[index].push(seconds))
                };
                self.turn(&mut inside, &what, life).await?;
            }
            for (index, sequence) in sequences.iter().enumerate() {
                self.keep_lives(index, Suite::Pods, network.variant(), None, sequence);
                // The kernel counts hundredths of a second: only the sum of many means something.
                let seconds: f64 = processor[index].iter().sum();
                let kind = Kind {
                    suite: Suite::Pods,
                    experiment: OTHERS,
                    operation: "processor time of a pod's life",
                    variant: network.variant(),
                    unit: Unit::CpuMs,
                };
                let mean = seconds * 1e3 / processor[index].len().max(1) as f64;
                let mean = (!processor[index].is_empty()).then_some(mean);
                self.keep(Some(index), kind, None, Vec::from_iter(mean));
            }
        }
        Ok(())
    }

    /// Each call of pods' lives as a series.
    pub(super) fn keep_lives(
        &mut self,
        of: usize,
        suite: Suite,
        variant: &str,
        at: Option<&At>,
        sequence: &Sequence,
    ) {
        for (call, samples) in sequence.samples() {
            let (experiment, operation) = measure_of(call);
            let kind = Kind {
                suite,
                experiment,
                operation,
                variant,
                unit: Unit::Ms,
            };
            self.keep_times(of, kind, at, samples);
        }
    }
}

/// Processor seconds of the machine during one pod's life, this process's own aside.
async fn life(
    subject: &Measured,
    sequence: &mut Sequence,
    workload: &Workload,
    directory: &Path,
    round: usize,
) -> Result<f64, BenchError> {
    let cpu = Cpu::now()?;
    (sequence.round(&subject.calls, workload, directory, round)).await?;
    cpu.seconds_since()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::sequence::CALLS;

    #[test]
    fn what_critest_measures_is_called_as_there() {
        let of = |wanted: &str| -> Vec<&str> {
            let measures = CALLS.iter().map(|call| measure_of(call));
            let mut operations: Vec<&str> = measures
                .filter(|(experiment, _)| *experiment == wanted)
                .map(|(_, operation)| operation)
                .collect();
            operations.sort_unstable();
            operations
        };
        assert_eq!(
            of("PodLifecycle"),
            ["CreatePod", "RemovePod", "StatusPod", "StopPod"]
        );
        assert_eq!(
            of("ContainerOps"),
            [
                "CreateContainer",
                "RemoveContainer",
                "StartContainer",
                "StatusContainer",
                "StopContainer"
            ]
        );
        assert_eq!(of(OTHERS).len(), 3);
    }
}
