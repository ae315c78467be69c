use std::sync::Arc;

use cri::v1;
use tonic::{Request, Status};

use super::status::IntoStatus;
use crate::{pod_cidr, runtime::Runtime};

pub(super) async fn update_runtime_config(
    runtime: &Arc<Runtime>,
    request: Request<v1::UpdateRuntimeConfigRequest>,
) -> Result<v1::UpdateRuntimeConfigResponse, Status> {
    let config = request.into_inner().runtime_config;
    let network = config.and_then(|config| config.network_config);
    let pod_cidr = network.unwrap_or_default().pod_cidr;
    pod_cidr::update(runtime, &pod_cidr)
        .await
        .map_err(|source| PodCidrError::new(&pod_cidr, source).into_status())?;
    Ok(v1::UpdateRuntimeConfigResponse {})
}

/// Says which field it was.
#[derive(Debug, thiserror::Error)]
#[error("runtime_config.network_config.pod_cidr = {pod_cidr:?}")]
pub(super) struct PodCidrError {
    pod_cidr: String,
    pub(super) source: pod_cidr::UpdateError,
}

impl PodCidrError {
    fn new(pod_cidr: &str, source: pod_cidr::UpdateError) -> Self {
        let pod_cidr = pod_cidr.chars().take(QUOTED_CHARS).collect();
        Self { pod_cidr, source }
    }
}

/// A longer value is cut; two ranges have less.
const QUOTED_CHARS: usize = 120;
