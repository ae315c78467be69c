use std::sync::Arc;

use cri::v1;
use tonic::{Request, Status};

use super::status::IntoStatus;
use crate::runtime::Runtime;

pub(super) async fn remove_image(
    runtime: &Arc<Runtime>,
    request: Request<v1::RemoveImageRequest>,
) -> Result<v1::RemoveImageResponse, Status> {
    let name = request.into_inner().image.unwrap_or_default().image;
    if name.is_empty() {
        return Err(Status::invalid_argument(
            "image.image: missing: name an image by name, digest or id",
        ));
    }
    runtime
        .images
        .remove(&name)
        .await
        .map_err(IntoStatus::into_status)?;
    Ok(v1::RemoveImageResponse {})
}
