use std::time::Duration;

use cri::{
    client::Client,
    v1::{
        ContainerConfig, ContainerStatusRequest, CreateContainerRequest, ExecRequest,
        ExecSyncRequest, ImageSpec, ImageStatusRequest, ListContainerStatsRequest,
        ListContainersRequest, ListImagesRequest, ListPodSandboxRequest, PodSandboxConfig,
        PodSandboxFilter, PodSandboxStatusRequest, PortForwardRequest, PullImageRequest,
        RemoveContainerRequest, RemoveImageRequest, RemovePodSandboxRequest, RunPodSandboxRequest,
        StartContainerRequest, StatusRequest, StopContainerRequest, StopPodSandboxRequest,
        VersionRequest, VersionResponse,
    },
};
use futures_util::{StreamExt, stream};
use tonic::Status;

use super::{BenchError, stop::Stop};

/// How long one call may take before the run is given up.
const BOUND: Duration = Duration::from_secs(60);

/// How long the image may take to come.
const PULL_BOUND: Duration = Duration::from_secs(600);

/// The calls of a benchmark at one endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Calls {
    pub(crate) subject: String,
    client: Client,
    handler: String,
    stop: Stop,
}

/// Pods that are removed at a time when a run ends.
const REMOVALS: usize = 8;

/// A call, refused once the run is to stop, whose error names the subject and `$what`.
macro_rules! call {
    ($calls:ident, $service:ident.$method:ident($request:expr) within $bound:expr, $($what:tt)+) => {{
        $calls.stop.check()?;
        $calls
            .client
            .$service(Some($bound), $request, async |mut rpc, request| rpc.$method(request).await)
            .await
            .map_err(|status| $calls.failed(format!($($what)+), status))
    }};
}

impl Calls {
    /// Once `stop` is told, no call is begun any more.
    pub(crate) fn new(subject: &str, client: Client, handler: &str, stop: &Stop) -> Self {
        Self {
            subject: subject.to_owned(),
            client,
            handler: handler.to_owned(),
            stop: stop.clone(),
        }
    }

    /// The same endpoint, for the removal of what a run has made.
    pub(crate) fn unstoppable(&self) -> Self {
        Self {
            stop: Stop::default(),
            ..self.clone()
        }
    }

    /// The same endpoint, whose pods have this handler.
    pub(crate) fn through(&self, handler: &str) -> Self {
        Self {
            handler: handler.to_owned(),
            ..self.clone()
        }
    }

    fn failed(&self, operation: String, status: Status) -> BenchError {
        BenchError::Rpc {
            subject: self.subject.clone(),
            operation,
            status: Box::new(status),
        }
    }

    pub(crate) async fn version(&self) -> Result<VersionResponse, BenchError> {
        let request = VersionRequest::default();
        call!(self, runtime.version(request) within BOUND, "Version")
    }

    /// The handlers that the runtime lists, by their names.
    pub(crate) async fn handlers(&self) -> Result<Vec<String>, BenchError> {
        let request = StatusRequest { verbose: false };
        let reply = call!(self, runtime.status(request) within BOUND, "Status")?;
        let names = reply.runtime_handlers.into_iter().map(|one| one.name);
        Ok(names.filter(|name| !name.is_empty()).collect())
    }

    /// Pulls the image where the runtime does not have it.
    pub(crate) async fn ensure_image(&self, image: &str) -> Result<(), BenchError> {
        match self.has_image(image).await? {
            true => Ok(()),
            false => self.pull(image).await,
        }
    }

    pub(crate) async fn has_image(&self, image: &str) -> Result<bool, BenchError> {
        let request = ImageStatusRequest {
            image: Some(named(image)),
            verbose: false,
        };
        call!(self, image.image_status(request) within BOUND, "ImageStatus of {image}")
            .map(|reply| reply.image.is_some())
    }

    pub(crate) async fn list_images(&self) -> Result<usize, BenchError> {
        let request = ListImagesRequest::default();
        call!(self, image.list_images(request) within BOUND, "ListImages")
            .map(|reply| reply.images.len())
    }

    pub(crate) async fn pull(&self, image: &str) -> Result<(), BenchError> {
        let request = PullImageRequest {
            image: Some(named(image)),
            ..PullImageRequest::default()
        };
        call!(self, image.pull_image(request) within PULL_BOUND, "PullImage of {image}").map(drop)
    }

    pub(crate) async fn remove_image(&self, image: &str) -> Result<(), BenchError> {
        let request = RemoveImageRequest {
            image: Some(named(image)),
        };
        call!(self, image.remove_image(request) within BOUND, "RemoveImage of {image}").map(drop)
    }

