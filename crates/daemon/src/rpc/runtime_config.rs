use std::sync::Arc;

use cri::v1;
use tonic::{Request, Status};

use crate::{config::CgroupDriver, runtime::Runtime};

pub(super) async fn runtime_config(
    runtime: &Arc<Runtime>,
    _request: Request<v1::RuntimeConfigRequest>,
) -> Result<v1::RuntimeConfigResponse, Status> {
    // A kubelet that asks follows it.
    let driver = match runtime.config.cgroup_driver {
        CgroupDriver::Cgroupfs => v1::CgroupDriver::Cgroupfs,
        CgroupDriver::Systemd => v1::CgroupDriver::Systemd,
    };
    let linux = v1::LinuxRuntimeConfiguration {
        cgroup_driver: driver.into(),
    };
    Ok(v1::RuntimeConfigResponse { linux: Some(linux) })
}
