use std::sync::Arc;

use cri::v1;
use tonic::{Request, Status};

use super::{decode, status::IntoStatus};
use crate::{pod, runtime::Runtime, state::PodResources};

pub(super) async fn update_pod_sandbox_resources(
    runtime: &Arc<Runtime>,
    request: Request<v1::UpdatePodSandboxResourcesRequest>,
) -> Result<v1::UpdatePodSandboxResourcesResponse, Status> {
    let request = request.into_inner();
    let change = PodResources {
        overhead: decode::pod_resources("overhead", request.overhead)
            .map_err(IntoStatus::into_status)?,
        resources: decode::pod_resources("resources", request.resources)
            .map_err(IntoStatus::into_status)?,
    };
    let pod = runtime
        .inventory
        .find_pod(&request.pod_sandbox_id)
        .map_err(IntoStatus::into_status)?;
    pod::update(runtime, &pod, change)
        .await
        .map_err(IntoStatus::into_status)?;
    Ok(v1::UpdatePodSandboxResourcesResponse {})
}
