//! RemovePodSandbox: nothing of the pod is left.

use std::{sync::Arc, time::Duration};

use super::{Phase, Pod, StopError, Turn, stop::stop_in_turn};
use crate::{
    container,
    events::Kind,
    failpoint,
    flight::{self, Crashed},
    id::PodId,
    runtime::{BlockingError, DISK_BOUND, Runtime, blocking},
    state::{PodStage, RecordError},
};

#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoveError {
    #[error("remove pod {0}: stop it first")]
    Stop(PodId, #[source] StopError),
    #[error("remove pod {0}: remove its container {1}")]
    Container(PodId, String, #[source] Arc<container::RemoveError>),
    #[error("remove pod {0}: remove its cgroup")]
    Cgroup(PodId, #[source] cgroup::Error),
    #[error("remove pod {0}")]
    Blocking(PodId, #[source] BlockingError),
    #[error("remove pod {0}: its record")]
    Record(PodId, #[source] RecordError),
    #[error(transparent)]
    Crashed(#[from] Crashed),
}

/// Removes a pod, stopping it first if need be. Cancellation: the removal goes on, and the same request joins it.
pub(crate) async fn remove(runtime: &Arc<Runtime>, pod: &Arc<Pod>) -> Result<(), Arc<RemoveError>> {
    let joined = runtime.flights.remove_pod.join(pod.id.clone(), || {
        let (runtime, pod) = (Arc::clone(runtime), Arc::clone(pod));
        async move {
            let turn = pod.turn().await;
            take_apart(&runtime, &pod, &turn).await.map_err(Arc::new)
        }
    });
    joined.await.map_err(|crashed| Arc::new(crashed.into()))?
}

/// Every step does nothing where there is nothing to do, so that it can be repeated after a failure or a restart.
pub(super) async fn take_apart(
    runtime: &Arc<Runtime>,
    pod: &Arc<Pod>,
    turn: &Turn<'_>,
) -> Result<(), RemoveError> {
    if pod.phase() == Phase::Removed {
        return Ok(());
    }
    stop_in_turn(runtime, pod, turn)
        .await
        .map_err(|error| RemoveError::Stop(pod.id.clone(), error))?;
    flight::stage("remove its containers");
    for container in runtime.inventory.claims_of(&pod.id) {
        container::remove(runtime, &container)
            .await
            .map_err(|error| {
                RemoveError::Container(pod.id.clone(), container.id.to_string(), error)
            })?;
    }
    pod.note(turn, &runtime.records, |record| {
        record.stage = PodStage::Removing;
    });
    failpoint::reach("pod.removing", pod);
    flight::stage("remove its cgroups and its record");
    let cgroups = {
        let (runtime, pod) = (Arc::clone(runtime), Arc::clone(pod));
        move || remove_cgroups(&runtime, &pod)
    };
    blocking(DISK_BOUND, cgroups)
        .await
        .map_err(|error| RemoveError::Blocking(pod.id.clone(), error))?
        .map_err(|error| RemoveError::Cgroup(pod.id.clone(), error))?;
    failpoint::reach("pod.removed-cgroups", pod);
    runtime.nri.remove_pod(runtime, pod).await;
    runtime
        .records
        .remove_pod(&pod.id)
        .map_err(|error| RemoveError::Record(pod.id.clone(), error))?;
    failpoint::reach("pod.removed", pod);
    runtime.happen(|news| {
        let listed = runtime.inventory.has_pod(&pod.id);
        pod.set_phase(Phase::Removed);
        runtime.inventory.forget_pod(pod);
        if listed {
            news.pod(Kind::Deleted, pod);
        }
    });
    runtime.nri.settled_pod(&pod.id);
    runtime.stats.forget_pod(&pod.id);
    Ok(())
}

/// Waits for the kernel, with a bound of its own. Blocks.
fn remove_cgroups(runtime: &Runtime, pod: &Pod) -> Result<(), cgroup::Error> {
    // The supervisor removed it when it shut down; one that was killed did not.
    container::remove_cgroup(&runtime.hierarchies, &pod.cgroup())?;
    // A sandbox container's, or a trial's.
    if pod.made_with.is_some() {
        container::remove_cgroup(&runtime.hierarchies, &pod.sandbox_cgroup())?;
    }
    // The parent is the kubelet's, or the daemon's own, which stays; one that was made for this pod bears our mark and goes with
    // the last pod in it.
    let shares =
        |other: &Arc<Pod>| other.id != pod.id && below(&other.cgroup_parent, &pod.cgroup_parent);
    if runtime.inventory.all_pods().iter().any(shares)
        || *pod.cgroup_parent == *runtime.config.cgroup_parent
    {
        return Ok(());
    }
    match runtime.hierarchies.open_cgroup(&pod.cgroup_parent) {
        Ok(parent) if parent.is_ours() => match parent.remove_within(Duration::ZERO) {
            // Somebody else uses it now, and it goes with them.
            Err(cgroup::Error::InUse { .. }) => Ok(()),
            result => result,
        },
        Ok(_) | Err(cgroup::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether a cgroup is another, or below it.
fn below(path: &str, other: &str) -> bool {
    let (path, other) = (path.trim_matches('/'), other.trim_matches('/'));
    path.strip_prefix(other)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
