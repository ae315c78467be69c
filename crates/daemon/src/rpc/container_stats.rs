use std::sync::Arc;

use cri::v1;
use tonic::{Request, Status};

use super::{Streamed, batch, list_pod_sandbox::selects, status::IntoStatus, usage};
use crate::{container::Container, runtime::Runtime, stats};

pub(super) async fn container_stats(
    runtime: &Arc<Runtime>,
    request: Request<v1::ContainerStatsRequest>,
) -> Result<v1::ContainerStatsResponse, Status> {
    let id = request.into_inner().container_id;
    let container = runtime
        .inventory
        .find_container(&id)
        .map_err(IntoStatus::into_status)?;
    let samples = stats::sample(runtime, vec![Arc::clone(&container)]).await;
    let stats = samples
        .first()
        .map(|sample| usage::container(runtime, sample));
    match stats {
        Some(stats) => Ok(v1::ContainerStatsResponse { stats: Some(stats) }),
        None if container.has_exited() || container.started_at_ns() == 0 => {
            Err(Status::failed_precondition(format!(
                "container {}: it does not run, so there is nothing to measure",
                container.id
            )))
        }
        None => Err(Status::deadline_exceeded(format!(
            "container {}: its figures could not be read in time, and none are known",
            container.id
        ))),
    }
}

pub(super) async fn list_container_stats(
    runtime: &Arc<Runtime>,
    request: Request<v1::ListContainerStatsRequest>,
) -> Result<v1::ListContainerStatsResponse, Status> {
    let stats = list(runtime, request.into_inner().filter).await;
    Ok(v1::ListContainerStatsResponse { stats })
}

pub(super) async fn stream_container_stats(
    runtime: &Arc<Runtime>,
    request: Request<v1::StreamContainerStatsRequest>,
) -> Result<Streamed<v1::StreamContainerStatsResponse>, Status> {
    let stats = list(runtime, request.into_inner().filter).await;
    Ok(batch::stream(stats, |container_stats| {
        v1::StreamContainerStatsResponse { container_stats }
    }))
}

async fn list(
    runtime: &Arc<Runtime>,
    filter: Option<v1::ContainerStatsFilter>,
) -> Vec<v1::ContainerStats> {
    let filter = filter.unwrap_or_default();
    let wanted = |container: &Arc<Container>| {
        container.id.as_str().starts_with(&filter.id)
            && container
                .pod
                .id
                .as_str()
                .starts_with(&filter.pod_sandbox_id)
            && selects(&filter.label_selector, &container.config.labels)
    };
    let containers = runtime
        .inventory
        .containers()
        .into_iter()
        .filter(wanted)
        .collect();
    let samples = stats::sample(runtime, containers).await;
    samples
        .iter()
        .map(|sample| usage::container(runtime, sample))
        .collect()
}
