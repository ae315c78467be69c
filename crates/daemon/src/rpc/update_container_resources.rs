use std::sync::Arc;

use cri::v1;
use tonic::{Request, Status};

use super::{decode, status::IntoStatus};
use crate::{container, runtime::Runtime};

pub(super) async fn update_container_resources(
    runtime: &Arc<Runtime>,
    request: Request<v1::UpdateContainerResourcesRequest>,
) -> Result<v1::UpdateContainerResourcesResponse, Status> {
    let request = request.into_inner();
    let change = decode::container_change(request.linux, request.windows, &request.annotations)
        .map_err(IntoStatus::into_status)?;
    let container = runtime
        .inventory
        .find_container(&request.container_id)
        .map_err(IntoStatus::into_status)?;
    container::update(runtime, &container, change)
        .await
        .map_err(IntoStatus::into_status)?;
    Ok(v1::UpdateContainerResourcesResponse {})
}
