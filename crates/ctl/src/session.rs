use std::time::Duration;

use cri::client::{Client, Endpoint};
use cri::v1::*;
use streaming::client::Wanted;
use tokio::sync::OnceCell;
use tonic::Streaming;

use crate::error::Error;
use crate::settings::Settings;

/// Between two attempts to connect, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The connections of one invocation, made when first needed, and one method per RPC: each has its bound, and its error names the
/// operation and the thing.
#[derive(Debug)]
pub(crate) struct Session {
    settings: Settings,
    runtime: OnceCell<Client>,
    image: OnceCell<Client>,
}

/// Both lines of a call: which client, and which method.
macro_rules! call {
    ($session:ident.$service:ident.$method:ident($request:expr), $deadline:expr, $($operation:tt)+) => {{
        let deadline: Option<Duration> = $deadline;
        $session
            .$service()
            .await?
            .$service(deadline, $request, async |mut rpc, request| rpc.$method(request).await)
            .await
            .map_err(|status| Error::rpc(format!($($operation)+), status))
    }};
}

mod files;
mod images;

impl Session {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            runtime: OnceCell::new(),
            image: OnceCell::new(),
        }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn program(&self) -> &'static str {
        self.settings.program
    }

    async fn runtime(&self) -> Result<&Client, Error> {
        let connect = || self.connect(&self.settings.runtime_endpoint);
        self.runtime.get_or_try_init(connect).await
    }

    async fn image(&self) -> Result<&Client, Error> {
        if self.settings.image_endpoint == self.settings.runtime_endpoint {
            return self.runtime().await;
        }
        let connect = || self.connect(&self.settings.image_endpoint);
        self.image.get_or_try_init(connect).await
    }

    /// Again, where that was asked for: a runtime that is just being started answers soon.
    async fn connect(&self, endpoint: &Endpoint) -> Result<Client, Error> {
        let mut left = self.settings.max_retries;
        let mut pause = FIRST_PAUSE;
        loop {
            match Client::connect(endpoint.clone(), self.settings.query_timeout).await {
                Ok(client) => return Ok(client),
                Err(error) if left == Some(0) => return Err(error.into()),
                Err(_) => {}
            }
            left = left.map(|left| left - 1);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn query(&self) -> Option<Duration> {
        Some(self.settings.query_timeout)
    }

    fn work(&self) -> Option<Duration> {
        Some(self.settings.work_timeout)
    }
}

/// The runtime itself.
impl Session {
    pub(crate) async fn version(&self) -> Result<VersionResponse, Error> {
        let request = VersionRequest {
            version: "v1".to_owned(),
        };
        call!(
            self.runtime.version(request),
            self.query(),
            "get the runtime's version"
        )
    }

    pub(crate) async fn status(&self, verbose: bool) -> Result<StatusResponse, Error> {
        let request = StatusRequest { verbose };
        call!(
            self.runtime.status(request),
            self.query(),
            "get the runtime's status"
        )
    }

    pub(crate) async fn runtime_config(&self) -> Result<RuntimeConfigResponse, Error> {
        let request = RuntimeConfigRequest {};
        call!(
            self.runtime.runtime_config(request),
            self.query(),
            "get the runtime's configuration"
        )
    }

    /// An empty CIDR is sent as it is: runtimes leave what they have.
    pub(crate) async fn update_runtime_config(&self, pod_cidr: String) -> Result<(), Error> {
        let network_config = Some(NetworkConfig { pod_cidr });
        let request = UpdateRuntimeConfigRequest {
            runtime_config: Some(RuntimeConfig { network_config }),
        };
        call!(
            self.runtime.update_runtime_config(request),
            self.work(),
            "update the runtime's configuration"
        )
        .map(drop)
    }
}

/// Pods.
impl Session {
    pub(crate) async fn pods(&self, filter: PodSandboxFilter) -> Result<Vec<PodSandbox>, Error> {
        let request = ListPodSandboxRequest {
            filter: Some(filter),
        };
        call!(
            self.runtime.list_pod_sandbox(request),
            self.query(),
            "list pods"
        )
        .map(|reply| reply.items)
    }

    pub(crate) async fn pod_status(
        &self,
        id: &str,
        verbose: bool,
    ) -> Result<PodSandboxStatusResponse, Error> {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose,
        };
        call!(
            self.runtime.pod_sandbox_status(request),
            self.query(),
            "get the status of pod {id}"
        )
    }

    pub(crate) async fn run_pod(
        &self,
        config: PodSandboxConfig,
        handler: &str,
        bound: Option<Duration>,
    ) -> Result<String, Error> {
        let name = pod_name(&config);
        let request = RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: handler.to_owned(),
        };
        call!(
            self.runtime.run_pod_sandbox(request),
            bound.or(self.work()),
            "run pod {name}"
        )
        .map(|reply| reply.pod_sandbox_id)
    }

    pub(crate) async fn stop_pod(&self, id: &str) -> Result<(), Error> {
        let request = StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        call!(
            self.runtime.stop_pod_sandbox(request),
            self.work(),
            "stop pod {id}"
        )
        .map(drop)
    }

    pub(crate) async fn remove_pod(&self, id: &str) -> Result<(), Error> {
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        call!(
            self.runtime.remove_pod_sandbox(request),
            self.work(),
            "remove pod {id}"
        )
        .map(drop)
    }

    pub(crate) async fn pod_stats(
        &self,
        filter: PodSandboxStatsFilter,
    ) -> Result<Vec<PodSandboxStats>, Error> {
        let request = ListPodSandboxStatsRequest {
            filter: Some(filter),
        };
        call!(
            self.runtime.list_pod_sandbox_stats(request),
            self.query(),
            "list the pods' statistics"
        )
        .map(|reply| reply.stats)
    }

    pub(crate) async fn pod_metrics(&self) -> Result<ListPodSandboxMetricsResponse, Error> {
        let request = ListPodSandboxMetricsRequest::default();
        call!(
            self.runtime.list_pod_sandbox_metrics(request),
            self.query(),
            "list the pods' metrics"
        )
    }

    pub(crate) async fn metric_descriptors(&self) -> Result<ListMetricDescriptorsResponse, Error> {
        let request = ListMetricDescriptorsRequest::default();
        call!(
            self.runtime.list_metric_descriptors(request),
            self.query(),
            "list what metrics there are"
        )
    }

    /// Without a bound: they come as long as things happen.
    pub(crate) async fn events(&self) -> Result<Streaming<ContainerEventResponse>, Error> {
        let mut rpc = self.runtime().await?.runtime_service();
        let events = rpc.get_container_events(GetEventsRequest::default()).await;
        let events = events.map_err(|status| Error::rpc("ask for events", status))?;
        Ok(events.into_inner())
    }
}

