//! UpdatePodSandboxResources. The kubelet has changed the limits of the pod's cgroup, which is its own, before it says so: what it says is
//! kept for whoever asks.

use std::sync::Arc;

use super::Pod;
use crate::{
    flight::Crashed,
    id::PodId,
    nri::NriError,
    runtime::Runtime,
    state::{PodResources, RecordError},
};

#[derive(Debug, thiserror::Error)]
pub(crate) enum UpdateError {
    #[error("update pod {0}: it is not ready, and has no resources")]
    NotReady(PodId),
    #[error("update pod {0}")]
    Nri(PodId, #[source] NriError),
    #[error("update pod {0}: keep its record")]
    Record(PodId, #[source] RecordError),
    #[error(transparent)]
    Crashed(#[from] Crashed),
}

/// Notes a pod's overhead and resources; what is not given stays. Cancellation: it is noted all the same.
pub(crate) async fn update(
    runtime: &Arc<Runtime>,
    pod: &Arc<Pod>,
    change: PodResources,
) -> Result<(), UpdateError> {
    let (runtime, pod) = (Arc::clone(runtime), Arc::clone(pod));
    let updated = tokio::spawn(async move {
        let turn = pod.turn().await;
        if !pod.is_ready() {
            return Err(UpdateError::NotReady(pod.id.clone()));
        }
        let asked = runtime.nri.update_pod(&runtime, &pod, &change).await;
        asked.map_err(|error| UpdateError::Nri(pod.id.clone(), error))?;
        let now = pod.resources();
        pod.update(&turn, &runtime.records, |record| {
            record.resources = Some(PodResources {
                overhead: change.overhead.or(now.overhead),
                resources: change.resources.or(now.resources),
            });
        })
        .map_err(|error| UpdateError::Record(pod.id.clone(), error))?;
        runtime.nri.pod_updated(&runtime, &pod).await;
        Ok(())
    });
    updated.await.map_err(|_panicked| Crashed)?
}
