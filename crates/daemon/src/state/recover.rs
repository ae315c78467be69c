//! What a daemon does before it serves: loads the records, redials the supervisors, takes up what was left half-done, and sweeps what
//! belongs to nobody.

use std::{collections::BTreeSet, sync::Arc};

use supervisor_api::{ContainerStatus, PodState, SandboxState};

use super::{ContainerRecord, ContainerStage, PodStage, RecordError};
use crate::{
    container::{self, Container, Exit},
    events::Kind,
    id::PodId,
    pod::{self, Dialled, Pod},
    runtime::Runtime,
};

/// What lives, or may live, though no pod or container could be made of its record: the sweep leaves it alone.
#[derive(Debug, Default)]
struct Kept {
    pods: BTreeSet<String>,
    containers: BTreeSet<String>,
    /// Not even their names could be read.
    unknown: bool,
}

impl Kept {
    fn merge(&mut self, other: Self) {
        self.pods.extend(other.pods);
        self.containers.extend(other.containers);
        self.unknown |= other.unknown;
    }
}

/// Never fails as a whole: one pod's trouble is logged, stays that pod's, and keeps nobody from being served.
pub(crate) async fn recover(runtime: &Arc<Runtime>) {
    let ids = match runtime.records.pods() {
        Ok(ids) => ids,
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "no pod is recovered"
            );
            return;
        }
    };
    let mut pods = tokio::task::JoinSet::new();
    for id in ids {
        let runtime = Arc::clone(runtime);
        pods.spawn(async move { recover_pod(&runtime, &id).await });
    }
    let mut kept = Kept::default();
    while let Some(recovered) = pods.join_next().await {
        match recovered {
            Ok(more) => kept.merge(more),
            // The panic is in the log; what it was about is not known here.
            Err(_panicked) => kept.unknown = true,
        }
    }
    sweep(runtime, kept).await;
}

async fn recover_pod(runtime: &Arc<Runtime>, id: &PodId) -> Kept {
    let record = match runtime.records.load_pod(id) {
        Ok(record) => record,
        Err(error) => return without_record(runtime, id, &error).await,
    };
    let directory = runtime.records.pod_directory(id);
    let earlier_boot = record.boot != runtime.boot;
    let stage = record.stage.clone();
    let phase = match &stage {
        PodStage::Starting | PodStage::Removing => pod::Phase::Starting,
        PodStage::Ready => pod::Phase::Ready,
        PodStage::Stopping { reason } => pod::Phase::Stopping {
            reason: reason.clone(),
        },
        PodStage::Stopped { reason } => pod::Phase::Stopped {
            reason: reason.clone(),
        },
    };
    let level = (record.labels.as_ref()).and_then(|labels| runtime.selinux.hold(labels));
    let pod = Arc::new(Pod::new(record, directory, phase, level));
    if runtime.inventory.claim_pod_name(&pod).is_err() {
        // The name of one whose undoing failed was free for its retry. This one is listed, to be removed.
        tracing::warn!(pod = %id, "another pod has the same name");
    }
    let kept = load_containers(runtime, &pod);
    let dialled = match stage {
        PodStage::Stopped { .. } => Dialled::Dead,
        _ => pod::dial(&pod).await,
    };
    let state = match &dialled {
        Dialled::Answered { state, .. } => Some(state.clone()),
        Dialled::Dead | Dialled::Mute { .. } => None,
    };
    settle(runtime, &pod, state.as_ref()).await;
    let trouble = match dialled {
        Dialled::Answered { state, events } => {
            // Not before the containers are listed: the exit of one that is not would be no news.
            tokio::spawn(pod::follow(
                Arc::downgrade(runtime),
                Arc::clone(&pod),
                events,
            ));
            (state.sandbox != SandboxState::Ready)
                .then(|| Trouble::Ended("its namespaces are gone".to_owned()))
        }
        Dialled::Dead => Some(Trouble::Dead),
        Dialled::Mute { reason } => Some(Trouble::Ended(format!(
            "its supervisor does not answer: {reason}"
        ))),
    };
    match stage {
        // Nobody was told of it, or it was on its way out. What an earlier boot left does not run any more.
        PodStage::Starting | PodStage::Removing => remove_whole(runtime, &pod).await,
        _ if earlier_boot => remove_whole(runtime, &pod).await,
        PodStage::Ready => {
            runtime.inventory.list_pod(&pod);
            match trouble {
                None => {}
                Some(Trouble::Dead) => {
                    let reason = "the pod's supervisor was gone when the daemon started";
                    pod::lose(runtime, &pod, reason);
                }
                Some(Trouble::Ended(reason)) => pod::ended(runtime, &pod, &reason),
            }
        }
        PodStage::Stopping { .. } => {
            runtime.inventory.list_pod(&pod);
            let runtime = Arc::clone(runtime);
            tokio::spawn(async move {
                if let Err(error) = pod::stop(&runtime, &pod).await {
                    let error = &*error as &dyn std::error::Error;
                    tracing::error!(pod = %pod.id, error, "finish a stop that the daemon's end interrupted");
                }
            });
        }
        PodStage::Stopped { .. } => {
            pod::settle_containers(runtime, &pod);
            runtime.inventory.list_pod(&pod);
        }
    }
    kept
}

