use std::sync::Arc;

use cri::v1;
use tonic::{Request, Status};

use super::{deadline, decode, status::IntoStatus};
use crate::{
    checkpoint::{self, PodRestore},
    runtime::Runtime,
};

pub(super) async fn restore_pod(
    runtime: &Arc<Runtime>,
    request: Request<v1::RestorePodRequest>,
) -> Result<v1::RestorePodResponse, Status> {
    let bound = deadline::left(&request);
    let request = request.into_inner();
    let decoded = || {
        let checkpoint = decode::location("checkpoint_path", request.checkpoint_path)?;
        decode::no_options("options", request.options)?;
        let config = decode::pod_config("config", request.config.unwrap_or_default())?;
        let configs = request.container_configs.into_iter().enumerate();
        let containers = configs.map(|(index, config)| {
            decode::container_config(&format!("container_configs[{index}]"), config)
        });
        Ok::<_, decode::InvalidField>(PodRestore {
            checkpoint,
            config,
            handler: request.runtime_handler,
            containers: containers.collect::<Result<_, _>>()?,
            bound,
        })
    };
    let decoded = decoded().map_err(IntoStatus::into_status)?;
    let restored = checkpoint::restore_pod(runtime, decoded)
        .await
        .map_err(IntoStatus::into_status)?;
    let containers = restored.containers.iter();
    Ok(v1::RestorePodResponse {
        pod_sandbox_id: restored.pod.id.to_string(),
        restored_containers: containers
            .map(|container| v1::RestoredContainer {
                name: container.config.metadata.name.clone(),
                container_id: container.id.to_string(),
            })
            .collect(),
    })
}
