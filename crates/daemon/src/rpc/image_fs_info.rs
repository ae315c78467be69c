use std::sync::Arc;

use cri::v1;
use tonic::{Request, Status};

use crate::{
    runtime::{Runtime, now_ns},
    stats,
};

pub(super) async fn image_fs_info(
    runtime: &Arc<Runtime>,
    _request: Request<v1::ImageFsInfoRequest>,
) -> Result<v1::ImageFsInfoResponse, Status> {
    let usage = |path: std::path::PathBuf, bytes: u64, inodes: u64| v1::FilesystemUsage {
        timestamp: now_ns(),
        fs_id: Some(v1::FilesystemIdentifier {
            mountpoint: path.display().to_string(),
        }),
        used_bytes: Some(v1::UInt64Value { value: bytes }),
        inodes_used: Some(v1::UInt64Value { value: inodes }),
    };
    let images = runtime.images.usage();
    let containers = stats::writable_layers(runtime).await;
    Ok(v1::ImageFsInfoResponse {
        image_filesystems: vec![usage(
            runtime.overlay.layers_dir(),
            images.bytes,
            images.inodes,
        )],
        container_filesystems: vec![usage(
            runtime.overlay.root().join("containers"),
            containers.bytes,
            containers.inodes,
        )],
    })
}
