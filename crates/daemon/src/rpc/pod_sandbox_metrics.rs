use std::sync::Arc;

use cri::v1;
use tonic::{Request, Status};

use super::{Streamed, batch, metric_table, metrics};
use crate::{
    runtime::Runtime,
    stats::{self, PodSample},
};

pub(super) async fn list_metric_descriptors(
    _runtime: &Arc<Runtime>,
    _request: Request<v1::ListMetricDescriptorsRequest>,
) -> Result<v1::ListMetricDescriptorsResponse, Status> {
    Ok(v1::ListMetricDescriptorsResponse {
        descriptors: metric_table::descriptors(),
    })
}

pub(super) async fn list_pod_sandbox_metrics(
    runtime: &Arc<Runtime>,
    _request: Request<v1::ListPodSandboxMetricsRequest>,
) -> Result<v1::ListPodSandboxMetricsResponse, Status> {
    Ok(v1::ListPodSandboxMetricsResponse {
        pod_metrics: list(runtime).await,
    })
}

pub(super) async fn stream_pod_sandbox_metrics(
    runtime: &Arc<Runtime>,
    _request: Request<v1::StreamPodSandboxMetricsRequest>,
) -> Result<Streamed<v1::StreamPodSandboxMetricsResponse>, Status> {
    let metrics = list(runtime).await;
    Ok(batch::stream(metrics, |pod_sandbox_metrics| {
        v1::StreamPodSandboxMetricsResponse {
            pod_sandbox_metrics,
        }
    }))
}

/// Of pods that are ready.
async fn list(runtime: &Arc<Runtime>) -> Vec<v1::PodSandboxMetrics> {
    let pods = runtime.inventory.pods().into_iter();
    let pods = pods.filter(|pod| pod.is_ready()).collect();
    let samples = stats::sample_pods(runtime, pods).await;
    let (figures, disk) = stats::detail(runtime, &samples).await;
    let encoded = |sample: &PodSample| {
        let containers = sample.containers.iter();
        let of = |id: &str| figures.get(id).map(AsRef::as_ref);
        v1::PodSandboxMetrics {
            pod_sandbox_id: sample.pod.id.to_string(),
            metrics: metrics::of_pod(sample, of(sample.pod.id.as_str())),
            container_metrics: containers
                .map(|container| v1::ContainerMetrics {
                    container_id: container.container.id.to_string(),
                    metrics: metrics::of_container(
                        container,
                        of(container.container.id.as_str()),
                        &disk,
                    ),
                })
                .collect(),
        }
    };
    samples.iter().map(encoded).collect()
}
