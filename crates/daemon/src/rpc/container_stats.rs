use std::sync::Arc;

use cri::v1;
use tonic::{Request, Status};

use super::{Streamed, batch, encode, list_pod_sandbox::selects, status::IntoStatus};
use crate::{
    container::Container,
    runtime::Runtime,
    stats::{self, Sample},
};

pub(super) async fn container_stats(
    runtime: &Arc<Runtime>,
    request: Request<v1::ContainerStatsRequest>,
) -> Result<v1::ContainerStatsResponse, Status> {
    let id = request.into_inner().container_id;
    let container = runtime
        .inventory
        .find_container(&id)
        .map_err(IntoStatus::into_status)?;
    let samples = stats::sample(runtime, vec![Arc::clone(&container)])
        .await
        .map_err(IntoStatus::into_status)?;
    let stats = samples
        .first()
        .map(|(container, sample)| encoded(runtime, container, sample));
    match stats {
        Some(stats) => Ok(v1::ContainerStatsResponse { stats: Some(stats) }),
        None => Err(Status::failed_precondition(format!(
            "container {}: it does not run, so there is nothing to measure",
            container.id
        ))),
    }
}

pub(super) async fn list_container_stats(
    runtime: &Arc<Runtime>,
    request: Request<v1::ListContainerStatsRequest>,
) -> Result<v1::ListContainerStatsResponse, Status> {
    let stats = list(runtime, request.into_inner().filter).await?;
    Ok(v1::ListContainerStatsResponse { stats })
}

pub(super) async fn stream_container_stats(
    runtime: &Arc<Runtime>,
    request: Request<v1::StreamContainerStatsRequest>,
) -> Result<Streamed<v1::StreamContainerStatsResponse>, Status> {
    let stats = list(runtime, request.into_inner().filter).await?;
    Ok(batch::stream(stats, |container_stats| {
        v1::StreamContainerStatsResponse { container_stats }
    }))
}

async fn list(
    runtime: &Arc<Runtime>,
    filter: Option<v1::ContainerStatsFilter>,
) -> Result<Vec<v1::ContainerStats>, Status> {
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
    let samples = stats::sample(runtime, containers)
        .await
        .map_err(IntoStatus::into_status)?;
    Ok(samples
        .iter()
        .map(|(container, sample)| encoded(runtime, container, sample))
        .collect())
}

fn encoded(runtime: &Runtime, container: &Container, sample: &Sample) -> v1::ContainerStats {
    let value = |value: u64| Some(v1::UInt64Value { value });
    let measured = |value: Option<u64>| value.map(|value| v1::UInt64Value { value });
    let timestamp = sample.taken_at_ns;
    let cpu = v1::CpuUsage {
        timestamp,
        usage_core_nano_seconds: measured(sample.cpu_ns),
        usage_nano_cores: measured(sample.nano_cores),
        psi: None,
    };
    let memory = v1::MemoryUsage {
        timestamp,
        working_set_bytes: measured(sample.working_set_bytes),
        available_bytes: measured(sample.available_bytes),
        usage_bytes: measured(sample.memory_bytes),
        rss_bytes: measured(sample.rss_bytes),
        page_faults: measured(sample.page_faults),
        major_page_faults: measured(sample.major_page_faults),
        psi: None,
    };
    let layer = sample.writable_layer;
    v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: container.id.to_string(),
            metadata: Some(encode::container_metadata(&container.config.metadata)),
            labels: container.config.labels.clone(),
            annotations: container.config.annotations.clone(),
        }),
        cpu: Some(cpu),
        memory: Some(memory),
        writable_layer: layer.map(|layer| v1::FilesystemUsage {
            timestamp: layer.measured_at_ns,
            fs_id: Some(v1::FilesystemIdentifier {
                mountpoint: runtime
                    .overlay
                    .container_dir(container.id.as_str())
                    .display()
                    .to_string(),
            }),
            used_bytes: value(layer.bytes),
            inodes_used: value(layer.inodes),
        }),
        swap: sample.swap_bytes.map(|swap| v1::SwapUsage {
            timestamp,
            swap_available_bytes: measured(sample.swap_available_bytes),
            swap_usage_bytes: value(swap),
        }),
        io: None,
    }
}
