//! What plugins are asked, one function an event.

use std::sync::Arc;

use nri::api;
use oci_spec::runtime::Spec;

use super::{
    Event, Nri, NriError, apply, classes, confine, describe,
    limits::{self, Limits},
    merge::{Merged, Owners, take_resources},
    others::Others,
    plugin::Plugin,
    validate,
};
use crate::{
    cdi::Requested,
    container::Container,
    pod::{Pod, config::LinuxResources},
    runtime::Runtime,
    state::PodResources,
};

/// A container as plugins want it.
#[derive(Debug)]
pub(crate) struct Adjusted {
    pub(crate) spec: Spec,
    /// Devices that they ask for beside the request's.
    pub(crate) devices: Vec<Requested>,
    /// Its limits, where they are not the request's.
    pub(crate) limits: Option<LinuxResources>,
    /// What is to become of others.
    pub(crate) others: Others,
}

/// An update as plugins want it.
#[derive(Debug)]
pub(crate) struct Updated {
    pub(crate) limits: Limits,
    pub(crate) others: Others,
}

impl Nri {
    /// A pod is made, and not listed yet.
    pub(crate) async fn run_pod(&self, runtime: &Runtime, pod: &Arc<Pod>) -> Result<(), NriError> {
        if !self.config.enabled {
            return Ok(());
        }
        let plugins = self.consult(|noted| {
            noted.pods.insert(pod.id.clone(), Arc::clone(pod));
        });
        for plugin in &plugins {
            let request = api::RunPodSandboxRequest {
                pod: Some(describe::pod(runtime, pod)),
            };
            let answer = self.ask(plugin, Event::RunPodSandbox, &request).await?;
            let _nothing: Option<api::RunPodSandboxResponse> = answer;
        }
        self.heard(&plugins, pod, None)
    }

    /// Its containers have ended; its network is still there.
    pub(crate) async fn stop_pod(&self, runtime: &Runtime, pod: &Pod) {
        if !self.config.enabled || !self.knows_pod(runtime, &pod.id) {
            return;
        }
        for container in runtime.inventory.containers_of(&pod.id) {
            self.stop(runtime, &container).await;
        }
        let request = || api::StopPodSandboxRequest {
            pod: Some(describe::pod(runtime, pod)),
        };
        self.tell::<api::StopPodSandboxResponse, _>(Event::StopPodSandbox, request)
            .await;
    }

    /// Nothing of it is left but its names.
    pub(crate) async fn remove_pod(&self, runtime: &Runtime, pod: &Pod) {
        if !self.config.enabled || !self.knows_pod(runtime, &pod.id) {
            return;
        }
        let request = || api::RemovePodSandboxRequest {
            pod: Some(describe::pod(runtime, pod)),
        };
        self.tell::<api::RemovePodSandboxResponse, _>(Event::RemovePodSandbox, request)
            .await;
    }

    /// The kubelet has changed what the pod may use.
    pub(crate) async fn update_pod(
        &self,
        runtime: &Runtime,
        pod: &Pod,
        change: &PodResources,
    ) -> Result<(), NriError> {
        let request = api::UpdatePodSandboxRequest {
            pod: Some(describe::pod(runtime, pod)),
            overhead_linux_resources: change.overhead.as_ref().map(describe::asked),
            linux_resources: change.resources.as_ref().map(describe::asked),
        };
        let plugins = self.plugins();
        for plugin in &plugins {
            let answer = self.ask(plugin, Event::UpdatePodSandbox, &request).await?;
            let _nothing: Option<api::UpdatePodSandboxResponse> = answer;
        }
        self.heard(&plugins, pod, None)
    }

    /// One that is required and cannot say no has not said yes.
    fn heard(
        &self,
        plugins: &[Arc<Plugin>],
        pod: &Pod,
        container: Option<&Container>,
    ) -> Result<(), NriError> {
        if !self.config.enabled {
            return Ok(());
        }
        let name = container.map(|container| container.config.metadata.name.as_str());
        validate::required(&self.config, plugins, &pod.config.annotations, name)
    }

    pub(crate) async fn pod_updated(&self, runtime: &Runtime, pod: &Pod) {
        let request = || api::PostUpdatePodSandboxRequest {
            pod: Some(describe::pod(runtime, pod)),
        };
        self.tell::<api::PostUpdatePodSandboxResponse, _>(Event::PostUpdatePodSandbox, request)
            .await;
    }

