//! The Node Resource Interface: plugins are told of what happens to pods and containers, and change containers before they are made.
//!
//! ```text
//!  an operation ──▶ consult: which plugins are asked, and that this pod or container is on its way   (one step)
//!                      │
//!                      ▼ in the order of their indices, each at most for the request's timeout
//!                   merge (two plugins never change one thing) ──▶ validate ──▶ confine ──▶ the specification
//! ```
//!
//! A plugin that comes later is told, in that same step of its listing, of everything that is there or on its way: it loses nothing, and is
//! told of nothing twice. One that errs fails the operation; one that does not answer is let go, and the operation goes on, unless the
//! plugin is required. `docs/decisions/2026-11-21-nri.md` has why.

mod apply;
mod classes;
mod confine;
mod describe;
#[cfg(test)]
mod fields;
mod limits;
mod merge;
mod others;
mod plugin;
mod requests;
mod socket;
#[cfg(test)]
mod tests;
mod validate;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

pub(crate) use apply::ApplyError;
pub(crate) use limits::Limits;
pub(crate) use merge::Conflict;
pub(crate) use nri::api::Event;
use nri::{CallError, api};
use oci_spec::runtime::Spec;
pub(crate) use others::Others;
use plugin::Plugin;
pub(crate) use socket::start;

use crate::{
    config::NriSettings,
    container::{self, Container, Phase},
    id::{ContainerId, PodId},
    pod::Pod,
    runtime::{DISK_BOUND, Runtime, blocking},
};

/// The plugins of the node.
#[derive(Debug)]
pub(crate) struct Nri {
    config: NriSettings,
    runtime: OnceLock<Weak<Runtime>>,
    state: Mutex<State>,
    /// What is wrong, by whose name.
    trouble: Mutex<BTreeMap<String, String>>,
}

#[derive(Debug, Default)]
struct State {
    /// In the order in which they are asked.
    plugins: Vec<Arc<Plugin>>,
    /// Those whose plugins have been asked, and that are not listed yet.
    under_way: Noted,
}

/// Pods and containers for a plugin to know of.
#[derive(Debug, Default, Clone)]
pub(crate) struct Noted {
    pods: BTreeMap<PodId, Arc<Pod>>,
    /// With the specification of one that has no record of it yet.
    containers: BTreeMap<ContainerId, (Arc<Container>, Option<Arc<Spec>>)>,
}

/// Why plugins do not let something happen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NriError {
    #[error("NRI plugin {plugin} refuses {event}")]
    Refused {
        plugin: String,
        event: &'static str,
        #[source]
        source: CallError,
    },
    #[error("NRI plugin {0} is required and is not connected")]
    Missing(String),
    #[error("annotation {name}: {value:?}: {why}")]
    Annotation {
        name: String,
        value: String,
        why: &'static str,
    },
    #[error("NRI: the container cannot be changed")]
    Conflict(#[from] Conflict),
    #[error("NRI: the container cannot be changed as plugins {plugins} want it")]
    Apply {
        plugins: String,
        #[source]
        source: ApplyError,
    },
    #[error("NRI plugin {validator} does not allow what others change: {reason}")]
    Rejected { validator: String, reason: String },
    #[error("NRI: container {0} cannot be changed as its plugins want it: {1}")]
    Update(String, String),
}

