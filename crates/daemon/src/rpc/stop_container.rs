use std::sync::Arc;

use cri::v1;
use tonic::{Request, Status};

use super::{decode, status::IntoStatus};
use crate::{container, runtime::Runtime};

pub(super) async fn stop_container(
    runtime: &Arc<Runtime>,
    request: Request<v1::StopContainerRequest>,
) -> Result<v1::StopContainerResponse, Status> {
    let request = request.into_inner();
    let grace = decode::stop_timeout(request.timeout).map_err(IntoStatus::into_status)?;
    match runtime.inventory.find_container(&request.container_id) {
        Ok(container) => container::stop(runtime, &container, grace)
            .await
            .map_err(IntoStatus::into_status)?,
        // What is not there is stopped already.
        Err(error) if error.is_absent() => {}
        Err(error) => return Err(error.into_status()),
    }
    Ok(v1::StopContainerResponse {})
}