    /// A container is specified and not made. Plugins change its specification one after the other, each seeing what those before it have
    /// changed; nothing is changed if any of them errs. `None`: there is no plugin.
    pub(crate) async fn create(
        &self,
        runtime: &Runtime,
        container: &Arc<Container>,
        spec: &Arc<Spec>,
    ) -> Result<Option<Adjusted>, NriError> {
        if !self.config.enabled {
            return Ok(None);
        }
        let plugins = self.consult(|noted| {
            let note = (Arc::clone(container), Some(Arc::clone(spec)));
            noted.containers.insert(container.id.clone(), note);
        });
        if plugins.is_empty() {
            self.heard(&plugins, &container.pod, Some(container))?;
            return Ok(None);
        }
        let mut adjusted = Adjusted {
            spec: Spec::clone(spec),
            devices: Vec::new(),
            limits: None,
            others: Others::default(),
        };
        let pod = describe::pod(runtime, &container.pod);
        let mut merged = Merged::default();
        for plugin in &plugins {
            let request = api::CreateContainerRequest {
                pod: Some(pod.clone()),
                container: Some(describe::container(container, &adjusted.spec)),
            };
            let answer = self.ask(plugin, Event::CreateContainer, &request).await?;
            let Some(answer): Option<api::CreateContainerResponse> = answer else {
                continue;
            };
            if let Some(adjust) = answer.adjust {
                merged.take(adjust, &plugin.name)?;
                adjusted.spec = Spec::clone(spec);
                apply::apply(&mut adjusted.spec, &merged.adjust, &runtime.host).map_err(
                    |source| NriError::Apply {
                        plugins: plugin.name.clone(),
                        source,
                    },
                )?;
            }
            let others = &mut adjusted.others;
            others.take(answer.update, &plugin.name, container.id.as_str())?;
            others.evict(answer.evict, &plugin.name);
        }
        let privileged = container.config.linux.security_context.privileged;
        let wrong = |source| NriError::Apply {
            plugins: merged.everybody(),
            source,
        };
        confine::check(spec, &adjusted.spec, privileged).map_err(wrong)?;
        let resources = merged.adjust.linux.as_ref();
        if let Some(resources) = resources.and_then(|linux| linux.resources.as_ref()) {
            let given = classes::give(runtime, &mut adjusted.spec, resources).await;
            given.map_err(wrong)?;
        }
        if let Some(linux) = &merged.adjust.linux {
            let asked = &container.config.linux.resources;
            let limits = limits::from_the_first(asked, linux, &runtime.host).map_err(wrong)?;
            adjusted.limits = Some(limits);
        }
        self.heard(&plugins, &container.pod, Some(container))?;
        validate::built_in(&self.config, &merged.owners)?;
        let question = api::ValidateContainerAdjustmentRequest {
            pod: Some(pod),
            container: Some(describe::container(container, spec)),
            adjust: Some(merged.adjust.clone()),
            update: adjusted.others.list(),
            owners: Some(api::OwningPlugins {
                owners: [(container.id.to_string(), merged.owners.0.clone())].into(),
            }),
            plugins: plugins
                .iter()
                .map(|plugin| api::PluginInstance {
                    name: plugin.base.clone(),
                    index: plugin.index.clone(),
                })
                .collect(),
        };
        for plugin in &plugins {
            let answer = self
                .ask(plugin, Event::ValidateContainerAdjustment, &question)
                .await?;
            let answer: Option<api::ValidateContainerAdjustmentResponse> = answer;
            if let Some(answer) = answer.filter(|answer| answer.reject) {
                return Err(NriError::Rejected {
                    validator: plugin.name.clone(),
                    reason: answer.reason,
                });
            }
        }
        let devices = merged.adjust.cdi_devices.into_iter();
        adjusted.devices = devices
            .map(|device| Requested {
                origin: "adjustment.CDI_devices".to_owned(),
                name: device.name,
            })
            .collect();
        Ok(Some(adjusted))
    }

    pub(crate) async fn created(&self, runtime: &Runtime, container: &Container) {
        let request = || api::PostCreateContainerRequest {
            pod: Some(describe::pod(runtime, &container.pod)),
            container: self.now(runtime, container),
        };
        self.tell::<api::PostCreateContainerResponse, _>(Event::PostCreateContainer, request)
            .await;
    }

    pub(crate) async fn start(
        &self,
        runtime: &Runtime,
        container: &Container,
    ) -> Result<(), NriError> {
        let plugins = self.plugins();
        if plugins.is_empty() {
            return self.heard(&plugins, &container.pod, Some(container));
        }
        let request = api::StartContainerRequest {
            pod: Some(describe::pod(runtime, &container.pod)),
            container: self.now(runtime, container),
        };
        for plugin in &plugins {
            let answer = self.ask(plugin, Event::StartContainer, &request).await?;
            let _nothing: Option<api::StartContainerResponse> = answer;
        }
        self.heard(&plugins, &container.pod, Some(container))
    }

