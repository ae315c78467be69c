use std::sync::Arc;

use cri::v1;
use tonic::{Request, Status};

use super::{Streamed, batch, encode, list_pod_sandbox::selects};
use crate::{
    container::{Container, Phase},
    runtime::Runtime,
};

pub(super) async fn list_containers(
    runtime: &Arc<Runtime>,
    request: Request<v1::ListContainersRequest>,
) -> Result<v1::ListContainersResponse, Status> {
    Ok(v1::ListContainersResponse {
        containers: list(runtime, request.into_inner().filter),
    })
}

pub(super) async fn stream_containers(
    runtime: &Arc<Runtime>,
    request: Request<v1::StreamContainersRequest>,
) -> Result<Streamed<v1::StreamContainersResponse>, Status> {
    let items = list(runtime, request.into_inner().filter);
    Ok(batch::stream(items, |containers| {
        v1::StreamContainersResponse { containers }
    }))
}

fn list(runtime: &Runtime, filter: Option<v1::ContainerFilter>) -> Vec<v1::Container> {
    let filter = filter.unwrap_or_default();
    let wanted = |container: &Container| {
        container.id.as_str().starts_with(&filter.id)
            && container
                .pod
                .id
                .as_str()
                .starts_with(&filter.pod_sandbox_id)
            && filter
                .state
                .is_none_or(|wanted| wanted.state == i32::from(state(&container.phase())))
            && selects(&filter.label_selector, &container.config.labels)
    };
    let containers = runtime.inventory.containers();
    containers
        .iter()
        .filter(|container| wanted(container))
        .map(|c| item(c))
        .collect()
}

pub(super) fn state(phase: &Phase) -> v1::ContainerState {
    match phase {
        Phase::Creating | Phase::Created { .. } => v1::ContainerState::ContainerCreated,
        Phase::Running { .. } => v1::ContainerState::ContainerRunning,
        Phase::Exited(_) | Phase::Removed => v1::ContainerState::ContainerExited,
    }
}

fn item(container: &Container) -> v1::Container {
    v1::Container {
        id: container.id.to_string(),
        pod_sandbox_id: container.pod.id.to_string(),
        metadata: Some(encode::container_metadata(&container.config.metadata)),
        image: Some(encode::image_spec(&container.config.image)),
        image_ref: container.image_ref.clone(),
        image_id: container.image_id.clone(),
        state: state(&container.phase()).into(),
        created_at: container.created_at_ns,
        labels: container.config.labels.clone(),
        annotations: container.config.annotations.clone(),
    }
}
