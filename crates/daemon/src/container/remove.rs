//! RemoveContainer: nothing of the container is left but its log, which is the kubelet's.

use std::{sync::Arc, time::Duration};

use cgroup::Hierarchies;
use supervisor_api::RequestBody;

use super::{
    Container, NetDevicesError, Phase, StopError, hooks, images, outside, stop::stop_in_turn,
    take_devices_back, volumes,
};
use crate::{
    events::Kind,
    failpoint,
    flight::{self, Crashed},
    id::ContainerId,
    pod,
    resctrl::ResctrlError,
    runtime::{BlockingError, DISK_BOUND, Runtime, blocking},
    state::{ContainerStage, RecordError},
};

#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoveError {
    #[error("remove container {0}: end it first")]
    Stop(ContainerId, #[source] StopError),
    #[error("remove container {0}: keep its record")]
    Record(ContainerId, #[source] RecordError),
    #[error("remove container {0}: kill what is left in its cgroup")]
    Kill(ContainerId, #[source] pod::KillError),
    #[error("remove container {0}: its cgroup")]
    Cgroup(ContainerId, #[source] cgroup::Error),
    #[error("remove container {0}: give the node its network devices back")]
    NetDevices(ContainerId, #[source] NetDevicesError),
    #[error("remove container {0}")]
    Class(ContainerId, #[source] ResctrlError),
    #[error("remove container {0}: its writable layer")]
    Layer(ContainerId, #[source] snapshot::ContainerError),
    #[error("remove container {0}: its volumes")]
    Volumes(ContainerId, #[source] volumes::VolumeError),
    #[error("remove container {0}: its hold on the image")]
    Image(ContainerId, #[source] image::PinError),
    #[error("remove container {0}")]
    Blocking(ContainerId, #[source] BlockingError),
    #[error(transparent)]
    Crashed(#[from] Crashed),
}

/// Removes a container, killing it first if need be. Cancellation: the removal goes on, and the same request joins it.
pub(crate) async fn remove(
    runtime: &Arc<Runtime>,
    container: &Arc<Container>,
) -> Result<(), Arc<RemoveError>> {
    // A stop that waits for the grace period to end holds the turn.
    container.hurry(Duration::ZERO);
    let joined = runtime
        .flights
        .remove_container
        .join(container.id.clone(), || {
            let (runtime, container) = (Arc::clone(runtime), Arc::clone(container));
            async move {
                let turn = container.turn().await;
                take_apart(&runtime, &container, &turn)
                    .await
                    .map_err(Arc::new)
            }
        });
    joined.await.map_err(|crashed| Arc::new(crashed.into()))?
}

/// Every step does nothing where there is nothing to do, so that it can be repeated after a failure or a restart.
pub(super) async fn take_apart(
    runtime: &Arc<Runtime>,
    container: &Arc<Container>,
    turn: &super::Turn<'_>,
) -> Result<(), RemoveError> {
    let id = &container.id;
    if container.phase() == Phase::Removed {
        return Ok(());
    }
    container
        .landed()
        .await
        .map_err(|error| RemoveError::Blocking(id.clone(), error))?;
    container.hurry(Duration::ZERO);
    let stopped = stop_in_turn(runtime, container, turn).await;
    stopped.map_err(|error| RemoveError::Stop(id.clone(), error))?;
    container.note(turn, &runtime.records, |record| {
        record.stage = ContainerStage::Removing;
    });
    failpoint::reach("container.removing", &container.pod);
    flight::stage("have its supervisor forget it");
    if let Some(link) = container.pod.link() {
        let request = RequestBody::DeleteContainer { id: id.to_string() };
        // Whatever it says against it, the cgroup is killed and removed below.
        if let Err(error) = link.order("DeleteContainer", request, Vec::new()).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(container = %id, error, "the supervisor did not delete the container");
        }
    }
    failpoint::reach("container.deleted", &container.pod);
    flight::stage("remove its files");
    hooks::after_stop(runtime, container).await;
    let taken = take_devices_back(runtime, container).await;
    taken.map_err(|error| RemoveError::NetDevices(id.clone(), error))?;
    let on_disk = {
        let (runtime, container) = (Arc::clone(runtime), Arc::clone(container));
        move || remove_from_disk(&runtime, &container)
    };
    blocking(DISK_BOUND, on_disk)
        .await
        .map_err(|error| RemoveError::Blocking(id.clone(), error))??;
    failpoint::reach("container.removed-layer", &container.pod);
    images::unpin(runtime, container).map_err(|error| RemoveError::Image(id.clone(), error))?;
    runtime.nri.stop(runtime, container).await;
    runtime.nri.remove(runtime, container).await;
    runtime
        .records
        .remove_container(&container.pod.id, id)
        .map_err(|error| RemoveError::Record(id.clone(), error))?;
    failpoint::reach("container.removed", &container.pod);
    runtime.happen(|news| {
        let listed = runtime.inventory.container(id).is_some();
        container.phase.send_replace(Phase::Removed);
        runtime.inventory.forget_container(container);
        if listed {
            news.container(Kind::Deleted, container);
        }
    });
    runtime.nri.settled_container(id);
    runtime.stats.forget(id);
    container.forget_denied(runtime);
    Ok(())
}

fn remove_from_disk(runtime: &Runtime, container: &Container) -> Result<(), RemoveError> {
    let id = &container.id;
    pod::kill_cgroup(&runtime.hierarchies, container.cgroup())
        .map_err(|error| RemoveError::Kill(id.clone(), error))?;
    remove_cgroup(&runtime.hierarchies, container.cgroup())
        .map_err(|error| RemoveError::Cgroup(id.clone(), error))?;
    // One that was not specified to its end has nothing there.
    if let Ok(spec) = container.spec(&runtime.records) {
        outside::take_back(&spec, id).map_err(|error| RemoveError::Class(id.clone(), error))?;
    }
    runtime
        .overlay
        .remove(id.as_str())
        .map_err(|error| RemoveError::Layer(id.clone(), error))?;
    volumes::remove(&runtime.config.root, id)
        .map_err(|error| RemoveError::Volumes(id.clone(), error))
}

/// Removes a cgroup that we made; succeeds where there is none.
pub(crate) fn remove_cgroup(hierarchies: &Hierarchies, path: &str) -> Result<(), cgroup::Error> {
    match hierarchies.open_owned(path) {
        Ok(cgroup) => cgroup.remove(),
        Err(cgroup::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
