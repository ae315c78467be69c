use std::sync::Arc;

use cri::v1;
use image::{Auth, PullError, PullErrorKind, PullRequest};
use tonic::{Code, Request, Status};

use super::status::chain;
use crate::runtime::Runtime;

pub(super) async fn pull_image(
    runtime: &Arc<Runtime>,
    request: Request<v1::PullImageRequest>,
) -> Result<v1::PullImageResponse, Status> {
    let request = request.into_inner();
    let reference = request.image.unwrap_or_default().image;
    if reference.is_empty() {
        return Err(Status::invalid_argument(
            "image.image: missing: name the image to pull",
        ));
    }
    let auth = request.auth.map(|auth| Auth {
        username: auth.username,
        password: auth.password,
        auth: auth.auth,
        server_address: auth.server_address,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
    });
    // A policy may hold for some namespaces only; who pulls by hand has none.
    let metadata = request.sandbox_config.and_then(|config| config.metadata);
    let request = PullRequest {
        reference,
        auth,
        namespace: metadata.unwrap_or_default().namespace,
    };
    let pulled = runtime.images.pull(request).await;
    match pulled {
        // The id is what the kubelet hands back in CreateContainer.
        Ok(image) => Ok(v1::PullImageResponse {
            image_ref: image.id.clone(),
        }),
        Err(error) => {
            let status = status(&error);
            tracing::warn!(message = status.message(), "a pull failed");
            Err(status)
        }
    }
}

pub(super) fn status(error: &PullError) -> Status {
    let said = chain(error);
    match error.kind() {
        // The kubelet looks for this text, and only in errors without a code (cri-api, pkg/errors).
        PullErrorKind::Untrusted => Status::unknown(format!("SignatureValidationFailed: {said}")),
        kind => Status::new(code(kind), said),
    }
}

pub(super) fn code(kind: PullErrorKind) -> Code {
    match kind {
        PullErrorKind::InvalidArgument => Code::InvalidArgument,
        PullErrorKind::NotFound => Code::NotFound,
        PullErrorKind::Unauthenticated => Code::Unauthenticated,
        PullErrorKind::PermissionDenied => Code::PermissionDenied,
        PullErrorKind::Unavailable => Code::Unavailable,
        PullErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        PullErrorKind::ResourceExhausted => Code::ResourceExhausted,
        PullErrorKind::DataLoss => Code::DataLoss,
        PullErrorKind::Unsupported => Code::FailedPrecondition,
        PullErrorKind::Cancelled => Code::Cancelled,
        PullErrorKind::Internal => Code::Internal,
        PullErrorKind::Misconfigured => Code::FailedPrecondition,
        PullErrorKind::Untrusted => Code::Unknown,
    }
}
