use std::sync::Arc;

use cri::v1;
use tonic::{Request, Status};

use super::{decode, status::IntoStatus};
use crate::{checkpoint, runtime::Runtime};

pub(super) async fn checkpoint_container(
    runtime: &Arc<Runtime>,
    request: Request<v1::CheckpointContainerRequest>,
) -> Result<v1::CheckpointContainerResponse, Status> {
    let request = request.into_inner();
    let location =
        decode::location("location", request.location).map_err(IntoStatus::into_status)?;
    let bound = decode::stop_timeout(request.timeout).map_err(IntoStatus::into_status)?;
    let container = runtime
        .inventory
        .find_container(&request.container_id)
        .map_err(IntoStatus::into_status)?;
    checkpoint::checkpoint(runtime, &container, location, bound)
        .await
        .map_err(IntoStatus::into_status)?;
    Ok(v1::CheckpointContainerResponse {})
}
