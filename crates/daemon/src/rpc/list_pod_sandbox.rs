use std::{collections::BTreeMap, sync::Arc};

use cri::v1;
use tonic::{Request, Status};

use super::{Streamed, batch, encode};
use crate::{
    pod::{Phase, Pod},
    runtime::Runtime,
};

pub(super) async fn list_pod_sandbox(
    runtime: &Arc<Runtime>,
    request: Request<v1::ListPodSandboxRequest>,
) -> Result<v1::ListPodSandboxResponse, Status> {
    Ok(v1::ListPodSandboxResponse {
        items: list(runtime, request.into_inner().filter),
    })
}

pub(super) async fn stream_pod_sandboxes(
    runtime: &Arc<Runtime>,
    request: Request<v1::StreamPodSandboxesRequest>,
) -> Result<Streamed<v1::StreamPodSandboxesResponse>, Status> {
    let items = list(runtime, request.into_inner().filter);
    Ok(batch::stream(items, |pod_sandboxes| {
        v1::StreamPodSandboxesResponse { pod_sandboxes }
    }))
}

fn list(runtime: &Runtime, filter: Option<v1::PodSandboxFilter>) -> Vec<v1::PodSandbox> {
    let filter = filter.unwrap_or_default();
    let wanted = |pod: &Pod| {
        pod.id.as_str().starts_with(&filter.id)
            && filter
                .state
                .is_none_or(|wanted| wanted.state == i32::from(state(pod)))
            && selects(&filter.label_selector, &pod.config.labels)
    };
    let pods = runtime.inventory.pods();
    pods.iter()
        .filter(|pod| wanted(pod))
        .map(|pod| item(pod))
        .collect()
}

/// Every label of the selector, with its value.
pub(super) fn selects(
    selector: &BTreeMap<String, String>,
    labels: &BTreeMap<String, String>,
) -> bool {
    selector
        .iter()
        .all(|(name, value)| labels.get(name) == Some(value))
}

pub(super) fn state(pod: &Pod) -> v1::PodSandboxState {
    match pod.phase() {
        Phase::Ready => v1::PodSandboxState::SandboxReady,
        Phase::Starting
        | Phase::Lost { .. }
        | Phase::Stopping { .. }
        | Phase::Stopped { .. }
        | Phase::Removed => v1::PodSandboxState::SandboxNotready,
    }
}

fn item(pod: &Pod) -> v1::PodSandbox {
    v1::PodSandbox {
        id: pod.id.to_string(),
        metadata: Some(encode::pod_metadata(&pod.config.metadata)),
        state: state(pod).into(),
        created_at: pod.created_at_ns,
        labels: pod.config.labels.clone(),
        annotations: pod.config.annotations.clone(),
        runtime_handler: pod.handler.clone(),
    }
}
