//! What a daemon does before it serves: loads the records, redials the supervisors, takes up what was left half-done, and sweeps what
//! belongs to nobody.

use std::{collections::BTreeSet, sync::Arc};

use supervisor_api::{ContainerStatus, PodState, ReplyBody, RequestBody};
use tokio::sync::mpsc;

use super::{ContainerRecord, ContainerStage, PodStage};
use crate::{
    container::{self, Container, Exit},
    id::PodId,
    pod::{self, Pod},
    runtime::Runtime,
    supervisor::{self, CallError, Event, Link},
};

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
    // A panic in one is in the log.
    while pods.join_next().await.is_some() {}
    sweep(runtime).await;
}

async fn recover_pod(runtime: &Arc<Runtime>, id: &PodId) {
    let record = match runtime.records.load_pod(id) {
        Ok(record) => record,
        Err(error) => {
            // The daemon died before the first record was whole, and so before anything else was made.
            tracing::warn!(pod = %id, error = &error as &dyn std::error::Error, "a pod without a record goes");
            remove_directory(runtime, id);
            return;
        }
    };
    let directory = runtime.records.pod_directory(id);
    let earlier_boot = record.boot != runtime.boot;
    let phase = match &record.stage {
        PodStage::Starting | PodStage::Removing => pod::Phase::Starting,
        PodStage::Ready | PodStage::Stopping => pod::Phase::Ready,
        PodStage::Stopped { reason } => pod::Phase::Stopped {
            reason: reason.clone(),
        },
    };
    let stage = record.stage.clone();
    let pod = Arc::new(Pod::new(record, directory, phase));
    if runtime.inventory.claim_pod_name(&pod).is_err() {
        tracing::error!(pod = %id, "another pod has the same name; this one goes");
    }
    load_containers(runtime, &pod);
    let answer = redial(&pod).await;
    let state = answer.as_ref().map(|(state, _)| state.clone());
    settle(runtime, &pod, state.as_ref()).await;
    if let Some((_, events)) = answer {
        // Not before the containers are listed: the exit of one that is not would be no news.
        tokio::spawn(pod::follow(
            Arc::downgrade(runtime),
            Arc::clone(&pod),
            events,
        ));
    }
    match stage {
        // Nobody was told of it, or it was on its way out. What an earlier boot left does not run any more.
        PodStage::Starting | PodStage::Removing => remove_whole(runtime, &pod).await,
        _ if earlier_boot => remove_whole(runtime, &pod).await,
        PodStage::Ready => {
            runtime.inventory.list_pod(&pod);
            if state.is_none() {
                pod::lose(
                    runtime,
                    &pod,
                    "the pod's supervisor was gone when the daemon started",
                )
                .await;
            }
        }
        PodStage::Stopping => {
            runtime.inventory.list_pod(&pod);
            let runtime = Arc::clone(runtime);
            tokio::spawn(async move {
                if let Err(error) = pod::stop(&runtime, &pod).await {
                    let error = &*error as &dyn std::error::Error;
                    tracing::error!(pod = %pod.id, error, "finish a stop that the daemon's end interrupted");
                }
            });
        }
        PodStage::Stopped { .. } => runtime.inventory.list_pod(&pod),
    }
}

/// Every container that has a record; one without one has nothing else either.
fn load_containers(runtime: &Runtime, pod: &Arc<Pod>) {
    let ids = runtime.records.containers(&pod.id).unwrap_or_default();
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
                }
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(container = %id, error, "a container without a record goes");
                if let Err(error) = runtime.records.remove_container(&pod.id, &id) {
                    tracing::error!(container = %id, error = &error as &dyn std::error::Error, "it stays");
                }
            }
        }
    }
}

/// What the supervisor says there is, and what it will say; `None` where nobody answers.
async fn redial(pod: &Pod) -> Option<(PodState, mpsc::UnboundedReceiver<Event>)> {
    if matches!(pod.phase(), pod::Phase::Stopped { .. }) {
        return None;
    }
    let socket = supervisor::connect(&pod.directory).ok()?;
    let (link, events) = Link::new(socket).ok()?;
    let link = Arc::new(link);
    match ask(&link).await {
        Ok(state) => {
            pod.set_link(Some(link));
            Some((state, events))
        }
        Err(error) => {
            tracing::warn!(pod = %pod.id, error = &error as &dyn std::error::Error, "redial");
            None
        }
    }
}

async fn ask(link: &Link) -> Result<PodState, CallError> {
    link.greet().await?.answered().await?;
    match link.call(RequestBody::State, Vec::new()).await? {
        (ReplyBody::State(state), _) => Ok(state),
        (other, _) => Err(CallError::Mismatch {
            request: "State",
            reply: format!("{other:?}"),
        }),
    }
}

/// Gives each container its phase, and takes up what was half-done.
async fn settle(runtime: &Arc<Runtime>, pod: &Arc<Pod>, state: Option<&PodState>) {
    for container in runtime.inventory.claims_of(&pod.id) {
        let record = container.record();
        match record.stage {
            ContainerStage::Created => {
                container.recovered(phase(runtime, pod, &record, state));
                runtime.inventory.list_container(&container);
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
    if let Some(message) = &record.start_error {
        let exit = runtime.records.exit(&pod.id, &record.id);
        let finished_at_ns = exit.map_or(record.created_at_ns, |exit| exit.finished_at_ns);
        let exit = Exit::start_error(message.clone(), finished_at_ns);
        return container::Phase::Exited(Arc::new(exit));
    }
    let known =
        state.and_then(|state| state.containers.iter().find(|c| c.id == record.id.as_str()));
    if let Some(known) = known {
        return match &known.status {
            ContainerStatus::Created { pid } => container::Phase::Created { pid: *pid },
            ContainerStatus::Running { pid, started_at_ns } => container::Phase::Running {
                pid: *pid,
                started_at_ns: *started_at_ns,
            },
            ContainerStatus::Exited(exit) => {
                container::Phase::Exited(Arc::new(Exit::from_record(exit)))
            }
        };
    }
    match runtime.records.exit(&pod.id, &record.id) {
        Some(exit) => container::Phase::Exited(Arc::new(Exit::from_record(&exit))),
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
async fn sweep(runtime: &Arc<Runtime>) {
    let pods: BTreeSet<String> = runtime
        .inventory
        .pods()
        .iter()
        .map(|pod| pod.id.to_string())
        .collect();
    match runtime.network.collect(&pods).await {
        Ok(collected) => {
            for id in collected.iter().filter_map(|id| PodId::parse(id)) {
                if let Err(error) = pod::unpin(&runtime.netns_path(&id)) {
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
    let swept = {
        let (runtime, live) = (Arc::clone(runtime), live.clone());
        tokio::task::spawn_blocking(move || sweep_disk(&runtime, &live)).await
    };
    if let Err(error) = swept {
        tracing::error!(%error, "sweep the disk");
    }
    if let Err(error) = runtime.images.reconcile(&live) {
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
