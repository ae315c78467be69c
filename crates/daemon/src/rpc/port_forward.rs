use cri::v1;
use streaming::PortForwardRequest;
use tonic::{Request, Status};

use super::{Cri, status::IntoStatus};
use crate::handlers::Stack;

pub(super) fn port_forward(
    cri: &Cri,
    request: Request<v1::PortForwardRequest>,
) -> Result<v1::PortForwardResponse, Status> {
    let request = request.into_inner();
    let pod = cri
        .runtime
        .inventory
        .find_pod(&request.pod_sandbox_id)
        .map_err(IntoStatus::into_status)?;
    if !pod.is_ready() {
        return Err(Status::failed_precondition(format!(
            "forward ports of pod {}: it is not ready",
            pod.id
        )));
    }
    let made_with = pod.made_with.as_ref();
    if let Some(made_with) = made_with.filter(|one| one.stack() == Stack::Loopback) {
        return Err(Status::failed_precondition(format!(
            "forward ports of pod {}: handler {} gives it a network stack that nobody else reaches (--network=none)",
            pod.id, made_with.name
        )));
    }
    let ports = request.port.into_iter().map(port);
    let ports = ports.collect::<Result<_, _>>()?;
    let url = cri
        .streaming
        .port_forward_url(PortForwardRequest {
            sandbox_id: pod.id.to_string(),
            ports,
        })
        .map_err(IntoStatus::into_status)?;
    Ok(v1::PortForwardResponse { url })
}

fn port(number: i32) -> Result<u16, Status> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        Ok(_) | Err(_) => Err(Status::invalid_argument(format!(
            "port: {number} is not a port: use 1 to 65535"
        ))),
    }
}
