use std::sync::Arc;

use cri::progress::{PushRequest, PushResponse};
use tonic::{Request, Status};

use super::{chain, explain_pull, pull_image};
use crate::runtime::Runtime;

pub(super) async fn push(
    runtime: &Arc<Runtime>,
    request: Request<PushRequest>,
) -> Result<PushResponse, Status> {
    let request = request.into_inner();
    let request = image::PushRequest {
        image: request.image,
        target: (!request.target.is_empty()).then_some(request.target),
        auth: request.auth.map(explain_pull::auth),
    };
    let pushed = runtime.images.push(request).await;
    let pushed =
        pushed.map_err(|error| Status::new(pull_image::code(error.kind()), chain(&error)))?;
    Ok(PushResponse {
        reference: pushed.reference,
        digest: pushed.digest,
        sent: pushed.sent as u64,
        mounted: pushed.mounted as u64,
    })
}
