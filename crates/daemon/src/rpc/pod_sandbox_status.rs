use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use cri::v1;
use serde::Serialize;
use serde_json::json;
use tonic::{Request, Status};

use super::{
    container_status::{status as container_status, verbose},
    encode,
    list_pod_sandbox::state,
    status::IntoStatus,
};
use crate::{
    container,
    pod::{Phase, Pod, config::PodConfig},
    runtime::{Runtime, now_ns},
};

pub(super) async fn pod_sandbox_status(
    runtime: &Arc<Runtime>,
    request: Request<v1::PodSandboxStatusRequest>,
) -> Result<v1::PodSandboxStatusResponse, Status> {
    let request = request.into_inner();
    let pod = runtime
        .inventory
        .find_pod(&request.pod_sandbox_id)
        .map_err(IntoStatus::into_status)?;
    let info = if request.verbose {
        info(runtime, &pod)
    } else {
        BTreeMap::new()
    };
    // Between two events: its time says which it has seen.
    Ok(runtime.happen(|_news| {
        let containers = runtime.inventory.containers_of(&pod.id);
        v1::PodSandboxStatusResponse {
            status: Some(status(&pod)),
            info,
            containers_statuses: containers.iter().map(|c| container_status(c)).collect(),
            timestamp: now_ns(),
        }
    }))
}

pub(super) fn status(pod: &Pod) -> v1::PodSandboxStatus {
    let mut ips = pod.ips().into_iter().map(|ip| ip.to_string());
    let network = v1::PodSandboxNetworkStatus {
        ip: ips.next().unwrap_or_default(),
        additional_ips: ips.map(|ip| v1::PodIp { ip }).collect(),
    };
    let options = &pod.config.linux.security_context.namespace_options;
    v1::PodSandboxStatus {
        id: pod.id.to_string(),
        metadata: Some(encode::pod_metadata(&pod.config.metadata)),
        state: state(pod).into(),
        created_at: pod.created_at_ns,
        network: Some(network),
        linux: Some(encode::pod_linux_status(options)),
        labels: pod.config.labels.clone(),
        annotations: pod.config.annotations.clone(),
        runtime_handler: pod.handler.clone(),
    }
}

/// What tools read on the peers, under the peers' names.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Info<'a> {
    #[serde(rename = "sandboxID")]
    sandbox_id: &'a str,
    /// Of a process in the pod's namespaces: its init, or a running container's; 0 while there is none.
    pid: i32,
    process_status: &'static str,
    net_ns_closed: bool,
    network_namespace: Option<PathBuf>,
    runtime_handler: &'a str,
    runtime_type: &'static str,
    cgroup: String,
    config: &'a PodConfig,
    runtime_spec: serde_json::Value,
    /// Why the pod is not ready.
    reason: Option<String>,
}

fn info(runtime: &Runtime, pod: &Pod) -> BTreeMap<String, String> {
    let netns = pod.network().map(|network| network.netns);
    let running = runtime
        .inventory
        .containers_of(&pod.id)
        .into_iter()
        .find_map(|container| match container.phase() {
            container::Phase::Running { pid, .. } | container::Phase::Created { pid } => Some(pid),
            container::Phase::Creating
            | container::Phase::Exited(_)
            | container::Phase::Removed => None,
        });
    let (process_status, reason) = match pod.phase() {
        Phase::Ready => ("running", None),
        Phase::Starting => ("created", None),
        Phase::Lost { reason } => ("stopped", Some(reason)),
        Phase::Stopping { reason } | Phase::Stopped { reason } => ("stopped", reason),
        Phase::Removed => ("deleted", None),
    };
    verbose(&Info {
        sandbox_id: pod.id.as_str(),
        pid: running.unwrap_or(0),
        process_status,
        net_ns_closed: netns.is_none(),
        runtime_handler: &pod.handler,
        runtime_type: "longshore",
        cgroup: pod.cgroup(),
        config: &pod.current_config(),
        runtime_spec: runtime_spec(pod, netns.as_deref()),
        network_namespace: netns,
        reason,
    })
}

/// No process runs for the sandbox itself; its namespaces stand where tools look for them.
fn runtime_spec(pod: &Pod, netns: Option<&Path>) -> serde_json::Value {
    let namespaces: Vec<_> = netns
        .map(|path| json!({ "type": "network", "path": path }))
        .into_iter()
        .collect();
    json!({
        "ociVersion": "1.2.0",
        "hostname": pod.config.hostname,
        "annotations": {
            "io.kubernetes.cri.container-type": "sandbox",
            "io.kubernetes.cri.sandbox-id": pod.id.as_str(),
        },
        "linux": { "cgroupsPath": pod.cgroup(), "namespaces": namespaces },
    })
}
