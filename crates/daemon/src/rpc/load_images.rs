use std::sync::Arc;

use cri::progress::{LoadRequest, LoadResponse, LoadedImage, load_request::Part};
use tokio::sync::mpsc;
use tonic::{Request, Status, Streaming};

use super::{chain, pull_image};
use crate::runtime::Runtime;

/// Pieces that wait for the disk; then the client does.
const WAITING: usize = 4;

pub(super) async fn load(
    runtime: &Arc<Runtime>,
    request: Request<Streaming<LoadRequest>>,
) -> Result<LoadResponse, Status> {
    let mut parts = request.into_inner();
    let first = parts.message().await?.and_then(|message| message.part);
    let Some(Part::Options(options)) = first else {
        return Err(Status::invalid_argument(
            "part: the first message must have the options",
        ));
    };
    let request = image::LoadRequest {
        name: (!options.name.is_empty()).then_some(options.name),
        root: options.root.then_some(options.changes),
    };
    let (sender, chunks) = mpsc::channel(WAITING);
    let loading = runtime.images.load(request, chunks);
    tokio::pin!(loading);
    let loaded = tokio::select! {
        loaded = &mut loading => loaded,
        // A client that breaks off must not be taken for one that is done.
        taken_in = take_in(parts, sender) => {
            taken_in?;
            loading.await
        }
    };
    let images =
        loaded.map_err(|error| Status::new(pull_image::code(error.kind()), chain(&error)))?;
    Ok(LoadResponse {
        images: (images.iter())
            .map(|image| LoadedImage {
                id: image.id.clone(),
                names: image.repo_tags.clone(),
            })
            .collect(),
    })
}

/// Ends with the client's last message, or when nobody wants more.
async fn take_in(
    mut parts: Streaming<LoadRequest>,
    sender: mpsc::Sender<bytes::Bytes>,
) -> Result<(), Status> {
    while let Some(message) = parts.message().await? {
        let Some(Part::Chunk(chunk)) = message.part else {
            return Err(Status::invalid_argument(
                "part: after the options only chunks are wanted",
            ));
        };
        if sender.send(chunk.into()).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}
