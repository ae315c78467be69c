//! UpdateContainerResources: limits of a container that lives, from one moment to the next.

use std::sync::Arc;

use oci_spec::runtime::LinuxPids;
use rustix::io::Errno;
use supervisor_api::RequestBody;

use super::{
    Container, Phase,
    outside::{self, OutsideError},
};
use crate::{
    failpoint,
    flight::Crashed,
    id::ContainerId,
    nri::{Limits, NriError},
    pod::config::LinuxResources,
    runtime::{BlockingError, DISK_BOUND, Runtime, blocking},
    spec::{SpecError, change_resources},
    state::RecordError,
    supervisor::CallError,
};

#[derive(Debug, thiserror::Error)]
pub(crate) enum UpdateError {
    #[error("update container {id}: it is {state}; only a created or running container has limits")]
    State {
        id: ContainerId,
        state: &'static str,
    },
    #[error("update container {0}: its pod is not ready")]
    PodNotReady(ContainerId),
    #[error("update container {0}")]
    Nri(ContainerId, #[source] NriError),
    #[error("update container {0}")]
    Spec(ContainerId, #[source] SpecError),
    #[error("update container {0}")]
    Plan(ContainerId, #[source] oci_plan::spec::SpecError),
    #[error("update container {0}")]
    Supervisor(ContainerId, #[source] CallError),
    #[error("update container {0}")]
    Outside(ContainerId, #[source] OutsideError),
    #[error("update container {0}: look at its processes")]
    Processes(ContainerId, #[source] cgroup::Error),
    #[error("update container {0}: its limits are changed, and its record cannot be")]
    Record(ContainerId, #[source] RecordError),
    #[error("update container {0}")]
    Blocking(ContainerId, #[source] BlockingError),
    #[error(transparent)]
    Crashed(#[from] Crashed),
}

/// Changes the resources that the request names; the others stay. All of them change, or none. Cancellation: the change is made to its end.
pub(crate) async fn update(
    runtime: &Arc<Runtime>,
    container: &Arc<Container>,
    change: LinuxResources,
) -> Result<(), UpdateError> {
    let (runtime, container) = (Arc::clone(runtime), Arc::clone(container));
    let updated = tokio::spawn(async move {
        let refused = |error| UpdateError::Nri(container.id.clone(), error);
        let wanted = runtime.nri.update(&runtime, &container, change).await;
        let wanted = wanted.map_err(refused)?;
        let others = runtime.nri.change(&wanted.others).await.map_err(refused)?;
        if let Err(error) = update_now(&runtime, &container, &wanted.limits).await {
            runtime.nri.give_back(others).await;
            return Err(error);
        }
        runtime.nri.end(wanted.others);
        runtime.nri.updated(&runtime, &container).await;
        Ok(())
    });
    updated.await.map_err(|_panicked| Crashed)?
}

/// The same, as a plugin wants it: no plugin is asked. Cancellation: the change is made to its end once it has begun.
pub(crate) async fn update_for_plugin(
    runtime: &Arc<Runtime>,
    container: &Arc<Container>,
    change: Limits,
) -> Result<(), UpdateError> {
    let (runtime, container) = (Arc::clone(runtime), Arc::clone(container));
    let updated = tokio::spawn(async move { update_now(&runtime, &container, &change).await });
    updated.await.map_err(|_panicked| Crashed)?
}

async fn update_now(
    runtime: &Arc<Runtime>,
    container: &Arc<Container>,
    change: &Limits,
) -> Result<(), UpdateError> {
    let turn = container.turn().await;
    let id = &container.id;
    let state = match container.phase() {
        Phase::Created { .. } | Phase::Running { .. } => None,
        Phase::Creating => Some("being created"),
        Phase::Exited(_) => Some("exited"),
        Phase::Removed => Some("removed"),
    };
    if let Some(state) = state {
        return Err(UpdateError::State {
            id: id.clone(),
            state,
        });
    }
    let link = match container.pod.link() {
        Some(link) if container.pod.is_ready() => link,
        Some(_) | None => return Err(UpdateError::PodNotReady(id.clone())),
    };
    let now = container.resources();
    let mut changed = change_resources(&now, &change.asked, &runtime.host)
        .map_err(|error| UpdateError::Spec(id.clone(), error))?;
    let pids = change.pids.map(|limit| {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        pids
    });
    changed.set.set_pids(pids);
    let resources = oci_plan::spec::resources(&changed.set)
        .map_err(|error| UpdateError::Plan(id.clone(), error))?;
    let record = |error| UpdateError::Record(id.clone(), error);
    let spec = container.spec(&runtime.records).map_err(record)?;
    let outside = |error| UpdateError::Outside(id.clone(), error);
    let in_force = in_force(runtime, container, change)
        .await
        .map_err(outside)?;
    let back = change.further.undone(&in_force.further);
    let cgroup = container.cgroup();
    outside::limit_further(runtime, &change.further, cgroup)
        .await
        .map_err(outside)?;

    let request = RequestBody::UpdateResources {
        id: id.to_string(),
        resources,
    };
    let ordered = link.order("UpdateResources", request, Vec::new()).await;
    if let Err(error) = ordered {
        if let Err(left) = outside::limit_further(runtime, &back, cgroup).await {
            let error = &left as &dyn std::error::Error;
            tracing::warn!(container = %id, error, "it does not get all of its limits back");
        }
        return Err(UpdateError::Supervisor(id.clone(), error));
    }
    if changed.asked.oom_score_adj != now.oom_score_adj {
        adjust(runtime, container, changed.asked.oom_score_adj).await?;
    }
    failpoint::reach("container.updated", &container.pod);

    let mut spec = (*spec).clone();
    if let Some(resources) = spec
        .linux_mut()
        .as_mut()
        .and_then(|linux| linux.resources_mut().as_mut())
    {
        resources
            .set_memory(*changed.whole.memory())
            .set_cpu(changed.whole.cpu().clone())
            .set_hugepage_limits(changed.whole.hugepage_limits().clone())
            .set_unified(changed.whole.unified().clone());
        let further = change.further.clone().or(in_force.further);
        further.put(resources);
        if pids.is_some() {
            resources.set_pids(pids);
        }
    }
    if let Some(process) = spec.process_mut() {
        // What is executed in the container from now on is rated as it is.
        process.set_oom_score_adj(Some(i32::from(changed.asked.oom_score_adj)));
    }
    let saved = runtime.records.save_spec(&container.record(), &spec);
    saved.map_err(record)?;
    container.set_spec(spec);
    container
        .update(&turn, &runtime.records, |record| {
            record.resources = Some(changed.asked);
        })
        .map_err(record)
}

/// What a container has of the limits that are to be changed, and more.
pub(crate) async fn in_force(
    runtime: &Runtime,
    container: &Container,
    change: &Limits,
) -> Result<Limits, OutsideError> {
    let mut limits = container.limits(&runtime.records);
    // One that it was not given it has from its parent: only the kernel knows.
    if change.further.swappiness.is_some() && limits.further.swappiness.is_none() {
        let (hierarchies, path) = (runtime.hierarchies.clone(), container.cgroup().to_owned());
        let read = move || hierarchies.open_cgroup(&path)?.swappiness();
        let swappiness = blocking(DISK_BOUND, read).await?;
        limits.further.swappiness = swappiness.map_err(OutsideError::Further)?;
    }
    Ok(limits)
}

/// Rates every process of the container anew. A score below what a process has takes CAP_SYS_RESOURCE; without it the process keeps its own,
/// as it would have when it was made.
async fn adjust(
    runtime: &Arc<Runtime>,
    container: &Arc<Container>,
    score: i16,
) -> Result<(), UpdateError> {
    let (hierarchies, path) = (runtime.hierarchies.clone(), container.cgroup().to_owned());
    let rated = blocking(DISK_BOUND, move || {
        for process in hierarchies.open_cgroup(&path)?.processes(true)? {
            let file = format!("/proc/{}/oom_score_adj", process.as_raw_nonzero());
            match std::fs::write(&file, score.to_string()) {
                Ok(()) => {}
                // It has ended.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => tracing::debug!(%error, file, score, "a process keeps its score"),
            }
        }
        Ok(())
    });
    let id = &container.id;
    rated
        .await
        .map_err(|error| UpdateError::Blocking(id.clone(), error))?
        .map_err(|error| UpdateError::Processes(id.clone(), error))
}
