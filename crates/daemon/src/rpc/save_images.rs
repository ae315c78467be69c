use std::sync::Arc;

use cri::progress::{SaveChunk, SaveRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

use super::{Streamed, chain, explain_pull, pull_image};
use crate::runtime::Runtime;

/// Pieces that wait for the client.
const WAITING: usize = 4;

pub(super) async fn save(
    runtime: &Arc<Runtime>,
    request: Request<SaveRequest>,
) -> Result<Streamed<SaveChunk>, Status> {
    let request = request.into_inner();
    let request = image::SaveRequest {
        images: request.images,
        auth: request.auth.map(explain_pull::auth),
    };
    let images = runtime.images.clone();
    let (sink, mut pieces) = mpsc::channel::<bytes::Bytes>(WAITING);
    let (sender, messages) = mpsc::channel(1);
    tokio::spawn(async move {
        let forward = async {
            while let Some(piece) = pieces.recv().await {
                let chunk = SaveChunk {
                    data: piece.to_vec(),
                };
                if sender.send(Ok(chunk)).await.is_err() {
                    // Whoever writes more finds nobody.
                    pieces.close();
                }
            }
        };
        let (saved, ()) = tokio::join!(images.save(request, sink), forward);
        if let Err(error) = saved {
            let status = Status::new(pull_image::code(error.kind()), chain(&error));
            let _gone = sender.send(Err(status)).await;
        }
    });
    Ok(Box::pin(ReceiverStream::new(messages)))
}
