use std::sync::Arc;

use cri::v1;
use tonic::{Request, Status};

use crate::runtime::Runtime;

pub(super) async fn runtime_config(
    _runtime: &Arc<Runtime>,
    _request: Request<v1::RuntimeConfigRequest>,
) -> Result<v1::RuntimeConfigResponse, Status> {
    // The systemd driver is not there yet; a kubelet that asks follows this one.
    let linux = v1::LinuxRuntimeConfiguration {
        cgroup_driver: v1::CgroupDriver::Cgroupfs.into(),
    };
    Ok(v1::RuntimeConfigResponse { linux: Some(linux) })
}
