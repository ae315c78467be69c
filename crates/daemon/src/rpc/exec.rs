use cri::v1;
use streaming::ExecRequest;
use tonic::{Request, Status};

use super::{Cri, status::IntoStatus};
use crate::container;

pub(super) fn exec(
    cri: &Cri,
    request: Request<v1::ExecRequest>,
) -> Result<v1::ExecResponse, Status> {
    let request = request.into_inner();
    let container = cri
        .runtime
        .inventory
        .find_container(&request.container_id)
        .map_err(IntoStatus::into_status)?;
    container::check_exec(&container, &request.cmd).map_err(IntoStatus::into_status)?;
    let url = cri
        .streaming
        .exec_url(ExecRequest {
            container_id: container.id.to_string(),
            command: request.cmd,
            tty: request.tty,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        })
        .map_err(IntoStatus::into_status)?;
    Ok(v1::ExecResponse { url })
}
