use std::sync::Arc;

use cri::v1;
use tonic::{Request, Status};

use super::status::IntoStatus;
use crate::{container, runtime::Runtime};

pub(super) async fn start_container(
    runtime: &Arc<Runtime>,
    request: Request<v1::StartContainerRequest>,
) -> Result<v1::StartContainerResponse, Status> {
    let id = request.into_inner().container_id;
    let container = runtime
        .inventory
        .find_container(&id)
        .map_err(IntoStatus::into_status)?;
    container::start(runtime, &container)
        .await
        .map_err(IntoStatus::into_status)?;
    Ok(v1::StartContainerResponse {})
}
