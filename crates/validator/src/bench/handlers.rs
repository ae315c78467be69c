//! The handlers of one runtime beside each other: a pod with one container through each, in turn, and what each has added.

use std::path::PathBuf;

use serde::Serialize;

use super::{
    BenchError, Machine, Network, Subject,
    census::{Census, Cpu, ProcessClass},
    commands::{self, CommandLine, CommandsReport},
    pods::{Measured, begin, machine, pods_scratch, remove_all},
    sequence::{CallReport, Sequence},
    stop::Stop,
    workload::Workload,
};

/// What `bench handlers` does.
#[derive(Debug, Clone)]
pub struct HandlersSettings {
    /// Must have `sh` and `sleep`. Pulled where it is missing.
    pub image: String,
    /// RuntimeClass handlers; none for all that the runtime lists.
    pub handlers: Vec<String>,
    /// Pods through each handler, and containers by each command line.
    pub rounds: usize,
    /// The network of the pods.
    pub network: Network,
    /// Cgroup parent of pods; empty for the runtime's own choice. In the runtime's driver's notation.
    pub cgroup_parent: String,
    /// OCI command lines to compare without a runtime around them; may be none.
    pub commands: Vec<CommandLine>,
    /// Mounts on the host in the second half of their comparison; 0 leaves it out.
    pub mounts: usize,
    /// For logs, mounted files and bundles; the runtime must see it. Removed at the end.
    pub directory: PathBuf,
}

/// What a run has measured.
#[derive(Debug, Clone, Serialize)]
pub struct HandlersReport {
    /// Where it ran.
    pub machine: Machine,
    /// As the runtime names itself, with its version.
    pub runtime: String,
    /// Pods through each handler; the first of each is left out.
    pub rounds: usize,
    /// Which network they were on.
    pub network: Network,
    /// In the order asked for.
    pub handlers: Vec<HandlerReport>,
    /// `run` of `true`, without mounts on the host and with them.
    pub commands: Vec<CommandsReport>,
    /// What a reader must know.
    pub notes: Vec<String>,
}

/// One handler.
#[derive(Debug, Clone, Serialize)]
pub struct HandlerReport {
    /// Its name.
    pub name: String,
    /// In the order of a pod's life.
    pub calls: Vec<CallReport>,
    /// Processor time of the whole machine for one pod's life, the benchmark's own aside, milliseconds.
    pub cpu_ms: f64,
    /// What one pod of one container has added, by program; the workload's own processes are not in it.
    pub added: Vec<ProcessClass>,
}

/// A handler under measurement.
struct Handler {
    measured: Measured,
    sequence: Sequence,
    cpu_seconds: f64,
}

/// Measures every handler in turn, round by round, then every command line, and removes what it made, also after a failure.
///
/// Cancellation: as [`super::run_pods`].
pub async fn run_handlers(
    subject: &Subject,
    settings: &HandlersSettings,
    interrupt: impl Future<Output = ()>,
    mut progress: impl FnMut(&str),
) -> Result<HandlersReport, BenchError> {
    let scratch = pods_scratch(&settings.directory)?;
    let directory = scratch.path();
    let workload = Workload::new(&settings.image, &settings.cgroup_parent);
    let stop = Stop::default();
    let mut handlers = connect(subject, settings, &stop, &mut progress).await?;
    let runtime = handlers
        .first()
        .map(|one| one.measured.runtime())
        .unwrap_or_default();

    let mut notes = Vec::new();
    let measure = async {
        // The handlers are of one runtime.
        if let Some(one) = handlers.first() {
            one.measured.calls.ensure_image(&settings.image).await?;
        }
        let pods = through_each(&mut handlers, &workload, settings, directory, &mut progress);
        let reports = pods.await?;
        let mut compared = Vec::new();
        for mounts in [Some(0), (settings.mounts > 0).then_some(settings.mounts)] {
            let Some(mounts) = mounts.filter(|_| !settings.commands.is_empty()) else {
                continue;
            };
            progress(&format!("command lines with {mounts} mounts on the host"));
            let run = commands::measure(&settings.commands, directory, settings.rounds, mounts);
            compared.push(run.await?);
        }
        Ok((reports, compared))
    };
    let result = stop.bound(measure, interrupt, None).await;
    // All of them are pods of one runtime.
    let endpoint: Vec<Measured> = handlers.into_iter().map(|one| one.measured).collect();
    remove_all(&endpoint[..endpoint.len().min(1)], &workload, &mut notes).await;
    let (handlers, commands) = result?;
    Ok(HandlersReport {
        machine: machine(),
        runtime,
        rounds: settings.rounds,
        network: settings.network,
        handlers,
        commands,
        notes,
    })
}

/// A connection for each handler.
async fn connect(
    subject: &Subject,
    settings: &HandlersSettings,
    stop: &Stop,
    progress: &mut impl FnMut(&str),
) -> Result<Vec<Handler>, BenchError> {
    let mut names = settings.handlers.clone();
    if names.is_empty() {
        let all = begin(std::slice::from_ref(subject), "", &[], stop, progress).await?;
        for one in &all {
            names.extend(one.calls.handlers().await?);
        }
    }
    let mut handlers = Vec::new();
    for name in names {
        let subject = Subject {
            // Pods are named by it.
            name: name.clone(),
            endpoint: subject.endpoint.clone(),
        };
        let measured = begin(&[subject], &name, &[], stop, progress).await?;
        handlers.extend(measured.into_iter().map(|measured| Handler {
            measured,
            sequence: Sequence::on(settings.network),
            cpu_seconds: 0.0,
        }));
    }
    Ok(handlers)
}

async fn through_each(
    handlers: &mut [Handler],
    workload: &Workload,
    settings: &HandlersSettings,
    directory: &std::path::Path,
    progress: &mut impl FnMut(&str),
) -> Result<Vec<HandlerReport>, BenchError> {
    for round in 0..=settings.rounds {
        for one in handlers.iter_mut() {
            let calls = &one.measured.calls;
            progress(&format!(
                "{}: pod {round} of {}",
                calls.subject, settings.rounds
            ));
            let cpu = Cpu::now()?;
            one.sequence
                .round(calls, workload, directory, round)
                .await?;
            if round > 0 {
                one.cpu_seconds += cpu.seconds_since()?;
            }
        }
    }
    let mut reports = Vec::new();
    for one in handlers {
        let calls = &one.measured.calls;
        progress(&format!("{}: memory", calls.subject));
        let before = Census::take(one.measured.daemon)?;
        let name = format!("memory-{}", calls.subject);
        let pod = workload.pod(settings.network, &name, directory);
        let container = workload.container(settings.network, &name, directory);
        let pod_id = calls.run_pod(pod.clone()).await?;
        let id = calls.create(&pod_id, container, pod).await?;
        calls.start(&id).await?;
        calls.exec_true(&id).await?;
        let added = Census::take(one.measured.daemon)?.added_since(&before);
        calls.stop_pod(&pod_id).await?;
        calls.remove_pod(&pod_id).await?;
        reports.push(HandlerReport {
            name: calls.subject.clone(),
            calls: one.sequence.report().calls,
            cpu_ms: 1e3 * one.cpu_seconds / settings.rounds.max(1) as f64,
            added,
        });
    }
    Ok(reports)
}
