use std::sync::Arc;

use cri::v1;
use tonic::{Request, Status};

use super::status::IntoStatus;
use crate::{container, runtime::Runtime};

pub(super) async fn reopen_container_log(
    runtime: &Arc<Runtime>,
    request: Request<v1::ReopenContainerLogRequest>,
) -> Result<v1::ReopenContainerLogResponse, Status> {
    let id = request.into_inner().container_id;
    let container = runtime
        .inventory
        .find_container(&id)
        .map_err(IntoStatus::into_status)?;
    container::reopen(&runtime.paths, &container)
        .await
        .map_err(IntoStatus::into_status)?;
    Ok(v1::ReopenContainerLogResponse {})
}
