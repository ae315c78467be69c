use std::sync::Arc;

use cri::progress::{CopyOutPart, CopyOutRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

use super::{Streamed, status::IntoStatus};
use crate::{files, runtime::Runtime};

pub(super) async fn copy_out(
    runtime: &Arc<Runtime>,
    request: Request<CopyOutRequest>,
) -> Result<Streamed<CopyOutPart>, Status> {
    let request = request.into_inner();
    super::copy_in::check(&request.path)?;
    let container = runtime
        .inventory
        .find_container(&request.container_id)
        .map_err(IntoStatus::into_status)?;
    let (follow, contents) = (request.follow, request.contents);
    let mut copying = files::copy_out(runtime, &container, request.path, follow, contents)
        .await
        .map_err(IntoStatus::into_status)?;
    let (sender, messages) = mpsc::channel(1);
    tokio::spawn(async move {
        let last = loop {
            let next = tokio::select! {
                next = copying.next() => next,
                // A client that has gone takes the copy along, also while a file server does not answer.
                () = sender.closed() => return,
            };
            match next {
                Ok(data) => {
                    let part = CopyOutPart {
                        data,
                        ..CopyOutPart::default()
                    };
                    if sender.send(Ok(part)).await.is_err() {
                        return;
                    }
                }
                Err(Ok(left_out)) => {
                    break Ok(CopyOutPart {
                        left_out,
                        ..CopyOutPart::default()
                    });
                }
                Err(Err(error)) => break Err(error.into_status()),
            }
        };
        let _gone = sender.send(last).await;
    });
    Ok(Box::pin(ReceiverStream::new(messages)))
}