impl Nri {
    pub(crate) fn new(config: NriSettings) -> Arc<Self> {
        Arc::new(Self {
            config,
            runtime: OnceLock::new(),
            state: Mutex::default(),
            trouble: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn runtime(&self) -> Option<Arc<Runtime>> {
        self.runtime.get().and_then(Weak::upgrade)
    }

    /// What an operator should know.
    pub(crate) fn trouble(&self) -> Vec<String> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = trouble
            .iter()
            .map(|(of, why)| format!("{of}: {why}"))
            .collect();
        drop(trouble);
        if self.config.enabled {
            let state = self.state();
            let missing = self.config.required.iter();
            let missing = missing.filter(|name| !state.plugins.iter().any(|one| one.is(name)));
            all.extend(missing.map(|name| {
                format!("{name}: it is required and is not connected: containers are refused")
            }));
        }
        all
    }

    fn complain(&self, of: &str, why: &str) {
        tracing::warn!(plugin = of, why, "an NRI plugin is left out");
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.insert(of.to_owned(), why.to_owned());
    }

    fn praise(&self, of: &str) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.remove(of);
    }

    /// Lists a plugin, and notes what there is for it. Its turn is taken: whatever happens from now on waits for its end.
    fn list(&self, plugin: &Arc<Plugin>) -> Noted {
        self.praise(&plugin.name);
        let mut state = self.state();
        let mut noted = state.under_way.clone();
        if let Some(runtime) = self.runtime() {
            for pod in runtime.inventory.pods() {
                if pod.is_ready() {
                    noted.pods.insert(pod.id.clone(), pod);
                }
            }
            for container in runtime.inventory.containers() {
                let lives = matches!(
                    container.phase(),
                    Phase::Created { .. } | Phase::Running { .. }
                );
                if lives && container.pod.is_ready() {
                    noted
                        .containers
                        .insert(container.id.clone(), (container, None));
                }
            }
        }
        let after = |other: &Arc<Plugin>| other.index <= plugin.index;
        let place = state.plugins.partition_point(after);
        state.plugins.insert(place, Arc::clone(plugin));
        noted
    }

    fn forget(&self, plugin: &Arc<Plugin>) {
        self.state()
            .plugins
            .retain(|other| !Arc::ptr_eq(other, plugin));
    }

    /// Which plugins an event is for, and a note of what it is about, in one step.
    fn consult(&self, note: impl FnOnce(&mut Noted)) -> Vec<Arc<Plugin>> {
        let mut state = self.state();
        note(&mut state.under_way);
        state.plugins.clone()
    }

    fn plugins(&self) -> Vec<Arc<Plugin>> {
        self.consult(|_| {})
    }

    /// A pod is listed, or gone.
    pub(crate) fn settled_pod(&self, pod: &PodId) {
        self.state().under_way.pods.remove(pod);
    }

    /// A container is listed, or gone.
    pub(crate) fn settled_container(&self, container: &ContainerId) {
        self.state().under_way.containers.remove(container);
    }

    fn knows_pod(&self, runtime: &Runtime, pod: &PodId) -> bool {
        runtime.inventory.has_pod(pod) || self.state().under_way.pods.contains_key(pod)
    }

    fn knows_container(&self, runtime: &Runtime, id: &ContainerId) -> bool {
        runtime.inventory.container(id).is_some()
            || self.state().under_way.containers.contains_key(id)
    }

    /// Asks a plugin. `None`: it does not want to know, or is gone. An error is its own answer.
    async fn ask<A: prost::Message + Default>(
        &self,
        plugin: &Arc<Plugin>,
        event: Event,
        request: &impl prost::Message,
    ) -> Result<Option<A>, NriError> {
        if !plugin.subscribes(event) || plugin.is_gone() {
            return Ok(None);
        }
        let method = method(event);
        let bound = self.config.request_timeout;
        match plugin.ask(method, request, bound).await {
            Ok(answer) => Ok(Some(answer)),
            Err(source @ CallError::Refused { code, .. })
                if code != nri::Code::DEADLINE_EXCEEDED && code != nri::Code::UNIMPLEMENTED =>
            {
                Err(NriError::Refused {
                    plugin: plugin.name.clone(),
                    event: method,
                    source,
                })
            }
            // It has no handler for what it subscribed to.
            Err(CallError::Refused { code, .. }) if code == nri::Code::UNIMPLEMENTED => Ok(None),
            Err(error) => {
                self.complain(&plugin.name, &format!("{method}: {error}"));
                plugin.peer.close(&error.to_string());
                self.forget(plugin);
                Ok(None)
            }
        }
    }

    /// Tells plugins of what has happened; nothing that they say changes it.
    async fn tell<A, R>(&self, event: Event, request: impl Fn() -> R)
    where
        A: prost::Message + Default,
        R: prost::Message,
    {
        for plugin in self.plugins() {
            if let Err(error) = self.ask::<A>(&plugin, event, &request()).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "a plugin is not content with what has happened");
            }
        }
    }

    /// Pods and containers as a plugin is told of them.
    async fn describe_all(&self, noted: Noted) -> (Vec<api::PodSandbox>, Vec<api::Container>) {
        let Some(runtime) = self.runtime() else {
            return (Vec::new(), Vec::new());
        };
        let describe = move || {
            let pods = noted.pods.values();
            let pods = pods.map(|pod| describe::pod(&runtime, pod)).collect();
            let containers = noted
                .containers
                .into_values()
                .filter_map(|(container, spec)| {
                    let spec = spec.or_else(|| container.spec(&runtime.records).ok())?;
                    Some(describe::container(&container, &spec))
                });
            (pods, containers.collect())
        };
        blocking(DISK_BOUND, describe).await.unwrap_or_default()
    }

    /// Ends containers that a plugin wants ended.
    fn evict(&self, plugin: &str, evictions: Vec<api::ContainerEviction>) {
        let Some(runtime) = self.runtime() else {
            return;
        };
        for eviction in evictions {
            let id = ContainerId::parse(&eviction.container_id);
            let Some(container) = id.and_then(|id| runtime.inventory.container(&id)) else {
                tracing::warn!(
                    plugin,
                    container = eviction.container_id,
                    "a plugin evicts a container that is not there"
                );
                continue;
            };
            tracing::info!(plugin, container = %container.id, reason = eviction.reason, "a plugin evicts a container");
            let runtime = Arc::clone(&runtime);
            tokio::spawn(async move {
                if let Err(error) = container::stop(&runtime, &container, EVICTED_WITHIN).await {
                    tracing::warn!(container = %container.id, %error, "an evicted container does not end");
                }
            });
        }
    }

    /// Changes the limits of living containers as a plugin wants it; returns those that cannot be.
    async fn apply_updates(
        &self,
        plugin: &str,
        updates: Vec<api::ContainerUpdate>,
    ) -> Vec<api::ContainerUpdate> {
        let mut failed = Vec::new();
        for update in updates {
            if let Err(why) = self.apply_update(&update).await {
                tracing::warn!(
                    plugin,
                    container = update.container_id,
                    why,
                    "a plugin cannot change a container"
                );
                failed.push(update);
            }
        }
        failed
    }

    /// What the container had before, if anything is changed.
    async fn apply_update(
        &self,
        update: &api::ContainerUpdate,
    ) -> Result<Option<(Arc<Container>, Limits)>, String> {
        let runtime = self.runtime().ok_or("the daemon is ending")?;
        let id = ContainerId::parse(&update.container_id);
        let container = id.and_then(|id| runtime.inventory.container(&id));
        let container = container.ok_or("there is no such container")?;
        let resources = update
            .linux
            .as_ref()
            .and_then(|linux| linux.resources.as_ref());
        let Some(resources) = resources else {
            return Ok(None);
        };
        let change = limits::asked(resources, &runtime.host).map_err(|error| error.to_string())?;
        let had = container::in_force(&runtime, &container, &change).await;
        let had = had.map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
        let had = change.undone(&had);
        let changed = container::update_for_plugin(&runtime, &container, change);
        // A container that is being stopped has its turn taken for as long as its grace period.
        match tokio::time::timeout(UPDATED_WITHIN, changed).await {
            Ok(Ok(())) => Ok(Some((container, had))),
            Ok(Err(error)) => Err(format!("{:#}", anyhow::Error::from(error))),
            Err(_elapsed) => Err("something else is done to it just now".to_owned()),
        }
    }
}

