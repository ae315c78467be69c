use cri::v1;
use streaming::AttachRequest;
use tonic::{Request, Status};

use super::{Cri, status::IntoStatus};
use crate::container;

pub(super) fn attach(
    cri: &Cri,
    request: Request<v1::AttachRequest>,
) -> Result<v1::AttachResponse, Status> {
    let request = request.into_inner();
    let container = cri
        .runtime
        .inventory
        .find_container(&request.container_id)
        .map_err(IntoStatus::into_status)?;
    container::check_attach(&container).map_err(IntoStatus::into_status)?;
    let url = cri
        .streaming
        .attach_url(AttachRequest {
            container_id: container.id.to_string(),
            tty: request.tty,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        })
        .map_err(IntoStatus::into_status)?;
    Ok(v1::AttachResponse { url })
}
