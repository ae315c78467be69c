//! The sandbox container of a pod whose runtime insists on one, such as gVisor's: a program of ours that sleeps, with no image to pull. The pod's
//! other containers run on its kernel.
//!
//! It is made when the pod has its network, of which that kernel may have a stack of its own. It is in no list: with it goes the pod.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use oci_plan::{
    ContainerPlan, FdSlot, NamespaceSource,
    spec::{Context, Reach, container_plan},
};
use oci_spec::runtime::Spec;
use serde_json::{Value, json};
use supervisor_api::{CreateContainer, PAUSE_ARGUMENT, ReplyBody, RequestBody, Stdio};

use super::{Pod, bare_root, config::LinuxResources, files::hostname};
use crate::{
    handlers::{BundleError, MadeWith, write_bundle},
    paths::PathError,
    runtime::Runtime,
    supervisor::{CallError, Link, mismatch},
};

/// Where the program is, in the container.
const PROGRAM: &str = "/pause";

#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    #[error("its hostname")]
    Hostname(#[source] super::FilesError),
    #[error("specify it")]
    Specify(#[source] serde_json::Error),
    #[error("plan it")]
    Plan(#[source] oci_plan::spec::SpecError),
    #[error("make its root file system")]
    Root(#[source] std::io::Error),
    #[error("open its program")]
    Program(#[source] PathError),
    #[error(transparent)]
    Bundle(BundleError),
    #[error(transparent)]
    Supervisor(CallError),
}

/// Makes and starts it.
pub(super) async fn run(
    runtime: &Runtime,
    pod: &Pod,
    made_with: &MadeWith,
    link: &Link,
) -> Result<(), SandboxError> {
    let own = own_namespaces(pod);
    let mut spec = specify(runtime, pod, &own)?;
    let root = bare_root::make(&["proc", "dev", "sys", "tmp"], PROGRAM)
        .map_err(|errno| SandboxError::Root(errno.into()))?;
    let program = runtime.paths.tree(&runtime.config.supervisor, false).await;
    let descriptors = vec![root, program.map_err(SandboxError::Program)?];
    let namespaces: Vec<_> = own
        .iter()
        .map(|kind| (place(kind), NamespaceSource::Pod))
        .collect();
    let context = Context {
        id: pod.id.as_str(),
        rootfs: FdSlot(0),
        binds: &[(0, FdSlot(1))],
        namespaces: &namespaces,
        pod_shm: None,
        seccomp: None,
        reach: Reach::Supervisor,
    };
    let plan = container_plan(&spec, context).map_err(SandboxError::Plan)?;
    // The namespace has the name already; a kernel of its own has to be told.
    let name = hostname(&pod.config).map_err(SandboxError::Hostname)?;
    spec.set_hostname(Some(name));
    write_bundle(
        runtime.records.bundles(),
        made_with,
        &spec,
        &plan,
        &descriptors,
        pod.config.annotations.iter(),
        runtime.limits(),
    )
    .map_err(SandboxError::Bundle)?;
    begin(pod, link, plan, descriptors)
        .await
        .map_err(SandboxError::Supervisor)
}

/// Makes and starts the container that is called as its pod is, and that nobody listens to.
pub(super) async fn begin(
    pod: &Pod,
    link: &Link,
    plan: ContainerPlan,
    descriptors: Vec<OwnedFd>,
) -> Result<(), CallError> {
    let stdio = Stdio {
        log: None,
        stdin: false,
        stdin_once: false,
    };
    let create = RequestBody::CreateContainer(Box::new(CreateContainer { plan, stdio }));
    match link.call(create, descriptors).await? {
        (ReplyBody::Created { .. }, _) => {}
        (other, _) => return Err(mismatch("CreateContainer", &other)),
    }
    let start = RequestBody::StartContainer {
        id: pod.id.to_string(),
    };
    match link.call(start, Vec::new()).await? {
        (ReplyBody::Started { .. }, _) => Ok(()),
        (other, _) => Err(mismatch("StartContainer", &other)),
    }
}

/// The kinds of the pod's own namespaces, as the specification calls them.
fn own_namespaces(pod: &Pod) -> Vec<&'static str> {
    let own = pod.config.namespaces();
    [("network", own.net), ("ipc", own.ipc), ("uts", own.uts)]
        .into_iter()
        .filter_map(|(kind, own)| own.then_some(kind))
        .collect()
}

/// What stands for a namespace until the bundle gives it a place.
pub(super) fn place(kind: &str) -> PathBuf {
    Path::new("/pod").join(kind)
}

fn specify(runtime: &Runtime, pod: &Pod, own: &[&str]) -> Result<Spec, SandboxError> {
    let mut spec = sleeper(runtime, pod, PROGRAM, own);
    let metadata = &pod.config.metadata;
    spec["root"]["readonly"] = json!(true);
    spec["annotations"] = json!({
        "io.kubernetes.cri.container-type": "sandbox",
        "io.kubernetes.cri.sandbox-id": pod.id.as_str(),
        "io.kubernetes.cri.sandbox-name": metadata.name,
        "io.kubernetes.cri.sandbox-namespace": metadata.namespace,
        "io.kubernetes.cri.sandbox-uid": metadata.uid
    });
    spec["linux"]["resources"] = json!(resources(pod));
    serde_json::from_value(spec).map_err(SandboxError::Specify)
}

/// A container of the pod's in which our program, at `path`, sleeps, without privileges, in those of the pod's namespaces that are named. Its first mount
/// is the only one that has a source on the node.
pub(super) fn sleeper(runtime: &Runtime, pod: &Pod, path: &str, kinds: &[&str]) -> Value {
    let own = [json!({ "type": "pid" }), json!({ "type": "mount" })];
    let pods = kinds
        .iter()
        .map(|kind| json!({ "type": kind, "path": place(kind) }));
    let namespaces: Vec<_> = own.into_iter().chain(pods).collect();
    json!({
        "ociVersion": "1.0.2",
        "root": { "path": "rootfs" },
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": [path, PAUSE_ARGUMENT],
            "env": ["PATH=/"],
            "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": {}
        },
        "mounts": [{
            "destination": path,
            "type": "bind",
            "source": runtime.config.supervisor,
            "options": ["bind", "ro"]
        }, {
            "destination": "/proc",
            "type": "proc",
            "source": "proc",
            "options": ["nosuid", "noexec", "nodev"]
        }],
        "linux": {
            "cgroupsPath": format!("/{}", pod.sandbox_cgroup()),
            "namespaces": namespaces,
            "resources": {}
        }
    })
}

/// What the pod's containers may have together, as the kubelet sums it up, and the kernel's own on top: no container has a cgroup that counts.
fn resources(pod: &Pod) -> serde_json::Value {
    let linux = &pod.config.linux;
    let sum = |amount: fn(&LinuxResources) -> i64| {
        let asked = linux.resources.as_ref().map_or(0, amount);
        let more = linux.overhead.as_ref().map_or(0, amount).max(0);
        (asked > 0).then(|| asked.saturating_add(more))
    };
    let mut resources = json!({});
    if let Some(limit) = sum(|of| of.memory_limit_in_bytes) {
        resources["memory"] = json!({ "limit": limit });
    }
    let period = linux.resources.as_ref().map_or(0, |of| of.cpu_period);
    if let (Some(quota), 1..) = (sum(|of| of.cpu_quota), period) {
        resources["cpu"] = json!({ "quota": quota, "period": period });
    }
    resources
}