/// The grace period of a container that a plugin evicts: that of pods which say nothing about it.
const EVICTED_WITHIN: Duration = Duration::from_secs(30);

/// How long an update may wait for what else is done to its container.
const UPDATED_WITHIN: Duration = Duration::from_secs(10);

impl Plugin {
    /// Whether a configuration or an annotation means it: by name, with or without its index.
    fn is(&self, name: &str) -> bool {
        !self.is_gone() && (self.base == name || self.name == name)
    }
}

/// The method of service Plugin that an event is.
fn method(event: Event) -> &'static str {
    match event {
        Event::RunPodSandbox => "RunPodSandbox",
        Event::StopPodSandbox => "StopPodSandbox",
        Event::RemovePodSandbox => "RemovePodSandbox",
        Event::CreateContainer => "CreateContainer",
        Event::PostCreateContainer => "PostCreateContainer",
        Event::StartContainer => "StartContainer",
        Event::PostStartContainer => "PostStartContainer",
        Event::UpdateContainer => "UpdateContainer",
        Event::PostUpdateContainer => "PostUpdateContainer",
        Event::StopContainer => "StopContainer",
        Event::RemoveContainer => "RemoveContainer",
        Event::UpdatePodSandbox => "UpdatePodSandbox",
        Event::PostUpdatePodSandbox => "PostUpdatePodSandbox",
        Event::ValidateContainerAdjustment => "ValidateContainerAdjustment",
        // Neither is ever sent.
        Event::Unknown | Event::Last => "StateChange",
    }
}
