//! RestorePod: a pod and its containers from a checkpoint of a pod. All of them are made, or nothing is left.
//!
//! ```text
//!  the manifest, and a configuration for each of its containers ─▶ noted ─▶ RunPodSandbox ─▶ CreateContainer of each ─▶ forgotten
//!                                                                    │ any failure, the client's deadline, the daemon dies
//!                                                                    └──▶ RemovePodSandbox
//! ```
//!
//! StartContainer lets the processes go on, container by container.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    criu::CriuError,
    journal::{Artefact, Journal},
    manifest::{self, Manifest},
    opened::OpenError,
    root,
};
use crate::{
    container::{self, Container, CreateError, Phase, config::ContainerConfig},
    flight::{self, Crashed},
    handlers::UnknownHandler,
    id::PodId,
    pod::{
        self, Pod, RunError,
        config::{PodConfig, PodMetadata},
    },
    runtime::{BlockingError, DISK_BOUND, Runtime, blocking, now_ns},
};

/// Where the client names no deadline.
const DEFAULT_BOUND: Duration = Duration::from_secs(110);

/// Those of restores, by the pod's name.
pub(super) type Flights = flight::Flights<PodMetadata, Result<Restored, Arc<PodRestoreError>>>;

/// Why there is no pod. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PodRestoreError {
    #[error("checkpoint_path {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: OpenError,
    },
    #[error("container_configs has no container {0:?}, which the checkpoint has")]
    NoConfig(String),
    #[error("container_configs has a container {0:?}, which the checkpoint has not")]
    NotInCheckpoint(String),
    #[error("container_configs has two containers {0:?}")]
    Twice(String),
    #[error("restore pod {pod}")]
    UnknownHandler {
        pod: String,
        #[source]
        source: UnknownHandler,
    },
    #[error(
        "restore pod {pod}: the handler {handler} is an OCI runtime; only the embedded core's containers can be restored"
    )]
    Handler { pod: String, handler: String },
    #[error("restore pod {0}")]
    Criu(String, #[source] CriuError),
    #[error(
        "restore pod {pod}: it exists already as {id}: remove it first, or use another attempt"
    )]
    Exists { pod: String, id: PodId },
    #[error("restore pod {pod}: note that it is under way")]
    Note {
        pod: String,
        #[source]
        source: std::io::Error,
    },
    #[error("restore pod {0}")]
    Run(String, #[source] Arc<RunError>),
    #[error("restore pod {0}")]
    Create(String, #[source] Arc<CreateError>),
    #[error("restore pod {pod}: it was not done within {} s", bound.as_secs())]
    Late { pod: String, bound: Duration },
    #[error(transparent)]
    Blocking(#[from] BlockingError),
    #[error(transparent)]
    Crashed(#[from] Crashed),
}

/// What is asked for.
#[derive(Debug)]
pub(crate) struct PodRestore {
    pub(crate) checkpoint: PathBuf,
    pub(crate) config: PodConfig,
    pub(crate) handler: String,
    pub(crate) containers: Vec<ContainerConfig>,
    /// When the client gives up.
    pub(crate) bound: Option<Duration>,
}

/// What was made.
#[derive(Debug, Clone)]
pub(crate) struct Restored {
    pub(crate) pod: Arc<Pod>,
    /// In the order of the request.
    pub(crate) containers: Vec<Arc<Container>>,
}

/// Makes the pod, or returns the one that the same request made. Cancellation: the pod is made to the end; the same request joins, or finds it.
pub(crate) async fn restore_pod(
    runtime: &Arc<Runtime>,
    request: PodRestore,
) -> Result<Restored, Arc<PodRestoreError>> {
    let name = request.config.metadata.clone();
    let joined = runtime.checkpoints.restores.join(name, || {
        let runtime = Arc::clone(runtime);
        async move { make(&runtime, request).await.map_err(Arc::new) }
    });
    joined.await.map_err(|crashed| Arc::new(crashed.into()))?
}

async fn make(runtime: &Arc<Runtime>, request: PodRestore) -> Result<Restored, PodRestoreError> {
    let bound = request.bound.unwrap_or(DEFAULT_BOUND);
    let until = Instant::now() + bound;
    let request = judge(runtime, request).await?;
    let name = request.config.metadata.name.clone();
    if let Some(pod) = runtime.inventory.pod_named(&request.config.metadata) {
        let id = pod.id.clone();
        let made = earlier(runtime, pod, &request);
        return made.ok_or(PodRestoreError::Exists { pod: name, id });
    }
    let root = root(runtime);
    let artefact = Artefact::Restore(request.config.metadata.clone());
    let noted = blocking(DISK_BOUND, move || Journal::begin(&root, &artefact)).await?;
    let journal = noted.map_err(|source| PodRestoreError::Note {
        pod: name.clone(),
        source,
    })?;
    let before = now_ns();
    let pod = pod::run(runtime, request.config.clone(), request.handler.clone())
        .await
        .map_err(|error| PodRestoreError::Run(name.clone(), error))?;
    if pod.created_at_ns < before {
        // Somebody else's, that was made just now.
        let id = pod.id.clone();
        return Err(PodRestoreError::Exists { pod: name, id });
    }
    let filled = tokio::time::timeout_at(until.into(), fill(runtime, &pod, &request));
    let error = match filled.await {
        Ok(Ok(containers)) => {
            journal.done();
            return Ok(Restored { pod, containers });
        }
        Ok(Err(error)) => error,
        Err(_elapsed) => PodRestoreError::Late { pod: name, bound },
    };
    if let Err(left) = pod::remove(runtime, &pod).await {
        tracing::error!(
            pod = %pod.id,
            error = &*left as &dyn std::error::Error,
            "undoing a pod that could not be restored left something behind: it is tried again when the daemon is started"
        );
        // The note stays for the next daemon.
        std::mem::forget(journal);
    }
    Err(error)
}

/// All that can be refused before anything is made. The containers' configurations are told which part of the checkpoint is theirs.
async fn judge(
    runtime: &Arc<Runtime>,
    mut request: PodRestore,
) -> Result<PodRestore, PodRestoreError> {
    let path = request.checkpoint.clone();
    let manifest = {
        let path = path.clone();
        blocking(DISK_BOUND, move || Manifest::read(&path)).await?
    };
    let manifest = manifest.map_err(|source| PodRestoreError::Open {
        path: path.clone(),
        source,
    })?;
    let mut members: BTreeMap<_, _> = manifest
        .containers
        .into_iter()
        .map(|member| (member.name, (member.id, false)))
        .collect();
    for config in &mut request.containers {
        let name = &config.metadata.name;
        let Some((id, is_taken)) = members.get_mut(name) else {
            return Err(PodRestoreError::NotInCheckpoint(name.clone()));
        };
        if std::mem::replace(is_taken, true) {
            return Err(PodRestoreError::Twice(name.clone()));
        }
        config.checkpoint = Some(manifest::part(&path, id));
    }
    if let Some((name, _)) = members.into_iter().find(|(_, (_, is_taken))| !is_taken) {
        return Err(PodRestoreError::NoConfig(name));
    }
    let pod = || request.config.metadata.name.clone();
    let chosen = runtime.handlers.choose(&runtime.config, &request.handler);
    match chosen {
        Ok(None) => {}
        Ok(Some(made_with)) => {
            return Err(PodRestoreError::Handler {
                pod: pod(),
                handler: made_with.name,
            });
        }
        Err(source) => return Err(PodRestoreError::UnknownHandler { pod: pod(), source }),
    }
    let criu = runtime.checkpoints.criu.get(&runtime.config).await;
    criu.map_err(|error| PodRestoreError::Criu(pod(), error))?;
    Ok(request)
}

/// The pod that the same request has made, where its containers are as they were then.
fn earlier(runtime: &Runtime, pod: Arc<Pod>, request: &PodRestore) -> Option<Restored> {
    let is_it = pod.is_ready() && pod.config == request.config && pod.handler == request.handler;
    let containers = request.containers.iter().map(|config| {
        let container = runtime
            .inventory
            .container_named(&pod.id, &config.metadata)?;
        let is_created = matches!(container.phase(), Phase::Created { .. });
        (is_created && container.config == *config).then_some(container)
    });
    let containers = containers.collect::<Option<Vec<_>>>()?;
    is_it.then_some(Restored { pod, containers })
}

async fn fill(
    runtime: &Arc<Runtime>,
    pod: &Arc<Pod>,
    request: &PodRestore,
) -> Result<Vec<Arc<Container>>, PodRestoreError> {
    let mut made = Vec::with_capacity(request.containers.len());
    for config in &request.containers {
        let created = container::create(runtime, pod, config.clone()).await;
        let name = || request.config.metadata.name.clone();
        made.push(created.map_err(|error| PodRestoreError::Create(name(), error))?);
    }
    Ok(made)
}
