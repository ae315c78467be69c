//! Calls about containers' files, which only Longshore has.

use cri::progress::{
    Change, ChangesRequest, CopyInRequest, CopyInResponse, CopyOutPart, CopyOutRequest,
};
use tokio::sync::mpsc;
use tonic::{Response, Streaming};

use super::{Session, images::received};
use crate::error::Error;

impl Session {
    /// What a container has changed in its image.
    pub(crate) async fn changes(&self, container_id: &str) -> Result<Streaming<Change>, Error> {
        let request = ChangesRequest {
            container_id: container_id.to_owned(),
        };
        let mut service = self.runtime().await?.files_service();
        let reply = service.changes(request).await;
        let operation = format!("compare container {container_id} with its image");
        reply
            .map(Response::into_inner)
            .map_err(|status| Error::own_rpc(operation, status))
    }

    /// An archive of what is at a path.
    pub(crate) async fn copy_out(
        &self,
        request: CopyOutRequest,
    ) -> Result<Streaming<CopyOutPart>, Error> {
        let operation = format!("copy {} from the container", request.path);
        let mut service = self.runtime().await?.files_service();
        let reply = service.copy_out(request).await;
        reply
            .map(Response::into_inner)
            .map_err(|status| Error::own_rpc(operation, status))
    }

    /// Makes what an archive has.
    pub(crate) async fn copy_in(
        &self,
        messages: mpsc::Receiver<CopyInRequest>,
    ) -> Result<CopyInResponse, Error> {
        let mut service = self.runtime().await?.files_service();
        let reply = service.copy_in(received(messages)).await;
        reply
            .map(Response::into_inner)
            .map_err(|status| Error::own_rpc("copy to the container", status))
    }
}