    pub(crate) async fn run_pod(&self, config: PodSandboxConfig) -> Result<String, BenchError> {
        let request = RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: self.handler.clone(),
        };
        call!(self, runtime.run_pod_sandbox(request) within BOUND, "RunPodSandbox")
            .map(|reply| reply.pod_sandbox_id)
    }

    pub(crate) async fn pod_status(&self, id: &str) -> Result<(), BenchError> {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: true,
        };
        call!(self, runtime.pod_sandbox_status(request) within BOUND, "PodSandboxStatus {id}")
            .map(drop)
    }

    pub(crate) async fn container_status(&self, id: &str) -> Result<(), BenchError> {
        let request = ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: true,
        };
        call!(self, runtime.container_status(request) within BOUND, "ContainerStatus {id}")
            .map(drop)
    }

    pub(crate) async fn create(
        &self,
        pod: &str,
        config: ContainerConfig,
        pod_config: PodSandboxConfig,
    ) -> Result<String, BenchError> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config),
            sandbox_config: Some(pod_config),
        }
        .naming_the_users_images();
        call!(self, runtime.create_container(request) within BOUND, "CreateContainer in {pod}")
            .map(|reply| reply.container_id)
    }

    pub(crate) async fn start(&self, id: &str) -> Result<(), BenchError> {
        let request = StartContainerRequest {
            container_id: id.to_owned(),
        };
        call!(self, runtime.start_container(request) within BOUND, "StartContainer {id}").map(drop)
    }

    pub(crate) async fn exec_true(&self, id: &str) -> Result<(), BenchError> {
        let request = ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: vec!["true".to_owned()],
            timeout: 30,
        };
        let reply =
            call!(self, runtime.exec_sync(request) within BOUND, "ExecSync of true in {id}")?;
        match reply.exit_code {
            0 => Ok(()),
            code => Err(self.failed(
                format!("ExecSync of true in {id}"),
                Status::internal(format!("it ended with {code}")),
            )),
        }
    }

    /// Where to run a command with its standard output, and its standard input if asked for.
    pub(crate) async fn exec_url(
        &self,
        id: &str,
        command: &[&str],
        stdin: bool,
    ) -> Result<String, BenchError> {
        let request = ExecRequest {
            container_id: id.to_owned(),
            cmd: command.iter().map(|word| (*word).to_owned()).collect(),
            tty: false,
            stdin,
            stdout: true,
            stderr: false,
        };
        call!(self, runtime.exec(request) within BOUND, "Exec in {id}").map(|reply| reply.url)
    }

    pub(crate) async fn port_forward_url(
        &self,
        pod: &str,
        port: u16,
    ) -> Result<String, BenchError> {
        let request = PortForwardRequest {
            pod_sandbox_id: pod.to_owned(),
            port: vec![port.into()],
        };
        call!(self, runtime.port_forward(request) within BOUND, "PortForward to {pod}")
            .map(|reply| reply.url)
    }

    pub(crate) async fn stop(&self, id: &str) -> Result<(), BenchError> {
        let request = StopContainerRequest {
            container_id: id.to_owned(),
            timeout: 10,
        };
        call!(self, runtime.stop_container(request) within BOUND, "StopContainer {id}").map(drop)
    }

    pub(crate) async fn remove(&self, id: &str) -> Result<(), BenchError> {
        let request = RemoveContainerRequest {
            container_id: id.to_owned(),
        };
        call!(self, runtime.remove_container(request) within BOUND, "RemoveContainer {id}")
            .map(drop)
    }

    pub(crate) async fn stop_pod(&self, id: &str) -> Result<(), BenchError> {
        let request = StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        call!(self, runtime.stop_pod_sandbox(request) within BOUND, "StopPodSandbox {id}").map(drop)
    }

    pub(crate) async fn remove_pod(&self, id: &str) -> Result<(), BenchError> {
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        call!(self, runtime.remove_pod_sandbox(request) within BOUND, "RemovePodSandbox {id}")
            .map(drop)
    }

    pub(crate) async fn list_containers(&self) -> Result<usize, BenchError> {
        let request = ListContainersRequest::default();
        call!(self, runtime.list_containers(request) within BOUND, "ListContainers")
            .map(|reply| reply.containers.len())
    }

    pub(crate) async fn list_container_stats(&self) -> Result<usize, BenchError> {
        let request = ListContainerStatsRequest::default();
        call!(self, runtime.list_container_stats(request) within BOUND, "ListContainerStats")
            .map(|reply| reply.stats.len())
    }

    pub(crate) async fn list_pods(&self) -> Result<usize, BenchError> {
        let request = ListPodSandboxRequest::default();
        call!(self, runtime.list_pod_sandbox(request) within BOUND, "ListPodSandbox")
            .map(|reply| reply.items.len())
    }

    /// Stops and removes every pod of a run, also after one could not be removed and when the run was stopped; the first failure is told.
    pub(crate) async fn remove_run(&self, run: &str) -> Result<(), BenchError> {
        let calls = self.unstoppable();
        let label = ("longshore.bench/run".to_owned(), run.to_owned());
        let request = ListPodSandboxRequest {
            filter: Some(PodSandboxFilter {
                label_selector: [label].into(),
                ..PodSandboxFilter::default()
            }),
        };
        let reply = call!(calls, runtime.list_pod_sandbox(request) within BOUND, "ListPodSandbox")?;
        let removals = stream::iter(&reply.items).map(async |pod| {
            calls.stop_pod(&pod.id).await?;
            calls.remove_pod(&pod.id).await
        });
        let removed = removals.buffer_unordered(REMOVALS);
        removed.fold(Ok(()), async |all, one| all.and(one)).await
    }
}

fn named(image: &str) -> ImageSpec {
    ImageSpec {
        image: image.to_owned(),
        ..ImageSpec::default()
    }
}
