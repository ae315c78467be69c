use std::sync::Arc;

use cri::v1;
use tonic::{Request, Status};

use super::{
    Streamed, batch, encode,
    list_pod_sandbox::selects,
    status::IntoStatus,
    usage::{self, value},
};
use crate::{
    pod::Pod,
    runtime::{Runtime, now_ns},
    stats::{self, PodSample},
};

pub(super) async fn pod_sandbox_stats(
    runtime: &Arc<Runtime>,
    request: Request<v1::PodSandboxStatsRequest>,
) -> Result<v1::PodSandboxStatsResponse, Status> {
    let id = request.into_inner().pod_sandbox_id;
    let pod = runtime
        .inventory
        .find_pod(&id)
        .map_err(IntoStatus::into_status)?;
    let samples = stats::sample_pods(runtime, vec![pod]).await;
    Ok(v1::PodSandboxStatsResponse {
        stats: samples.first().map(|sample| encoded(runtime, sample)),
    })
}

pub(super) async fn list_pod_sandbox_stats(
    runtime: &Arc<Runtime>,
    request: Request<v1::ListPodSandboxStatsRequest>,
) -> Result<v1::ListPodSandboxStatsResponse, Status> {
    let stats = list(runtime, request.into_inner().filter).await;
    Ok(v1::ListPodSandboxStatsResponse { stats })
}

pub(super) async fn stream_pod_sandbox_stats(
    runtime: &Arc<Runtime>,
    request: Request<v1::StreamPodSandboxStatsRequest>,
) -> Result<Streamed<v1::StreamPodSandboxStatsResponse>, Status> {
    let stats = list(runtime, request.into_inner().filter).await;
    Ok(batch::stream(stats, |pod_sandbox_stats| {
        v1::StreamPodSandboxStatsResponse { pod_sandbox_stats }
    }))
}

/// Pods that are ready: the others use nothing.
async fn list(
    runtime: &Arc<Runtime>,
    filter: Option<v1::PodSandboxStatsFilter>,
) -> Vec<v1::PodSandboxStats> {
    let filter = filter.unwrap_or_default();
    let wanted = |pod: &Arc<Pod>| {
        pod.is_ready()
            && pod.id.as_str().starts_with(&filter.id)
            && selects(&filter.label_selector, &pod.config.labels)
    };
    let pods = runtime.inventory.pods().into_iter().filter(wanted);
    let samples = stats::sample_pods(runtime, pods.collect()).await;
    samples
        .iter()
        .map(|sample| encoded(runtime, sample))
        .collect()
}

fn encoded(runtime: &Runtime, sample: &PodSample) -> v1::PodSandboxStats {
    let PodSample {
        pod,
        cgroup,
        network,
        processes,
        containers,
    } = sample;
    let linux = v1::LinuxPodSandboxStats {
        cpu: cgroup.as_ref().map(usage::cpu),
        memory: cgroup.as_ref().map(usage::memory),
        network: network.as_ref().map(usage::network),
        process: processes.map(|processes| v1::ProcessUsage {
            timestamp: now_ns(),
            process_count: value(processes),
        }),
        containers: containers
            .iter()
            .map(|container| usage::container(runtime, container))
            .collect(),
        io: cgroup.as_ref().and_then(usage::io),
    };
    v1::PodSandboxStats {
        attributes: Some(v1::PodSandboxAttributes {
            id: pod.id.to_string(),
            metadata: Some(encode::pod_metadata(&pod.config.metadata)),
            labels: pod.config.labels.clone(),
            annotations: pod.config.annotations.clone(),
        }),
        linux: Some(linux),
        windows: None,
    }
}
