use std::sync::Arc;

use cri::v1;
use tonic::{Request, Status};

use super::{decode, status::IntoStatus};
use crate::{container, runtime::Runtime};

pub(super) async fn create_container(
    runtime: &Arc<Runtime>,
    request: Request<v1::CreateContainerRequest>,
) -> Result<v1::CreateContainerResponse, Status> {
    let request = request.into_inner();
    let pod = runtime
        .inventory
        .find_pod(&request.pod_sandbox_id)
        .map_err(IntoStatus::into_status)?;
    let config = request.config.unwrap_or_default();
    let config = decode::container_config("config", config).map_err(IntoStatus::into_status)?;
    let container = container::create(runtime, &pod, config)
        .await
        .map_err(IntoStatus::into_status)?;
    Ok(v1::CreateContainerResponse {
        container_id: container.id.to_string(),
    })
}
