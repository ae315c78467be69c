//! Ever more pods at a time: what each waits for, and how many come out a second.

use std::{path::Path, time::Duration};

use super::{
    Kind, Run,
    pods::{OTHERS, measure_of},
};
use crate::bench::{
    BenchError,
    census::Cpu,
    crowd::{Crowd, Shape, Took},
    pods::Measured,
    record::{At, Suite, Unit},
    samples::milliseconds,
    workload::Workload,
};

/// Batches of each size, the endpoints in turn.
const BATCHES: usize = 3;

/// Pods of a batch, at least: one alone says little.
const LEAST: usize = 8;

/// How long the machine is left alone before a batch.
const PAUSE: Duration = Duration::from_millis(300);

/// What an endpoint's batches of one size have shown.
#[derive(Debug, Clone, Default)]
struct Batches {
    took: Vec<Took>,
    ready_a_second: Vec<f64>,
    gone_a_second: Vec<f64>,
    processor_ms: Vec<f64>,
}

/// One call's, or several calls' together.
type Part = fn(&Took) -> Duration;

impl<P: FnMut(&str)> Run<'_, P> {
    pub(super) async fn concurrency(&mut self) -> Result<(), BenchError> {
        let (workload, directory) = (self.workload, self.directory);
        let network = self.first_network();
        let mut inside = self.everybody();
        self.warm_up(&mut inside, network).await?;
        for &at_once in &self.settings.concurrency {
            let shape = Shape {
                pods: at_once.max(LEAST),
                at_once,
                network,
            };
            let mut all = vec![Batches::default(); inside.len()];
            for batch in 1..=BATCHES {
                let what = format!("{at_once} pods at a time, batch {batch} of {BATCHES}");
                let work = async |index: usize, subject: &Measured| {
                    (all[index].run(subject, workload, directory, shape)).await
                };
                self.turn(&mut inside, &what, work).await?;
            }
            for (index, batches) in all.into_iter().enumerate() {
                self.keep_batches(index, shape, batches);
            }
        }
        Ok(())
    }

    fn keep_batches(&mut self, of: usize, shape: Shape, batches: Batches) {
        let at = At {
            axis: "pods at a time".to_owned(),
            value: shape.at_once as u64,
        };
        let kind = |experiment, operation, unit| Kind {
            suite: Suite::Concurrency,
            experiment,
            operation,
            variant: shape.network.variant(),
            unit,
        };
        let of_each: [(&str, Part); 4] = [
            ("RunPodSandbox", |took| took.run_pod),
            ("CreateContainer", |took| took.create),
            ("StartContainer", |took| took.start),
            ("pod ready", |took| took.run_pod + took.create + took.start),
        ];
        for (call, duration) in of_each {
            let (experiment, operation) = measure_of(call);
            let samples = batches.took.iter().map(|took| milliseconds(duration(took)));
            let kind = kind(experiment, operation, Unit::Ms);
            self.keep(Some(of), kind, Some(&at), samples.collect());
        }
        for (operation, unit, samples) in [
            ("pods ready", Unit::PerSecond, batches.ready_a_second),
            ("pods removed", Unit::PerSecond, batches.gone_a_second),
            (
                "processor time of a pod's life",
                Unit::CpuMs,
                batches.processor_ms,
            ),
        ] {
            self.keep(Some(of), kind(OTHERS, operation, unit), Some(&at), samples);
        }
    }
}

impl Batches {
    async fn run(
        &mut self,
        subject: &Measured,
        workload: &Workload,
        directory: &Path,
        shape: Shape,
    ) -> Result<(), BenchError> {
        tokio::time::sleep(PAUSE).await;
        let cpu = Cpu::now()?;
        let crowd = Crowd::run(&subject.calls, workload, directory, shape).await?;
        let pods = shape.pods as f64;
        let ready = crowd.took;
        let took: Vec<Took> = crowd.took().collect();
        let gone = crowd.remove(&subject.calls).await?;
        self.processor_ms.push(cpu.seconds_since()? * 1e3 / pods);
        self.took.extend(took);
        self.ready_a_second.push(pods / ready.as_secs_f64());
        self.gone_a_second.push(pods / gone.as_secs_f64());
        Ok(())
    }
}
