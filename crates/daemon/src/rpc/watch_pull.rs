use std::{sync::Arc, time::Duration};

use cri::progress::{self, PullProgress, WatchPullRequest};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

use super::Streamed;
use crate::runtime::Runtime;

/// A client asks for the pull and for its progress at once, in either order.
const BEGINS_WITHIN: Duration = Duration::from_secs(10);

/// No faster than an eye follows.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn watch_pull(
    runtime: &Arc<Runtime>,
    request: Request<WatchPullRequest>,
) -> Result<Streamed<PullProgress>, Status> {
    let name = request.into_inner().image;
    let watched = tokio::time::timeout(BEGINS_WITHIN, runtime.images.watch_pull(&name)).await;
    let states = match watched {
        Ok(Ok(states)) => states,
        Ok(Err(error)) => return Err(Status::invalid_argument(format!("image: {error}"))),
        Err(_elapsed) => {
            return Err(Status::not_found(format!(
                "image {name:?}: no pull of it has begun within {} s: ask for one by PullImage",
                BEGINS_WITHIN.as_secs()
            )));
        }
    };
    // One that waits is enough: a slow client gets the newest state, not all of them.
    let (sender, messages) = mpsc::channel(1);
    tokio::spawn(async move {
        tokio::select! {
            () = forward(states, &sender) => {}
            () = sender.closed() => {}
        }
    });
    Ok(Box::pin(ReceiverStream::new(messages)))
}

/// Sends the state, and then each newest one until there are no more.
async fn forward(
    mut states: watch::Receiver<image::PullProgress>,
    sender: &mpsc::Sender<Result<PullProgress, Status>>,
) {
    loop {
        let message = encoded(&states.borrow_and_update());
        if sender.send(Ok(message)).await.is_err() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
        // The last state is seen before the end is.
        if states.changed().await.is_err() {
            return;
        }
    }
}

fn encoded(state: &image::PullProgress) -> PullProgress {
    let stage = match state.stage {
        image::PullStage::Resolving => progress::PullStage::Resolving,
        image::PullStage::Layers => progress::PullStage::Layers,
        image::PullStage::Recording => progress::PullStage::Recording,
    };
    let layers = state.layers.iter().map(|layer| progress::LayerProgress {
        digest: layer.digest.clone(),
        stage: match layer.stage {
            image::LayerStage::Waiting => progress::LayerStage::Waiting,
            image::LayerStage::Fetching => progress::LayerStage::Fetching,
            image::LayerStage::Complete => progress::LayerStage::Complete,
        }
        .into(),
        done_bytes: layer.fetched_bytes,
        total_bytes: layer.total_bytes,
    });
    PullProgress {
        stage: stage.into(),
        layers: layers.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_state_is_told_before_the_end() {
        let (state, states) = watch::channel(image::PullProgress::default());
        let (sender, mut messages) = mpsc::channel(1);
        let told = tokio::spawn(async move { forward(states, &sender).await });
        let first = messages.recv().await.unwrap().unwrap();
        assert_eq!(first.stage(), progress::PullStage::Resolving);
        state.send_modify(|state| state.stage = image::PullStage::Layers);
        state.send_modify(|state| state.stage = image::PullStage::Recording);
        drop(state);
        let last = messages.recv().await.unwrap().unwrap();
        assert_eq!(last.stage(), progress::PullStage::Recording);
        assert!(messages.recv().await.is_none());
        told.await.unwrap();
    }
}
