use std::{collections::BTreeMap, sync::Arc};

use cri::v1;
use serde::Serialize;
use tonic::{Request, Status};

use super::{encode, list_containers::state, status::IntoStatus};
use crate::{
    container::{Container, Phase, config::ContainerConfig},
    runtime::Runtime,
};

pub(super) async fn container_status(
    runtime: &Arc<Runtime>,
    request: Request<v1::ContainerStatusRequest>,
) -> Result<v1::ContainerStatusResponse, Status> {
    let request = request.into_inner();
    let container = runtime
        .inventory
        .find_container(&request.container_id)
        .map_err(IntoStatus::into_status)?;
    let info = if request.verbose {
        info(runtime, &container)
    } else {
        BTreeMap::new()
    };
    Ok(v1::ContainerStatusResponse {
        status: Some(status(&container)),
        info,
    })
}

pub(super) fn status(container: &Container) -> v1::ContainerStatus {
    let phase = container.phase();
    let config = &container.config;
    let mut status = v1::ContainerStatus {
        id: container.id.to_string(),
        metadata: Some(encode::container_metadata(&config.metadata)),
        state: state(&phase).into(),
        created_at: container.created_at_ns,
        image: Some(encode::image_spec(&config.image)),
        image_ref: container.image_ref.clone(),
        image_id: container.image_id.clone(),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        mounts: encode::mounts(&config.mounts, &container.volume_images),
        log_path: container
            .log_path
            .as_ref()
            .map(|p| p.display().to_string())
            .unwrap_or_default(),
        resources: Some(encode::resources(&container.resources())),
        user: container.user().as_ref().map(encode::user),
        stop_signal: encode::stop_signal(container.stop_signal()),
        ..v1::ContainerStatus::default()
    };
    match phase {
        Phase::Creating | Phase::Created { .. } | Phase::Removed => {}
        Phase::Running { started_at_ns, .. } => status.started_at = started_at_ns,
        Phase::Exited(exit) => {
            status.started_at = exit.started_at_ns;
            status.finished_at = exit.finished_at_ns;
            status.exit_code = exit.code;
            status.reason = exit.reason.as_str().to_owned();
            status.message = exit.message.clone();
        }
    }
    status
}

/// What tools read on the peers, under the peers' names.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Info<'a> {
    #[serde(rename = "sandboxID")]
    sandbox_id: &'a str,
    pid: i32,
    config: &'a ContainerConfig,
    runtime_spec: Option<&'a oci_spec::runtime::Spec>,
    snapshotter: &'static str,
    snapshot_key: &'a str,
    runtime_type: &'static str,
    cgroup: &'a str,
}

fn info(runtime: &Runtime, container: &Container) -> BTreeMap<String, String> {
    let pid = match container.phase() {
        Phase::Created { pid } | Phase::Running { pid, .. } => pid,
        Phase::Creating | Phase::Exited(_) | Phase::Removed => 0,
    };
    // A status without the specification is better than none.
    let spec = container.spec(&runtime.records).ok();
    let mut config = container.config.clone();
    config.linux.resources = container.resources();
    let info = Info {
        sandbox_id: container.pod.id.as_str(),
        pid,
        config: &config,
        runtime_spec: spec.as_deref(),
        snapshotter: "overlay",
        snapshot_key: container.id.as_str(),
        runtime_type: "longshore",
        cgroup: container.cgroup(),
    };
    verbose(&info)
}

/// A verbose status: one key, `info`, as on the peers.
pub(super) fn verbose(info: &impl Serialize) -> BTreeMap<String, String> {
    match serde_json::to_string(info) {
        Ok(text) => BTreeMap::from([("info".to_owned(), text)]),
        Err(error) => BTreeMap::from([("error".to_owned(), error.to_string())]),
    }
}
