//! What a node with ever more pods does to the life of one more, to the lists, to memory, and to the processor.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use super::{Kind, Run, pods::OTHERS};
use crate::bench::{
    BenchError,
    census::{Census, Cpu},
    crowd::{Crowd, Shape},
    pods::Measured,
    record::{At, ClassMemory, MemoryAt, Suite, Unit},
    samples::{Samples, milliseconds},
    sequence::Sequence,
    workload::Workload,
};

/// How many of the node's pods are made at a time.
const AT_ONCE: usize = 8;

/// Lives of one more pod, and calls of each list, at most.
const MOST_ROUNDS: usize = 10;

/// How much longer than it settles the node is watched while nothing is asked of it.
const WATCHES: u32 = 2;

/// What a node with so many pods has shown.
struct Look {
    ready: Duration,
    gone: Duration,
    /// Processor time until all were ready.
    made_seconds: f64,
    /// And in each second in which nothing was asked.
    idle_seconds: f64,
    lives: Sequence,
    lists: [(&'static str, Samples); 3],
    memory: Vec<ClassMemory>,
}

impl<P: FnMut(&str)> Run<'_, P> {
    pub(super) async fn scale(&mut self) -> Result<(), BenchError> {
        let (workload, directory) = (self.workload, self.directory);
        let network = self.first_network();
        let (rounds, settle) = (self.settings.repeats.min(MOST_ROUNDS), self.settings.settle);
        let mut inside = self.everybody();
        self.warm_up(&mut inside, network).await?;
        for &pods in &self.settings.pods {
            let shape = Shape {
                pods,
                at_once: AT_ONCE,
                network,
            };
            let mut looks: Vec<Option<Look>> = inside.iter().map(|_| None).collect();
            let what = format!("{pods} pods on the node");
            let work = async |index: usize, subject: &Measured| {
                let look = look(subject, workload, directory, shape, (rounds, settle)).await?;
                looks[index] = Some(look);
                Ok(())
            };
            self.turn(&mut inside, &what, work).await?;
            for (index, look) in looks.into_iter().enumerate() {
                if let Some(look) = look {
                    self.keep_look(index, shape, look);
                }
            }
        }
        Ok(())
    }

    fn keep_look(&mut self, of: usize, shape: Shape, look: Look) {
        let at = At {
            axis: "pods running".to_owned(),
            value: shape.pods as u64,
        };
        let kind = |operation, unit| Kind {
            suite: Suite::Scale,
            experiment: OTHERS,
            operation,
            variant: shape.network.variant(),
            unit,
        };
        self.keep_lives(
            of,
            Suite::Scale,
            shape.network.variant(),
            Some(&at),
            &look.lives,
        );
        for (call, samples) in &look.lists {
            self.keep_times(of, kind(call, Unit::Ms), Some(&at), samples);
        }
        let pods = shape.pods.max(1) as f64;
        for (operation, unit, sample) in [
            ("until all are ready", Unit::Ms, milliseconds(look.ready)),
            ("until all are gone", Unit::Ms, milliseconds(look.gone)),
            (
                "processor time to make a pod",
                Unit::CpuMs,
                look.made_seconds * 1e3 / pods,
            ),
            (
                "processor time of an idle second",
                Unit::CpuMs,
                look.idle_seconds * 1e3,
            ),
        ] {
            self.keep(Some(of), kind(operation, unit), Some(&at), vec![sample]);
        }
        self.record.memory.push(MemoryAt {
            endpoint: self.measured[of].calls.subject.clone(),
            pods: at.value,
            classes: look.memory,
        });
    }
}

async fn look(
    subject: &Measured,
    workload: &Workload,
    directory: &Path,
    shape: Shape,
    (rounds, settle): (usize, Duration),
) -> Result<Look, BenchError> {
    let calls = &subject.calls;
    tokio::time::sleep(settle).await;
    let before = Census::take(subject.daemon)?;
    let cpu = Cpu::now()?;
    let crowd = Crowd::run(calls, workload, directory, shape).await?;
    let ready = crowd.took;
    let made_seconds = cpu.seconds_since()?;

    tokio::time::sleep(settle).await;
    let (cpu, begun) = (Cpu::now()?, Instant::now());
    tokio::time::sleep(settle * WATCHES).await;
    let idle_seconds = cpu.seconds_since()? / begun.elapsed().as_secs_f64();
    let memory = Census::take(subject.daemon)?.classes_since(&before);

    let mut lives = Sequence::on(shape.network);
    let mut lists = ["ListPodSandbox", "ListContainers", "ListContainerStats"]
        .map(|call| (call, Samples::default()));
    for round in 0..=rounds {
        if round > 0 {
            (lives.round(calls, workload, directory, round)).await?;
        }
        for (call, samples) in &mut lists {
            let begun = Instant::now();
            match *call {
                "ListPodSandbox" => calls.list_pods().await?,
                "ListContainers" => calls.list_containers().await?,
                _ => calls.list_container_stats().await?,
            };
            // The first call of each opens what the others find open.
            if round > 0 {
                samples.keep(begun.elapsed());
            }
        }
    }
    Ok(Look {
        ready,
        gone: crowd.remove(calls).await?,
        made_seconds,
        idle_seconds,
        lives,
        lists,
        memory,
    })
}
