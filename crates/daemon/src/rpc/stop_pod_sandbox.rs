use std::sync::Arc;

use cri::v1;
use tonic::{Request, Status};

use super::status::IntoStatus;
use crate::{pod, runtime::Runtime};

pub(super) async fn stop_pod_sandbox(
    runtime: &Arc<Runtime>,
    request: Request<v1::StopPodSandboxRequest>,
) -> Result<v1::StopPodSandboxResponse, Status> {
    let request = request.into_inner();
    match runtime.inventory.find_pod(&request.pod_sandbox_id) {
        Ok(pod) => pod::stop(runtime, &pod)
            .await
            .map_err(IntoStatus::into_status)?,
        // What is not there is stopped already.
        Err(error) if error.is_absent() => {}
        Err(error) => return Err(error.into_status()),
    }
    Ok(v1::StopPodSandboxResponse {})
}