/// Why a pod that was ready is not.
enum Trouble {
    Dead,
    Ended(String),
}

/// A pod's directory whose record cannot be had.
async fn without_record(runtime: &Arc<Runtime>, id: &PodId, error: &RecordError) -> Kept {
    if error.is_missing() {
        // The daemon died before the first record was whole, and so before anything else was made.
        tracing::warn!(pod = %id, error = error as &dyn std::error::Error, "a pod without a record goes");
        remove_directory(runtime, id);
        return Kept::default();
    }
    // A record of another version, say, means a pod that nobody could stop or show: it ends, if its supervisor can be asked to.
    if error.is_damaged() && pod::end_unknown(&runtime.records.pod_directory(id)).await {
        tracing::error!(pod = %id, error = error as &dyn std::error::Error, "a pod with a damaged record was ended");
        remove_directory(runtime, id);
        return Kept::default();
    }
    tracing::error!(pod = %id, error = error as &dyn std::error::Error, "a pod is not recovered; whatever it has is left alone");
    let mut kept = Kept {
        pods: BTreeSet::from([id.to_string()]),
        ..Kept::default()
    };
    match runtime.records.containers(id) {
        Ok(containers) => kept
            .containers
            .extend(containers.iter().map(ToString::to_string)),
        Err(_unreadable) => kept.unknown = true,
    }
    kept
}

/// Every container that has a record; one without one has nothing else either.
fn load_containers(runtime: &Runtime, pod: &Arc<Pod>) -> Kept {
    let mut kept = Kept::default();
    let ids = match runtime.records.containers(&pod.id) {
        Ok(ids) => ids,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(pod = %pod.id, error, "a pod is recovered without its containers");
            kept.unknown = true;
            return kept;
        }
    };
    for id in ids {
        match runtime.records.load_container(&pod.id, &id) {
            Ok(record) => {
                let container = Arc::new(Container::new(
                    record,
                    Arc::clone(pod),
                    container::Phase::Creating,
                ));
                if runtime.inventory.claim_container_name(&container).is_err() {
                    tracing::error!(container = %id, "another container of the pod has the same name");
                    kept.containers.insert(id.to_string());
                }
            }
            Err(error) if error.is_missing() => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(container = %id, error, "a container without a record goes");
                if let Err(error) = runtime.records.remove_container(&pod.id, &id) {
                    tracing::error!(container = %id, error = &error as &dyn std::error::Error, "it stays");
                }
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(container = %id, error, "a container is not recovered; it ends with its pod");
                kept.containers.insert(id.to_string());
            }
        }
    }
    kept
}

/// Gives each container its phase, and takes up what was half-done.
async fn settle(runtime: &Arc<Runtime>, pod: &Arc<Pod>, state: Option<&PodState>) {
    for container in runtime.inventory.claims_of(&pod.id) {
        let record = container.record();
        match record.stage {
            ContainerStage::Created => {
                let phase = phase(runtime, pod, &record, state);
                runtime.happen(|news| {
                    let ended = matches!(phase, container::Phase::Exited(_));
                    container.recovered(phase);
                    runtime.inventory.list_container(&container);
                    // Perhaps while no daemon ran. Kept for the first reader, who may know it.
                    if ended {
                        news.container(Kind::Stopped, &container);
                        container::return_devices(runtime, &container);
                    }
                });
            }
            ContainerStage::Creating | ContainerStage::Removing => {
                if let Err(error) = container::remove(runtime, &container).await {
                    let error = &*error as &dyn std::error::Error;
                    tracing::error!(container = %container.id, error, "a half-made container stays");
                }
            }
        }
    }
}

