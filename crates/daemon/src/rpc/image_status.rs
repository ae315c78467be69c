use std::{collections::BTreeMap, sync::Arc};

use cri::v1;
use serde_json::json;
use tonic::{Request, Status};

use super::{container_status::verbose, list_images::encoded, status::IntoStatus};
use crate::runtime::Runtime;

/// An image that is not here is an empty reply, not an error: that is how the kubelet asks.
pub(super) async fn image_status(
    runtime: &Arc<Runtime>,
    request: Request<v1::ImageStatusRequest>,
) -> Result<v1::ImageStatusResponse, Status> {
    let request = request.into_inner();
    let name = request.image.unwrap_or_default().image;
    if name.is_empty() {
        return Err(Status::invalid_argument(
            "image.image: missing: name an image by name, digest or id",
        ));
    }
    let Some(image) = runtime
        .images
        .find(&name)
        .map_err(IntoStatus::into_status)?
    else {
        return Ok(v1::ImageStatusResponse::default());
    };
    let info = match request.verbose {
        false => BTreeMap::new(),
        true => {
            let json = runtime.images.config_json(&image.id).ok().flatten();
            let spec = json.and_then(|json| serde_json::from_slice(&json).ok());
            verbose(&json!({
                "chainID": image.chain_id,
                "imageSpec": spec.unwrap_or(serde_json::Value::Null),
                "manifestDigest": image.manifest_digest,
                "origin": image.origin,
            }))
        }
    };
    Ok(v1::ImageStatusResponse {
        image: Some(encoded(&image)),
        info,
    })
}
