use std::sync::Arc;

use cri::v1;
use tonic::{Request, Status};

use super::status::IntoStatus;
use crate::{container, runtime::Runtime};

pub(super) async fn remove_container(
    runtime: &Arc<Runtime>,
    request: Request<v1::RemoveContainerRequest>,
) -> Result<v1::RemoveContainerResponse, Status> {
    let request = request.into_inner();
    match runtime.inventory.find_container(&request.container_id) {
        Ok(container) => container::remove(runtime, &container)
            .await
            .map_err(IntoStatus::into_status)?,
        // What is not there is removed already.
        Err(error) if error.is_absent() => {}
        Err(error) => return Err(error.into_status()),
    }
    Ok(v1::RemoveContainerResponse {})
}
