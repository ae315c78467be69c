//! Calls of the image service, and of our own beside it.

use std::time::Duration;

use cri::progress::{
    CheckFinding, CheckRequest, DiskPart, DiskUsageRequest, ExplainPullRequest,
    ExplainPullResponse, ListOperationsRequest, ListOperationsResponse, LoadRequest, LoadResponse,
    PullProgress, PushRequest, PushResponse, SaveChunk, SaveRequest, WatchPullRequest,
};
use cri::v1::*;
use futures_util::{Stream, StreamExt, future, stream};
use tokio::sync::mpsc;
use tonic::{Response, Streaming};

use super::Session;
use crate::error::Error;

impl Session {
    pub(crate) async fn images(&self, reference: &str) -> Result<Vec<Image>, Error> {
        let request = ListImagesRequest {
            filter: Some(ImageFilter {
                image: Some(spec(reference)),
            }),
        };
        call!(self.image.list_images(request), self.query(), "list images")
            .map(|reply| reply.images)
    }

    /// The reply has no image where the runtime has none of that name.
    pub(crate) async fn image_status(
        &self,
        reference: &str,
        verbose: bool,
    ) -> Result<ImageStatusResponse, Error> {
        let request = ImageStatusRequest {
            image: Some(spec(reference)),
            verbose,
        };
        call!(
            self.image.image_status(request),
            self.query(),
            "get the status of image {reference}"
        )
    }

    /// Unbounded unless told: how long a pull may take depends on the network.
    pub(crate) async fn pull_image(
        &self,
        request: PullImageRequest,
        bound: Option<Duration>,
    ) -> Result<String, Error> {
        let name = request.image.as_ref().map_or("", |i| &i.image).to_owned();
        call!(self.image.pull_image(request), bound, "pull image {name}")
            .map(|reply| reply.image_ref)
    }

    /// What the runtime is doing. Only Longshore says.
    pub(crate) async fn list_operations(&self) -> Result<ListOperationsResponse, Error> {
        let mut service = self.image().await?.operations_service();
        let reply = service.list_operations(ListOperationsRequest {}).await;
        reply
            .map(Response::into_inner)
            .map_err(|status| Error::own_rpc("list what is under way".to_owned(), status))
    }

    /// What a pull would try. Only Longshore says.
    pub(crate) async fn explain_pull(
        &self,
        request: ExplainPullRequest,
    ) -> Result<ExplainPullResponse, Error> {
        let operation = format!("explain a pull of {}", request.image);
        let mut service = self.image().await?.images_service();
        let reply = service.explain_pull(request).await;
        reply
            .map(Response::into_inner)
            .map_err(|status| Error::own_rpc(operation, status))
    }

    /// Compares layers with what was unpacked. Only Longshore does.
    pub(crate) async fn check_store(
        &self,
        request: CheckRequest,
    ) -> Result<Streaming<CheckFinding>, Error> {
        let mut service = self.image().await?.store_service();
        let reply = service.check(request).await;
        reply
            .map(Response::into_inner)
            .map_err(|status| Error::own_rpc("check the store".to_owned(), status))
    }

    /// Takes an archive in. Only Longshore does.
    pub(crate) async fn load(
        &self,
        messages: mpsc::Receiver<LoadRequest>,
    ) -> Result<LoadResponse, Error> {
        let mut service = self.image().await?.store_service();
        let reply = service.load(received(messages)).await;
        reply
            .map(Response::into_inner)
            .map_err(|status| Error::own_rpc("load images".to_owned(), status))
    }

    /// An archive of images. Only Longshore makes it.
    pub(crate) async fn save(&self, request: SaveRequest) -> Result<Streaming<SaveChunk>, Error> {
        let mut service = self.image().await?.store_service();
        let reply = service.save(request).await;
        reply
            .map(Response::into_inner)
            .map_err(|status| Error::own_rpc("save images".to_owned(), status))
    }

    /// Sends an image to a registry. Only Longshore does.
    pub(crate) async fn push(&self, request: PushRequest) -> Result<PushResponse, Error> {
        let operation = format!("push image {}", request.image);
        let mut service = self.image().await?.store_service();
        let reply = service.push(request).await;
        reply
            .map(Response::into_inner)
            .map_err(|status| Error::own_rpc(operation, status))
    }

    /// Whose each byte on the node's disk is. Only Longshore says.
    pub(crate) async fn disk_usage(&self) -> Result<Vec<DiskPart>, Error> {
        let failed = |status| Error::own_rpc("measure what is on disk".to_owned(), status);
        let mut service = self.image().await?.store_service();
        let reply = service.disk_usage(DiskUsageRequest {}).await;
        let mut parts = reply.map_err(failed)?.into_inner();
        let mut all = Vec::new();
        while let Some(part) = parts.message().await.map_err(failed)? {
            all.push(part);
        }
        Ok(all)
    }

    /// How far a pull is. Ends with it, and at once where the runtime does not tell: nothing depends on it.
    pub(crate) fn watch_pull(&self, name: &str) -> impl Stream<Item = PullProgress> {
        let request = WatchPullRequest {
            image: name.to_owned(),
        };
        let opened = async move {
            let client = self.image().await.ok()?;
            let opened = client.progress_service().watch_pull(request).await;
            opened.ok().map(Response::into_inner)
        };
        stream::once(opened)
            .filter_map(future::ready)
            .flatten()
            .filter_map(|update| future::ready(update.ok()))
    }

    pub(crate) async fn remove_image(&self, reference: &str) -> Result<(), Error> {
        let request = RemoveImageRequest {
            image: Some(spec(reference)),
        };
        call!(
            self.image.remove_image(request),
            self.work(),
            "remove image {reference}"
        )
        .map(drop)
    }

    pub(crate) async fn image_fs_info(&self) -> Result<ImageFsInfoResponse, Error> {
        let request = ImageFsInfoRequest {};
        call!(
            self.image.image_fs_info(request),
            self.query(),
            "get the image file systems"
        )
    }
}

/// What comes through a channel, as a request's stream.
pub(super) fn received<M>(messages: mpsc::Receiver<M>) -> impl Stream<Item = M> {
    stream::unfold(messages, async |mut messages| {
        let message = messages.recv().await?;
        Some((message, messages))
    })
}

fn spec(reference: &str) -> ImageSpec {
    ImageSpec {
        image: reference.to_owned(),
        ..ImageSpec::default()
    }
}
