use std::sync::Arc;

use cri::v1;
use tonic::{Request, Status};

use super::{deadline, decode, status::IntoStatus};
use crate::{checkpoint, runtime::Runtime};

pub(super) async fn checkpoint_pod(
    runtime: &Arc<Runtime>,
    request: Request<v1::CheckpointPodRequest>,
) -> Result<v1::CheckpointPodResponse, Status> {
    let bound = deadline::left(&request);
    let request = request.into_inner();
    let directory =
        decode::location("output_path", request.output_path).map_err(IntoStatus::into_status)?;
    decode::no_options("options", request.options).map_err(IntoStatus::into_status)?;
    let pod = runtime
        .inventory
        .find_pod(&request.pod_sandbox_id)
        .map_err(IntoStatus::into_status)?;
    checkpoint::checkpoint_pod(runtime, &pod, directory, &request.container_ids, bound)
        .await
        .map_err(IntoStatus::into_status)?;
    Ok(v1::CheckpointPodResponse {})
}
