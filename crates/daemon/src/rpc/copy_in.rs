use std::sync::Arc;

use cri::progress::{CopyInRequest, CopyInResponse, copy_in_request::Part};
use tonic::{Request, Status, Streaming};

use super::status::IntoStatus;
use crate::{files, runtime::Runtime};

pub(super) async fn copy_in(
    runtime: &Arc<Runtime>,
    request: Request<Streaming<CopyInRequest>>,
) -> Result<CopyInResponse, Status> {
    let mut parts = request.into_inner();
    let first = parts.message().await?.and_then(|message| message.part);
    let Some(Part::Options(options)) = first else {
        return Err(Status::invalid_argument(
            "part: the first message must have the options",
        ));
    };
    check(&options.path)?;
    let container = runtime
        .inventory
        .find_container(&options.container_id)
        .map_err(IntoStatus::into_status)?;
    let target = copy::Target {
        path: options.path.into(),
        directory: options.directory,
        contents: options.contents,
        keep: options.keep,
        owner: None,
    };
    let mut copying = files::copy_in(runtime, &container, target)
        .await
        .map_err(IntoStatus::into_status)?;
    // A client that breaks off leaves through here, and takes the copy along.
    while let Some(message) = parts.message().await? {
        let Some(Part::Chunk(chunk)) = message.part else {
            return Err(Status::invalid_argument(
                "part: after the options only chunks are wanted",
            ));
        };
        let wanted = copying.put(&chunk).await;
        if !wanted.map_err(IntoStatus::into_status)? {
            break;
        }
    }
    let left_out = copying.end().await.map_err(IntoStatus::into_status)?;
    Ok(CopyInResponse { left_out })
}

/// A path that the kernel would not even look at.
pub(super) fn check(path: &str) -> Result<(), Status> {
    match path {
        "" => Err(Status::invalid_argument("path: missing")),
        // `PATH_MAX`; it would come back in the error.
        path if path.len() > 4096 => Err(Status::invalid_argument("path: longer than 4096 bytes")),
        path if path.contains('\0') => Err(Status::invalid_argument("path: it has a NUL")),
        _ => Ok(()),
    }
}