/// Containers.
impl Session {
    pub(crate) async fn containers(
        &self,
        filter: ContainerFilter,
    ) -> Result<Vec<Container>, Error> {
        let request = ListContainersRequest {
            filter: Some(filter),
        };
        call!(
            self.runtime.list_containers(request),
            self.query(),
            "list containers"
        )
        .map(|reply| reply.containers)
    }

    pub(crate) async fn container_status(
        &self,
        id: &str,
        verbose: bool,
    ) -> Result<ContainerStatusResponse, Error> {
        let request = ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose,
        };
        call!(
            self.runtime.container_status(request),
            self.query(),
            "get the status of container {id}"
        )
    }

    pub(crate) async fn create_container(
        &self,
        pod: &str,
        config: ContainerConfig,
        sandbox: Option<PodSandboxConfig>,
        bound: Option<Duration>,
    ) -> Result<String, Error> {
        let name = config.metadata.as_ref().map_or("", |m| &m.name).to_owned();
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config),
            sandbox_config: sandbox,
        }
        .naming_the_users_images();
        call!(
            self.runtime.create_container(request),
            bound.or(self.work()),
            "create container {name:?} in pod {pod}"
        )
        .map(|reply| reply.container_id)
    }

    pub(crate) async fn start_container(&self, id: &str) -> Result<(), Error> {
        let request = StartContainerRequest {
            container_id: id.to_owned(),
        };
        call!(
            self.runtime.start_container(request),
            self.work(),
            "start container {id}"
        )
        .map(drop)
    }

    /// `grace_seconds` come on top of the bound.
    pub(crate) async fn stop_container(&self, id: &str, grace_seconds: i64) -> Result<(), Error> {
        let request = StopContainerRequest {
            container_id: id.to_owned(),
            timeout: grace_seconds,
        };
        let grace = Duration::from_secs(u64::try_from(grace_seconds).unwrap_or(0));
        let bound = self.settings.work_timeout.saturating_add(grace);
        call!(
            self.runtime.stop_container(request),
            Some(bound),
            "stop container {id}"
        )
        .map(drop)
    }

    pub(crate) async fn remove_container(&self, id: &str) -> Result<(), Error> {
        let request = RemoveContainerRequest {
            container_id: id.to_owned(),
        };
        call!(
            self.runtime.remove_container(request),
            self.work(),
            "remove container {id}"
        )
        .map(drop)
    }

    pub(crate) async fn update_container(
        &self,
        id: &str,
        resources: LinuxContainerResources,
    ) -> Result<(), Error> {
        let request = UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(resources),
            ..UpdateContainerResourcesRequest::default()
        };
        call!(
            self.runtime.update_container_resources(request),
            self.work(),
            "update container {id}"
        )
        .map(drop)
    }

    /// `location` is a file that the runtime writes. Unbounded: a checkpoint is as long as the memory is large.
    pub(crate) async fn checkpoint_container(
        &self,
        id: &str,
        location: String,
    ) -> Result<(), Error> {
        let request = CheckpointContainerRequest {
            container_id: id.to_owned(),
            location,
            timeout: 0,
        };
        call!(
            self.runtime.checkpoint_container(request),
            None,
            "checkpoint container {id}"
        )
        .map(drop)
    }

    /// `directory` is one that the runtime writes into. Unbounded, as for a container.
    pub(crate) async fn checkpoint_pod(
        &self,
        id: &str,
        directory: String,
        containers: Vec<String>,
    ) -> Result<(), Error> {
        let request = CheckpointPodRequest {
            pod_sandbox_id: id.to_owned(),
            output_path: directory,
            container_ids: containers,
            ..CheckpointPodRequest::default()
        };
        call!(
            self.runtime.checkpoint_pod(request),
            None,
            "checkpoint pod {id}"
        )
        .map(drop)
    }

    /// `directory` holds a checkpoint of a pod.
    pub(crate) async fn restore_pod(
        &self,
        directory: String,
        config: PodSandboxConfig,
        handler: &str,
        containers: Vec<ContainerConfig>,
    ) -> Result<RestorePodResponse, Error> {
        let name = pod_name(&config);
        let request = RestorePodRequest {
            checkpoint_path: directory,
            config: Some(config),
            runtime_handler: handler.to_owned(),
            container_configs: containers,
            ..RestorePodRequest::default()
        };
        call!(
            self.runtime.restore_pod(request),
            None,
            "restore pod {name}"
        )
    }

    /// `timeout_seconds` of 0 lets the command take as long as it likes.
    pub(crate) async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout_seconds: i64,
    ) -> Result<ExecSyncResponse, Error> {
        let request = ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command,
            timeout: timeout_seconds,
        };
        let bound = match u64::try_from(timeout_seconds) {
            Ok(0) | Err(_) => None,
            Ok(seconds) => Some(Duration::from_secs(seconds) + self.settings.query_timeout),
        };
        call!(
            self.runtime.exec_sync(request),
            bound,
            "exec in container {id}"
        )
    }

    /// A URL to run the command by.
    pub(crate) async fn exec_url(
        &self,
        id: &str,
        command: Vec<String>,
        wanted: Wanted,
    ) -> Result<String, Error> {
        let request = ExecRequest {
            container_id: id.to_owned(),
            cmd: command,
            tty: wanted.tty,
            stdin: wanted.stdin,
            stdout: wanted.stdout,
            stderr: wanted.stderr,
        };
        call!(
            self.runtime.exec(request),
            self.query(),
            "exec in container {id}"
        )
        .map(|reply| reply.url)
    }

    /// A URL to attach by.
    pub(crate) async fn attach_url(&self, id: &str, wanted: Wanted) -> Result<String, Error> {
        let request = AttachRequest {
            container_id: id.to_owned(),
            tty: wanted.tty,
            stdin: wanted.stdin,
            stdout: wanted.stdout,
            stderr: wanted.stderr,
        };
        call!(
            self.runtime.attach(request),
            self.query(),
            "attach to container {id}"
        )
        .map(|reply| reply.url)
    }

    /// A URL to forward any ports by.
    pub(crate) async fn port_forward_url(&self, pod: &str) -> Result<String, Error> {
        let request = PortForwardRequest {
            pod_sandbox_id: pod.to_owned(),
            port: Vec::new(),
        };
        call!(
            self.runtime.port_forward(request),
            self.query(),
            "forward ports of pod {pod}"
        )
        .map(|reply| reply.url)
    }

    pub(crate) async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        let request = ReopenContainerLogRequest {
            container_id: id.to_owned(),
        };
        call!(
            self.runtime.reopen_container_log(request),
            self.query(),
            "reopen the log of container {id}"
        )
        .map(drop)
    }

    pub(crate) async fn container_stats(
        &self,
        filter: ContainerStatsFilter,
    ) -> Result<Vec<ContainerStats>, Error> {
        let request = ListContainerStatsRequest {
            filter: Some(filter),
        };
        call!(
            self.runtime.list_container_stats(request),
            self.query(),
            "list the containers' statistics"
        )
        .map(|reply| reply.stats)
    }
}

fn pod_name(config: &PodSandboxConfig) -> String {
    match &config.metadata {
        Some(metadata) => format!("{}/{}", metadata.namespace, metadata.name),
        None => "without metadata".to_owned(),
    }
}
