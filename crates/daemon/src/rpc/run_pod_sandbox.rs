use std::sync::Arc;

use cri::v1;
use tonic::{Request, Status};

use super::{decode, status::IntoStatus};
use crate::{pod, runtime::Runtime};

pub(super) async fn run_pod_sandbox(
    runtime: &Arc<Runtime>,
    request: Request<v1::RunPodSandboxRequest>,
) -> Result<v1::RunPodSandboxResponse, Status> {
    let request = request.into_inner();
    let config = request.config.unwrap_or_default();
    let config = decode::pod_config("config", config).map_err(IntoStatus::into_status)?;
    let pod = pod::run(runtime, config, request.runtime_handler)
        .await
        .map_err(IntoStatus::into_status)?;
    Ok(v1::RunPodSandboxResponse {
        pod_sandbox_id: pod.id.to_string(),
    })
}
