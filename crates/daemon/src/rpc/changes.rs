use std::{os::unix::ffi::OsStringExt, sync::Arc};

use cri::progress::{Change, ChangeKind, ChangesRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

use super::{Streamed, status::IntoStatus};
use crate::{files, runtime::Runtime};

/// Changes that wait for the client; then the walk does.
const WAITING: usize = 64;

pub(super) async fn changes(
    runtime: &Arc<Runtime>,
    request: Request<ChangesRequest>,
) -> Result<Streamed<Change>, Status> {
    let request = request.into_inner();
    let container = runtime
        .inventory
        .find_container(&request.container_id)
        .map_err(IntoStatus::into_status)?;
    let runtime = Arc::clone(runtime);
    let (sender, messages) = mpsc::channel(WAITING);
    tokio::task::spawn_blocking(move || {
        let told = files::changes(&runtime, &container, |change| {
            // A client that has gone has seen enough.
            sender.blocking_send(Ok(encode(change))).is_ok()
        });
        if let Err(error) = told {
            let _gone = sender.blocking_send(Err(error.into_status()));
        }
    });
    Ok(Box::pin(ReceiverStream::new(messages)))
}

fn encode(change: snapshot::Change) -> Change {
    let kind = match change.kind {
        snapshot::ChangeKind::Added => ChangeKind::Added,
        snapshot::ChangeKind::Changed => ChangeKind::Changed,
        snapshot::ChangeKind::Deleted => ChangeKind::Deleted,
    };
    Change {
        kind: kind.into(),
        path: change.path.into_os_string().into_vec(),
    }
}
