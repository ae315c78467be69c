use std::sync::Arc;

use cri::progress::{DiskPart, DiskPartKind, DiskUsageRequest};
use tonic::{Request, Status};

use super::{Streamed, chain};
use crate::{
    container::Container,
    disk::{self, Owners, Part, PartKind},
    runtime::Runtime,
};

pub(super) async fn disk_usage(
    runtime: &Arc<Runtime>,
    _request: Request<DiskUsageRequest>,
) -> Result<Streamed<DiskPart>, Status> {
    let root = runtime.config.root.clone();
    let containers = runtime.inventory.containers();
    let owners = Owners {
        images: runtime.images.holdings(),
        containers: (containers.iter())
            .map(|container| (container.id.to_string(), name(container)))
            .collect(),
    };
    // How long a walk takes depends on what is there; nobody else waits for it.
    let surveyed = tokio::task::spawn_blocking(move || disk::survey(&root, &owners)).await;
    let parts = match surveyed {
        Ok(Ok(parts)) => parts,
        Ok(Err(error)) => return Err(Status::internal(chain(&error))),
        Err(_panicked) => return Err(Status::internal("the survey ended without a result")),
    };
    let messages = parts.into_iter().map(|part| Ok(encode(part)));
    Ok(Box::pin(tokio_stream::iter(messages)))
}

/// `NAMESPACE/POD/CONTAINER`
fn name(container: &Container) -> String {
    let pod = &container.pod.config.metadata;
    let name = &container.config.metadata.name;
    format!("{}/{}/{name}", pod.namespace, pod.name)
}

fn encode(part: Part) -> DiskPart {
    let kind = match part.kind {
        PartKind::Layer => DiskPartKind::Layer,
        PartKind::Index => DiskPartKind::Index,
        PartKind::Blob => DiskPartKind::Blob,
        PartKind::Retired => DiskPartKind::Retired,
        PartKind::Making => DiskPartKind::Making,
        PartKind::WritableLayer => DiskPartKind::WritableLayer,
        PartKind::Volume => DiskPartKind::Volume,
        PartKind::Own => DiskPartKind::Own,
        PartKind::Garbage => DiskPartKind::Garbage,
        PartKind::Foreign => DiskPartKind::Foreign,
    };
    DiskPart {
        kind: kind.into(),
        path: part.path.display().to_string(),
        bytes: part.usage.bytes,
        inodes: part.usage.inodes,
        owners: part.owners,
    }
}
