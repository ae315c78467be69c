use std::sync::Arc;

use cri::v1;
use tonic::{Request, Status};

use super::status::IntoStatus;
use crate::{pod, runtime::Runtime};

pub(super) async fn remove_pod_sandbox(
    runtime: &Arc<Runtime>,
    request: Request<v1::RemovePodSandboxRequest>,
) -> Result<v1::RemovePodSandboxResponse, Status> {
    let request = request.into_inner();
    match runtime.inventory.find_pod(&request.pod_sandbox_id) {
        Ok(pod) => pod::remove(runtime, &pod)
            .await
            .map_err(IntoStatus::into_status)?,
        // What is not there is removed already.
        Err(error) if error.is_absent() => {}
        Err(error) => return Err(error.into_status()),
    }
    Ok(v1::RemovePodSandboxResponse {})
}
