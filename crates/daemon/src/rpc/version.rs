use std::sync::Arc;

use cri::v1;
use tonic::{Request, Status};

use super::OlderPackage;
use crate::runtime::Runtime;

/// The version of the kubelet's side of the interface, which has been this one since it has existed.
const KUBELET_API: &str = "0.1.0";

pub(super) async fn version(
    _runtime: &Arc<Runtime>,
    request: Request<v1::VersionRequest>,
) -> Result<v1::VersionResponse, Status> {
    let older = request.extensions().get::<OlderPackage>().is_some();
    Ok(v1::VersionResponse {
        version: KUBELET_API.to_owned(),
        runtime_name: "longshore".to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: if older { "v1alpha2" } else { "v1" }.to_owned(),
    })
}
