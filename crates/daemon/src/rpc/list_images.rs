use std::sync::Arc;

use cri::v1;
use image::{Image, ImageUser};
use tonic::{Request, Status};

use super::{Streamed, batch, status::IntoStatus};
use crate::runtime::Runtime;

pub(super) async fn list_images(
    runtime: &Arc<Runtime>,
    request: Request<v1::ListImagesRequest>,
) -> Result<v1::ListImagesResponse, Status> {
    Ok(v1::ListImagesResponse {
        images: list(runtime, request.into_inner().filter)?,
    })
}

pub(super) async fn stream_images(
    runtime: &Arc<Runtime>,
    request: Request<v1::StreamImagesRequest>,
) -> Result<Streamed<v1::StreamImagesResponse>, Status> {
    let images = list(runtime, request.into_inner().filter)?;
    Ok(batch::stream(images, |images| v1::StreamImagesResponse {
        images,
    }))
}

fn list(runtime: &Runtime, filter: Option<v1::ImageFilter>) -> Result<Vec<v1::Image>, Status> {
    let name = filter
        .and_then(|filter| filter.image)
        .map(|image| image.image)
        .unwrap_or_default();
    let images = match name.as_str() {
        "" => runtime.images.list(),
        name => runtime
            .images
            .find(name)
            .map_err(IntoStatus::into_status)?
            .into_iter()
            .collect(),
    };
    Ok(images.iter().map(|image| encoded(image)).collect())
}

pub(super) fn encoded(image: &Image) -> v1::Image {
    let (uid, username) = match &image.user {
        // The peers say 0 for an image that names no user.
        ImageUser::Unset => (Some(v1::Int64Value { value: 0 }), String::new()),
        ImageUser::Uid(uid) => (Some(v1::Int64Value { value: *uid }), String::new()),
        ImageUser::Name(name) => (None, name.clone()),
    };
    v1::Image {
        id: image.id.clone(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size_bytes,
        uid,
        username,
        spec: Some(v1::ImageSpec {
            image: image.id.clone(),
            ..v1::ImageSpec::default()
        }),
        pinned: image.pinned,
    }
}
