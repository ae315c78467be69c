//! RunPodSandbox, as a story of stages. Each owns the one before it and knows its own way back; a failure at any of them
//! unwinds the rest.

use std::{io, os::fd::OwnedFd, sync::Arc};

use oci_plan::{IdMap, IdMappings, Resources, SandboxPlan};
use rustix::process::Pid;
use supervisor_api::{ReplyBody, RequestBody};

use super::{
    Phase, Pod, Turn,
    config::PodConfig,
    files::{FilesError, NodeFiles, hostname},
    follow, lost,
    network::{self, NetworkError},
    parent::{self, ParentError},
    remove::take_apart,
    sandbox_container::{self, SandboxError},
    scope,
};
use crate::{
    events::Kind,
    failpoint,
    flight::{self, Crashed},
    handlers::{MadeWith, UnknownHandler},
    id::PodId,
    nri::NriError,
    runtime::{Runtime, now_ns},
    selinux::SelinuxError,
    spec::{self, ProfileError, SpecError, SysctlDefaults, pod_sysctls},
    state::{PodRecord, PodStage, RecordError},
    supervisor::{self, CallError, Link, SpawnError, mismatch},
    systemd::{Scope, ScopeError},
};

/// Docker's and the peers' size of `/dev/shm`.
const SHM_BYTES: u64 = 64 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error("pod {0}")]
    UnknownHandler(String, #[source] UnknownHandler),
    #[error("pod {0}: let its supervisor use its runtime")]
    Runtime(PodId, #[source] io::Error),
    #[error(
        "pod {namespace}/{name} attempt {attempt} (uid {uid}) exists already as {id}, with another configuration: remove it first, or \
         use another attempt"
    )]
    Conflict {
        namespace: String,
        name: String,
        uid: String,
        attempt: u32,
        id: PodId,
    },
    #[error(
        "pod {namespace}/{name} attempt {attempt} exists already as {id} and is not ready: remove it first, or use another attempt"
    )]
    NotReady {
        namespace: String,
        name: String,
        attempt: u32,
        id: PodId,
    },
    #[error("pod {0}")]
    Config(String, #[source] SpecError),
    #[error("pod {0}")]
    Profile(String, #[source] ProfileError),
    #[error("pod {0}")]
    Selinux(String, #[source] SelinuxError),
    #[error("pod {0}")]
    Spec(PodId, #[source] SpecError),
    #[error("pod {0}: make an id")]
    Id(String, #[source] io::Error),
    #[error("pod {0}: keep its record")]
    Record(PodId, #[source] RecordError),
    #[error("pod {0}")]
    Parent(String, #[source] ParentError),
    #[error("pod {0}: make its cgroup parent")]
    Cgroup(PodId, #[source] cgroup::Error),
    #[error("pod {0}: have systemd make its cgroup")]
    Scope(PodId, #[source] ScopeError),
    #[error("pod {0}: have systemd make the cgroup of all supervisors")]
    Nest(PodId, #[source] ScopeError),
    #[error("pod {0}: move its supervisor into the cgroup of all supervisors")]
    EnterNest(PodId, #[source] cgroup::Error),
    #[error("pod {0}: start its supervisor")]
    Supervisor(PodId, #[source] SpawnError),
    #[error("pod {0}: connect its supervisor")]
    Link(PodId, #[source] io::Error),
    #[error("pod {0}: make its namespaces")]
    Sandbox(PodId, #[source] CallError),
    #[error("pod {0}: make its sandbox container")]
    SandboxContainer(PodId, #[source] SandboxError),
    #[error("pod {0}: write its files")]
    Files(PodId, #[source] FilesError),
    #[error("pod {0}: set up its network")]
    Network(PodId, #[source] NetworkError),
    #[error("pod {0}")]
    Nri(PodId, #[source] NriError),
    #[error("pod {0} was removed while it was being made")]
    Overtaken(PodId),
    #[error(transparent)]
    Crashed(#[from] Crashed),
}

/// Makes a pod, or returns the one that the same request made. Cancellation: the pod is made to the end; the same request
/// joins.
pub(crate) async fn run(
    runtime: &Arc<Runtime>,
    config: PodConfig,
    handler: String,
) -> Result<Arc<Pod>, Arc<RunError>> {
    // Validated before anything is claimed or made.
    let checked = spec::check_pod(&config, &runtime.host)
        .and_then(|()| pod_sysctls(&config, SysctlDefaults::default()));
    if let Err(error) = checked {
        return Err(Arc::new(RunError::Config(config.metadata.name, error)));
    }
    let pod = match runtime.inventory.pod_named(&config.metadata) {
        Some(pod) => pod,
        None => {
            let profile = runtime.seccomp.check_pod(&runtime.paths, &config).await;
            let name = &config.metadata.name;
            let made_with = runtime.handlers.choose(&runtime.config, &handler);
            let made_with =
                made_with.map_err(|error| RunError::UnknownHandler(name.clone(), error))?;
            profile.map_err(|error| RunError::Profile(name.clone(), error))?;
            if made_with.is_some() {
                spec::check_handler(&config, &handler)
                    .map_err(|error| RunError::Config(name.clone(), error))?;
            }
            Arc::new(new_pod(
                runtime,
                config.clone(),
                handler.clone(),
                made_with,
            )?)
        }
    };
    let pod = match runtime.inventory.claim_pod_name(&pod) {
        Ok(()) => pod,
        Err(holder) => holder,
    };
    if pod.config != config || pod.handler != handler {
        let name = &pod.config.metadata;
        return Err(Arc::new(RunError::Conflict {
            namespace: name.namespace.clone(),
            name: name.name.clone(),
            uid: name.uid.clone(),
            attempt: name.attempt,
            id: pod.id.clone(),
        }));
    }
    match pod.phase() {
        Phase::Starting => {}
        Phase::Ready => return Ok(pod),
        Phase::Lost { .. } | Phase::Stopping { .. } | Phase::Stopped { .. } | Phase::Removed => {
            let name = &pod.config.metadata;
            return Err(Arc::new(RunError::NotReady {
                namespace: name.namespace.clone(),
                name: name.name.clone(),
                attempt: name.attempt,
                id: pod.id.clone(),
            }));
        }
    }
    let joined = runtime.flights.run_pod.join(pod.id.clone(), || {
        let (runtime, pod) = (Arc::clone(runtime), Arc::clone(&pod));
        async move { make(&runtime, pod).await.map_err(Arc::new) }
    });
    joined.await.map_err(|crashed| Arc::new(crashed.into()))?
}

/// A pod that nothing has been made of.
pub(super) fn new_pod(
    runtime: &Runtime,
    config: PodConfig,
    handler: String,
    made_with: Option<MadeWith>,
) -> Result<Pod, RunError> {
    let id = PodId::generate().map_err(|e| RunError::Id(config.metadata.name.clone(), e))?;
    let cgroup_parent = parent::of_pod(runtime, &config, &id)
        .map_err(|error| RunError::Parent(config.metadata.name.clone(), error))?;
    let labels = runtime.selinux.of_pod(&config);
    let labels = labels.map_err(|error| RunError::Selinux(config.metadata.name.clone(), error))?;
    let (labels, level) = labels.map_or((None, None), |(labels, level)| (Some(labels), level));
    let record = PodRecord {
        id: id.clone(),
        boot: runtime.boot.clone(),
        config,
        handler,
        created_at_ns: now_ns(),
        stage: PodStage::Starting,
        cgroup_parent,
        network: None,
        supervisor: None,
        made_with,
        resources: None,
        labels,
    };
    let directory = runtime.records.pod_directory(&id);
    Ok(Pod::new(record, directory, Phase::Starting, level))
}

async fn make(runtime: &Arc<Runtime>, pod: Arc<Pod>) -> Result<Arc<Pod>, RunError> {
    let turn = pod.turn().await;
    // A request that joined too late finds the work done; one that was overtaken by a removal must not make it again.
    match pod.phase() {
        Phase::Starting => {}
        Phase::Ready => return Ok(Arc::clone(&pod)),
        Phase::Lost { .. } | Phase::Stopping { .. } | Phase::Stopped { .. } | Phase::Removed => {
            return Err(RunError::Overtaken(pod.id.clone()));
        }
    }
    flight::stage("record the pod");
    let reserved = Reserved::enter(runtime, &pod, &turn).await?;
    let supervised = reserved.supervise().await?;
    let networked = supervised.attach().await?;
    networked.ready().await?;
    Ok(Arc::clone(&pod))
}

/// The pod has a record and a cgroup parent.
pub(super) struct Reserved<'a> {
    runtime: &'a Arc<Runtime>,
    pod: &'a Arc<Pod>,
    turn: &'a Turn<'a>,
    sysctls: Vec<(String, String)>,
}

impl<'a> Reserved<'a> {
    pub(super) async fn enter(
        runtime: &'a Arc<Runtime>,
        pod: &'a Arc<Pod>,
        turn: &'a Turn<'a>,
    ) -> Result<Self, RunError> {
        let defaults = SysctlDefaults {
            unprivileged_ports: *runtime.config.unprivileged_ports.get(),
            unprivileged_ping: *runtime.config.unprivileged_ping.get(),
        };
        let sysctls =
            pod_sysctls(&pod.config, defaults).map_err(|e| RunError::Spec(pod.id.clone(), e));
        let reserved = Self {
            runtime,
            pod,
            turn,
            sysctls: sysctls?,
        };
        if let Err(error) = runtime.records.create_pod(&pod.record()) {
            // Nothing was made but, perhaps, part of the record.
            if let Err(left) = runtime.records.remove_pod(&pod.id) {
                tracing::warn!(pod = %pod.id, error = &left as &dyn std::error::Error, "undo");
            }
            pod.set_phase(Phase::Removed);
            runtime.inventory.forget_pod(pod);
            return Err(RunError::Record(pod.id.clone(), error));
        }
        failpoint::reach("pod.recorded", pod);
        if Scope::at(&pod.cgroup_parent).is_some() {
            // systemd makes it, around a process that there is not yet.
            return Ok(reserved);
        }
        match runtime
            .hierarchies
            .ensure(&pod.cgroup_parent, &Resources::default())
        {
            Ok(_parent) => Ok(reserved),
            Err(error) => Err(reserved.undo(RunError::Cgroup(pod.id.clone(), error)).await),
        }
    }

    pub(super) async fn supervise(self) -> Result<Supervised<'a>, RunError> {
        flight::stage("start its supervisor");
        let (runtime, pod) = (self.runtime, self.pod);
        let (child, socket) =
            match supervisor::spawn(&runtime.executable, pod.id.as_str(), &pod.directory) {
                Ok(started) => started,
                Err(error) => {
                    return Err(self.undo(RunError::Supervisor(pod.id.clone(), error)).await);
                }
            };
        let supervisor = lost::identify(child.pid());
        let outside = child.is_outside().then(|| Pid::from_raw(child.pid()));
        let outside = outside.flatten();
        reap(child);
        let (link, events) = match Link::new(socket) {
            Ok((link, events)) => (Arc::new(link), events),
            Err(error) => return Err(self.undo(RunError::Link(pod.id.clone(), error)).await),
        };
        pod.set_link(Some(Arc::clone(&link)));
        tokio::spawn(follow(Arc::downgrade(runtime), Arc::clone(pod), events));
        let recorded = pod.update(self.turn, &runtime.records, |record| {
            record.supervisor = supervisor
        });
        if let Err(error) = recorded {
            return Err(self.undo(RunError::Record(pod.id.clone(), error)).await);
        }
        failpoint::reach("pod.supervised", pod);
        if let Some(process) = outside {
            if let Err(error) = scope::enter_nest(runtime, pod, &link, process).await {
                return Err(self.undo(error).await);
            }
            failpoint::reach("pod.nested", pod);
        }
        if let Some(scope) = Scope::at(&pod.cgroup_parent) {
            flight::stage("have systemd make its scope");
            if let Err(error) = scope::enter(runtime, pod, &link, &scope).await {
                return Err(self.undo(error).await);
            }
            failpoint::reach("pod.scoped", pod);
        }
        flight::stage("make its namespaces");
        let plan = match plan(pod, self.sysctls.clone()) {
            Ok(plan) => plan,
            Err(error) => return Err(self.undo(RunError::Files(pod.id.clone(), error)).await),
        };
        if let Err(error) = use_runtime(runtime, pod, &link).await {
            return Err(self.undo(error).await);
        }
        let (made, files) = tokio::join!(
            ask(&link, plan),
            NodeFiles::read(&runtime.paths, &pod.config)
        );
        match made {
            Ok((ReplyBody::Sandbox, mut descriptors)) => {
                failpoint::reach("pod.made", pod);
                Ok(Supervised {
                    netns: descriptors.pop(),
                    files,
                    reserved: self,
                })
            }
            Ok((other, _)) => {
                let error = mismatch("CreateSandbox", &other);
                Err(self.undo(RunError::Sandbox(pod.id.clone(), error)).await)
            }
            Err(error) => Err(self.undo(RunError::Sandbox(pod.id.clone(), error)).await),
        }
    }

    /// Undoes whatever of the pod is there; every step does nothing where there is nothing.
    async fn undo(self, error: RunError) -> RunError {
        if let RunError::Sandbox(..) = error {
            let last_words = self.pod.last_words();
            tracing::warn!(pod = %self.pod.id, last_words, "its supervisor could not make the pod");
        }
        if let Err(left) = take_apart(self.runtime, self.pod, self.turn).await {
            tracing::error!(
                pod = %self.pod.id,
                error = &left as &dyn std::error::Error,
                "undoing a pod that could not be made left something behind: it is listed as not ready, to be removed"
            );
            // With a name of its own it would keep the retry from succeeding; on no list nobody would ever remove it.
            self.runtime.inventory.release_pod_name(self.pod);
            self.runtime.happen(|news| {
                self.runtime.inventory.list_pod(self.pod);
                news.pod(Kind::Created, self.pod);
                news.pod(Kind::Stopped, self.pod);
            });
        }
        error
    }
}

/// Tells the supervisor of the external runtime, where the pod has one.
async fn use_runtime(runtime: &Runtime, pod: &Pod, link: &Link) -> Result<(), RunError> {
    let Some(made_with) = &pod.made_with else {
        return Ok(());
    };
    let (request, descriptors) = made_with
        .request(&runtime.records, &pod.id, &pod.directory)
        .map_err(|error| RunError::Runtime(pod.id.clone(), error))?;
    let sandbox = |error| RunError::Sandbox(pod.id.clone(), error);
    let greeting = link.greet().await.map_err(sandbox)?;
    let used = link.order("UseRuntime", request, descriptors).await;
    greeting.answered().await.map_err(sandbox)?;
    used.map_err(sandbox)
}

/// Both requests are on their way before the supervisor has read the first.
async fn ask(link: &Link, plan: SandboxPlan) -> Result<(ReplyBody, Vec<OwnedFd>), CallError> {
    let greeting = link.greet().await?;
    let made = link
        .call(RequestBody::CreateSandbox(plan), Vec::new())
        .await;
    greeting.answered().await?;
    made
}

/// The pod has a supervisor that holds its namespaces.
pub(super) struct Supervised<'a> {
    reserved: Reserved<'a>,
    netns: Option<OwnedFd>,
    files: NodeFiles,
}

impl<'a> Supervised<'a> {
    async fn attach(mut self) -> Result<Networked<'a>, RunError> {
        let (runtime, pod) = (self.reserved.runtime, self.reserved.pod);
        let network = match self.netns.take() {
            Some(netns) if pod.config.namespaces().net => {
                let path = runtime.netns_path(&pod.id);
                let parent = &pod.cgroup_parent;
                flight::stage("attach it to its network");
                let attached =
                    network::attach(runtime, pod.id.as_str(), path, netns, &pod.config, parent);
                match attached.await {
                    Ok(network) => Some(network),
                    Err(error) => {
                        let error = RunError::Network(pod.id.clone(), error);
                        return Err(self.reserved.undo(error).await);
                    }
                }
            }
            Some(_) | None => None,
        };
        Ok(Networked {
            supervised: self,
            network,
        })
    }
}

/// The pod has addresses, or the host's.
struct Networked<'a> {
    supervised: Supervised<'a>,
    network: Option<crate::state::NetworkRecord>,
}

impl Networked<'_> {
    async fn ready(self) -> Result<(), RunError> {
        let Networked {
            supervised: Supervised {
                reserved, files, ..
            },
            network,
        } = self;
        let (runtime, pod, turn) = (reserved.runtime, reserved.pod, reserved.turn);
        failpoint::reach("pod.attached", pod);
        flight::stage("write its files");
        let ips = network
            .as_ref()
            .map(|network| network.ips.clone())
            .unwrap_or_default();
        let label = pod.labels().map(|labels| labels.files);
        let finished = match pod.files().write(&pod.config, files, &ips, label.as_ref()) {
            Err(error) => Err(RunError::Files(pod.id.clone(), error)),
            Ok(()) => pod
                .update(turn, &runtime.records, |record| {
                    record.network = network;
                    record.stage = PodStage::Ready;
                })
                .map_err(|error| RunError::Record(pod.id.clone(), error)),
        };
        if let Err(error) = finished {
            return Err(reserved.undo(error).await);
        }
        if let Some(made_with) = pod.made_with.as_ref().filter(|one| one.has_sandbox()) {
            flight::stage("make its sandbox container");
            let made = match pod.link() {
                Some(link) => sandbox_container::run(runtime, pod, made_with, &link).await,
                None => Err(SandboxError::Supervisor(CallError::Gone)),
            };
            if let Err(error) = made {
                let error = RunError::SandboxContainer(pod.id.clone(), error);
                return Err(reserved.undo(error).await);
            }
        }
        if let Err(error) = runtime.nri.run_pod(runtime, pod).await {
            return Err(reserved.undo(RunError::Nri(pod.id.clone(), error)).await);
        }
        failpoint::reach("pod.ready", pod);
        pod.set_phase(Phase::Ready);
        // Its supervisor may have died since it last answered, when the pod was not ready to be lost.
        if pod.link().is_none() {
            let error = RunError::Sandbox(pod.id.clone(), CallError::Gone);
            return Err(reserved.undo(error).await);
        }
        runtime.happen(|news| {
            runtime.inventory.list_pod(pod);
            news.pod(Kind::Created, pod);
            news.pod(Kind::Started, pod);
            if !pod.is_ready() {
                news.pod(Kind::Stopped, pod);
            }
        });
        runtime.nri.settled_pod(&pod.id);
        Ok(())
    }
}

fn reap(child: supervisor::Child) {
    tokio::spawn(async move {
        if let Err(error) = child.wait().await {
            tracing::warn!(%error, "wait for a supervisor");
        }
    });
}

fn plan(pod: &Pod, sysctls: Vec<(String, String)>) -> Result<SandboxPlan, FilesError> {
    let namespaces = pod.config.namespaces();
    let user = pod.config.user_namespace().map(|user| {
        let map = |mappings: &[super::config::IdMapping]| {
            mappings
                .iter()
                .map(|mapping| IdMap {
                    container_id: mapping.container_id,
                    host_id: mapping.host_id,
                    length: mapping.length,
                })
                .collect()
        };
        IdMappings {
            uids: map(&user.uids),
            gids: map(&user.gids),
        }
    });
    Ok(SandboxPlan {
        id: pod.id.to_string(),
        hostname: hostname(&pod.config)?,
        namespaces,
        user,
        sysctls,
        cgroup: pod.cgroup(),
        resources: Resources::default(),
        shm_bytes: namespaces.ipc.then_some(SHM_BYTES),
        shm_label: pod.labels().map(|labels| labels.files.to_string()),
    })
}
