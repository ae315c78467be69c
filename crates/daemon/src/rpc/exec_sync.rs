use std::{sync::Arc, time::Duration};

use cri::v1;
use tonic::{Request, Status};

use super::status::IntoStatus;
use crate::{container, runtime::Runtime};

pub(super) async fn exec_sync(
    runtime: &Arc<Runtime>,
    request: Request<v1::ExecSyncRequest>,
) -> Result<v1::ExecSyncResponse, Status> {
    let request = request.into_inner();
    let container = runtime
        .inventory
        .find_container(&request.container_id)
        .map_err(IntoStatus::into_status)?;
    // CRI: 0 is no timeout; a negative one asks for nothing that makes sense.
    let timeout = match u64::try_from(request.timeout) {
        Ok(0) => None,
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            return Err(Status::invalid_argument(format!(
                "timeout: {}: use seconds, or 0 for none",
                request.timeout
            )));
        }
    };
    let output = container::exec_sync(runtime, &container, request.cmd, timeout)
        .await
        .map_err(IntoStatus::into_status)?;
    Ok(v1::ExecSyncResponse {
        stdout: output.stdout,
        stderr: output.stderr,
        exit_code: output.exit_code,
    })
}