fn phase(
    runtime: &Runtime,
    pod: &Pod,
    record: &ContainerRecord,
    state: Option<&PodState>,
) -> container::Phase {
    let known =
        state.and_then(|state| state.containers.iter().find(|c| c.id == record.id.as_str()));
    let forbidden = record.forbidden.as_deref();
    if let Some(known) = known {
        return match &known.status {
            ContainerStatus::Created { pid } => container::Phase::Created { pid: *pid },
            ContainerStatus::Running { pid, started_at_ns } => container::Phase::Running {
                pid: *pid,
                started_at_ns: *started_at_ns,
            },
            ContainerStatus::Exited(exit) => {
                container::Phase::Exited(Arc::new(Exit::from_record(exit, forbidden)))
            }
        };
    }
    match runtime.records.exit(&pod.id, &record.id) {
        Some(exit) => container::Phase::Exited(Arc::new(Exit::from_record(&exit, forbidden))),
        // It ran when its supervisor was last heard of. Losing the pod kills what is left of it and writes down the end.
        None => container::Phase::Running {
            pid: 0,
            started_at_ns: record.created_at_ns,
        },
    }
}

async fn remove_whole(runtime: &Arc<Runtime>, pod: &Arc<Pod>) {
    if let Err(error) = pod::remove(runtime, pod).await {
        let error = &*error as &dyn std::error::Error;
        tracing::error!(pod = %pod.id, error, "the remains of a pod stay; RemovePodSandbox or the next start tries again");
        runtime.inventory.list_pod(pod);
    }
}

fn remove_directory(runtime: &Runtime, id: &PodId) {
    if let Err(error) = runtime.records.remove_pod(id) {
        tracing::error!(pod = %id, error = &error as &dyn std::error::Error, "it stays");
    }
}

/// What no record speaks of, which is what a power cut leaves: addresses, pins, writable layers, volumes.
async fn sweep(runtime: &Arc<Runtime>, kept: Kept) {
    if kept.unknown {
        tracing::error!("nothing is swept: not all that lives is known");
        return;
    }
    let pods: BTreeSet<String> = runtime
        .inventory
        .pods()
        .iter()
        .map(|pod| pod.id.to_string())
        .collect();
    let pods: BTreeSet<String> = pods.union(&kept.pods).cloned().collect();
    runtime.plugins.collect(&pods);
    match runtime.network.collect(&pods).await {
        Ok(collected) => {
            for id in collected.iter().filter_map(|id| PodId::parse(id)) {
                if let Err(error) = cni::plugins::unpin(&runtime.netns_path(&id)) {
                    tracing::warn!(error = &error as &dyn std::error::Error, "sweep");
                }
            }
        }
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "sweep the network"
            );
        }
    }
    let live: BTreeSet<String> = runtime
        .inventory
        .containers()
        .iter()
        .map(|c| c.id.to_string())
        .collect();
    let live: BTreeSet<String> = live.union(&kept.containers).cloned().collect();
    let swept = {
        let (runtime, live) = (Arc::clone(runtime), live.clone());
        tokio::task::spawn_blocking(move || sweep_disk(&runtime, &live)).await
    };
    if let Err(error) = swept {
        tracing::error!(%error, "sweep the disk");
    }
    let held = runtime.images.pins().into_keys();
    let held = held
        .filter(|pin| live.contains(container::pin_holder(pin)))
        .collect();
    if let Err(error) = runtime.images.reconcile(&held) {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "sweep the images' pins"
        );
    }
}

fn sweep_disk(runtime: &Runtime, live: &BTreeSet<String>) {
    match runtime.overlay.containers() {
        Ok(ids) => {
            for id in ids.iter().filter(|id| !live.contains(*id)) {
                if let Err(error) = runtime.overlay.remove(id) {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(container = id, error, "sweep a writable layer");
                }
            }
        }
        Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "sweep layers"),
    }
    container::sweep_volumes(&runtime.config.root, live);
}