    pub(crate) async fn started(&self, runtime: &Runtime, container: &Container) {
        let request = || api::PostStartContainerRequest {
            pod: Some(describe::pod(runtime, &container.pod)),
            container: self.now(runtime, container),
        };
        self.tell::<api::PostStartContainerResponse, _>(Event::PostStartContainer, request)
            .await;
    }

    /// What a request for other limits comes to. Each plugin sees what those before it have made of it.
    pub(crate) async fn update(
        &self,
        runtime: &Runtime,
        container: &Container,
        change: LinuxResources,
    ) -> Result<Updated, NriError> {
        let plugins = self.plugins();
        let mut others = Others::default();
        if plugins.is_empty() {
            self.heard(&plugins, &container.pod, Some(container))?;
            let limits = change.into();
            return Ok(Updated { limits, others });
        }
        let mut resources = describe::asked(&change);
        let mut owners = Owners::default();
        let own = container.id.as_str();
        for plugin in &plugins {
            let request = api::UpdateContainerRequest {
                pod: Some(describe::pod(runtime, &container.pod)),
                container: self.now(runtime, container),
                linux_resources: Some(resources.clone()),
            };
            let answer = self.ask(plugin, Event::UpdateContainer, &request).await?;
            let Some(answer): Option<api::UpdateContainerResponse> = answer else {
                continue;
            };
            let (ours, theirs): (Vec<_>, Vec<_>) = answer
                .update
                .into_iter()
                .partition(|one| one.container_id == own);
            for given in ours.into_iter().filter_map(|one| one.linux?.resources) {
                take_resources(&mut owners, &mut resources, given, &plugin.name)?;
            }
            others.take(theirs, &plugin.name, own)?;
            others.evict(answer.evict, &plugin.name);
        }
        self.heard(&plugins, &container.pod, Some(container))?;
        let mut limits =
            limits::asked(&resources, &runtime.host).map_err(|source| NriError::Apply {
                plugins: Merged {
                    owners,
                    ..Merged::default()
                }
                .everybody(),
                source,
            })?;
        limits.asked.oom_score_adj = change.oom_score_adj;
        Ok(Updated { limits, others })
    }

    pub(crate) async fn updated(&self, runtime: &Runtime, container: &Container) {
        let request = || api::PostUpdateContainerRequest {
            pod: Some(describe::pod(runtime, &container.pod)),
            container: self.now(runtime, container),
        };
        self.tell::<api::PostUpdateContainerResponse, _>(Event::PostUpdateContainer, request)
            .await;
    }

    /// A container has ended: plugins are told in a task of their own.
    pub(crate) fn ended(self: &Arc<Self>, container: &Arc<Container>) {
        if !self.config.enabled || self.plugins().is_empty() {
            return;
        }
        let (nri, container) = (Arc::clone(self), Arc::clone(container));
        tokio::spawn(async move {
            // Of one that ends at once its start is told first.
            drop(container.turn().await);
            if let Some(runtime) = nri.runtime() {
                nri.stop(&runtime, &container).await;
            }
        });
    }

    /// Tells plugins that a container has ended, once; whoever comes second waits for the first.
    pub(crate) async fn stop(&self, runtime: &Runtime, container: &Container) {
        if !self.config.enabled || !container.has_exited() {
            return;
        }
        let told = container.end_told.get_or_init(|| async {
            for plugin in self.plugins() {
                let request = api::StopContainerRequest {
                    pod: Some(describe::pod(runtime, &container.pod)),
                    container: self.now(runtime, container),
                };
                match self.ask(&plugin, Event::StopContainer, &request).await {
                    Ok(None) => {}
                    Ok(Some(api::StopContainerResponse { update })) => {
                        self.apply_updates(&plugin.name, update).await;
                    }
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(error, "a plugin is not content with what has happened");
                    }
                }
            }
        });
        told.await;
    }

    /// Nothing of it is left but its names. `described` is how it was.
    pub(crate) async fn remove(&self, runtime: &Runtime, container: &Container) {
        if !self.config.enabled || !self.knows_container(runtime, &container.id) {
            return;
        }
        let request = || api::RemoveContainerRequest {
            pod: Some(describe::pod(runtime, &container.pod)),
            container: self.now(runtime, container),
        };
        self.tell::<api::RemoveContainerResponse, _>(Event::RemoveContainer, request)
            .await;
    }

    /// A container as it is at this moment.
    fn now(&self, runtime: &Runtime, container: &Container) -> Option<api::Container> {
        match container.spec(&runtime.records) {
            Ok(spec) => Some(describe::container(container, &spec)),
            // It was never specified to the end, or its record is gone: its names are what there is.
            Err(_gone) => Some(describe::container(container, &Spec::default())),
        }
    }
}
