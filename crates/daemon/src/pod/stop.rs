//! StopPodSandbox: every container dies, the namespaces and the attachment go, and what is left is for reading.

use std::{sync::Arc, time::Duration};

use supervisor_api::RequestBody;

use super::{
    Phase, Pod, Turn, lost,
    network::{self, NetworkError},
};
use crate::{
    container,
    events::Kind,
    failpoint,
    flight::{self, Crashed},
    id::PodId,
    runtime::Runtime,
    state::PodStage,
    supervisor::CallError,
};

/// How long the containers' exits may take to arrive after the supervisor has said that nothing runs.
const EXITS_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub(crate) enum StopError {
    #[error("pod {0}: end the processes that its supervisor left")]
    Orphans(PodId, #[source] lost::KillError),
    #[error("pod {0}: take down its network")]
    Network(PodId, #[source] NetworkError),
    #[error(transparent)]
    Crashed(#[from] Crashed),
}

/// Stops a pod; one that is stopped is stopped. Cancellation: the stop goes on, and the same request joins it.
pub(crate) async fn stop(runtime: &Arc<Runtime>, pod: &Arc<Pod>) -> Result<(), Arc<StopError>> {
    let joined = runtime.flights.stop_pod.join(pod.id.clone(), || {
        let (runtime, pod) = (Arc::clone(runtime), Arc::clone(pod));
        async move {
            let turn = pod.turn().await;
            stop_in_turn(&runtime, &pod, &turn).await.map_err(Arc::new)
        }
    });
    joined.await.map_err(|crashed| Arc::new(crashed.into()))?
}

pub(super) async fn stop_in_turn(
    runtime: &Arc<Runtime>,
    pod: &Arc<Pod>,
    turn: &Turn<'_>,
) -> Result<(), StopError> {
    let reason = match pod.phase() {
        Phase::Stopped { .. } | Phase::Removed => return Ok(()),
        Phase::Lost { reason } => Some(reason),
        Phase::Stopping { reason } => reason,
        Phase::Starting | Phase::Ready => None,
    };
    pod.note(turn, &runtime.records, |record| {
        record.stage = PodStage::Stopping {
            reason: reason.clone(),
        };
    });
    // From here on the supervisor's hang-up is no news.
    pod.set_phase(Phase::Stopping {
        reason: reason.clone(),
    });
    failpoint::reach("pod.stopping", pod);
    flight::stage("end its processes");
    end_processes(runtime, pod).await?;
    failpoint::reach("pod.ended", pod);
    runtime.nri.stop_pod(runtime, pod).await;
    flight::stage("detach it from its network");
    return_devices(runtime, pod).await;
    runtime.stats.leave_network(pod);
    let path = runtime.netns_path(&pod.id);
    if pod.config.namespaces().net {
        network::detach(runtime, pod.id.as_str(), &path)
            .await
            .map_err(|error| StopError::Network(pod.id.clone(), error))?;
    }
    failpoint::reach("pod.detached", pod);
    pod.note(turn, &runtime.records, |record| {
        record.stage = PodStage::Stopped {
            reason: reason.clone(),
        };
        record.network = None;
        record.supervisor = None;
    });
    failpoint::reach("pod.stopped", pod);
    runtime.happen(|news| {
        // One that was lost had stopped for its readers then.
        let lost = reason.is_some();
        pod.set_phase(Phase::Stopped { reason });
        if !lost && runtime.inventory.has_pod(&pod.id) {
            news.pod(Kind::Stopped, pod);
        }
    });
    Ok(())
}

/// With its network the pod would take along, or destroy, what it is lent.
async fn return_devices(runtime: &Runtime, pod: &Pod) {
    for container in runtime.inventory.claims_of(&pod.id) {
        if let Err(error) = container::take_devices_back(runtime, &container).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(container = %container.id, error, "the kernel is left to take network devices back");
        }
    }
}

/// Asks the supervisor; where there is none, or it does not answer, kills by cgroup.
async fn end_processes(runtime: &Arc<Runtime>, pod: &Arc<Pod>) -> Result<(), StopError> {
    if let Some(link) = pod.link() {
        match link
            .order("StopSandbox", RequestBody::StopSandbox, Vec::new())
            .await
        {
            Ok(()) => {
                await_exits(runtime, pod).await;
                pod.set_link(None);
                match link
                    .order("Shutdown", RequestBody::Shutdown, Vec::new())
                    .await
                {
                    Ok(()) | Err(CallError::Gone) => return Ok(()),
                    Err(error) => tracing::warn!(
                        pod = %pod.id,
                        error = &error as &dyn std::error::Error,
                        "the supervisor did not shut down; killing it"
                    ),
                }
            }
            // Whatever it says against it, the pod shall end.
            Err(error) => tracing::warn!(
                pod = %pod.id,
                error = &error as &dyn std::error::Error,
                "the supervisor did not stop the pod; killing it by its cgroups"
            ),
        }
    }
    pod.set_link(None);
    lost::kill(runtime, pod)
        .await
        .map_err(|error| StopError::Orphans(pod.id.clone(), error))
}

/// The exits were sent before the supervisor's reply; this waits until they have been taken in.
async fn await_exits(runtime: &Runtime, pod: &Pod) {
    for container in runtime.inventory.containers_of(&pod.id) {
        if !lost::exit_known(runtime, &container, EXITS_WITHIN).await {
            tracing::warn!(pod = %pod.id, container = %container.id, "no word of the container's exit");
        }
    }
    lost::settle_containers(runtime, pod);
}
