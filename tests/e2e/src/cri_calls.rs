use std::{path::Path, time::Duration};

use cri::{
    client::Client,
    v1::{
        AttachRequest, CheckpointContainerRequest, CheckpointPodRequest, Container,
        ContainerConfig, ContainerFilter, ContainerStats, ContainerStatsFilter,
        ContainerStatsRequest, ContainerStatus, ContainerStatusRequest, ContainerStatusResponse,
        CreateContainerRequest, ExecRequest, ExecSyncRequest, ExecSyncResponse, Image,
        ImageFsInfoRequest, ImageFsInfoResponse, ImageSpec, ImageStatusRequest,
        LinuxContainerResources, ListContainerStatsRequest, ListContainersRequest,
        ListImagesRequest, ListPodSandboxRequest, NetworkConfig, PodSandbox, PodSandboxConfig,
        PodSandboxFilter, PodSandboxStatusRequest, PodSandboxStatusResponse, PortForwardRequest,
        PullImageRequest, RemoveContainerRequest, RemoveImageRequest, RemovePodSandboxRequest,
        ReopenContainerLogRequest, RestorePodRequest, RestorePodResponse, RunPodSandboxRequest,
        RuntimeConfig, RuntimeConfigRequest, RuntimeConfigResponse, StartContainerRequest,
        StatusRequest, StatusResponse, StopContainerRequest, StopPodSandboxRequest,
        UpdateContainerResourcesRequest, UpdatePodSandboxResourcesRequest,
        UpdateRuntimeConfigRequest, VersionRequest, VersionResponse,
    },
};
use hyper_util::rt::TokioIo;
use tonic::Status;

/// How long a call may take; longer than the daemon's own bounds.
const LIMIT: Option<Duration> = Some(Duration::from_secs(150));

pub use streaming::client::Wanted as Streams;

type Answer<T> = Result<T, Status>;

/// CRI's calls in few words. Errors are the daemon's.
#[derive(Debug, Clone)]
pub struct Cri {
    pub client: Client,
}

#[expect(
    clippy::missing_errors_doc,
    reason = "they are all the daemon's status"
)]
impl Cri {
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    pub async fn version(&self) -> Answer<VersionResponse> {
        let request = VersionRequest::default();
        let call = async |mut rpc: Runtime, request| rpc.version(request).await;
        self.client.runtime(LIMIT, request, call).await
    }

    pub async fn runtime_config(&self) -> Answer<RuntimeConfigResponse> {
        let request = RuntimeConfigRequest::default();
        let call = async |mut rpc: Runtime, request| rpc.runtime_config(request).await;
        self.client.runtime(LIMIT, request, call).await
    }

    /// As a kubelet that was given these ranges for its node.
    pub async fn update_runtime_config(&self, pod_cidr: &str) -> Answer<()> {
        let network_config = Some(NetworkConfig {
            pod_cidr: pod_cidr.to_owned(),
        });
        let request = UpdateRuntimeConfigRequest {
            runtime_config: Some(RuntimeConfig { network_config }),
        };
        let call = async |mut rpc: Runtime, request| rpc.update_runtime_config(request).await;
        self.client.runtime(LIMIT, request, call).await.map(drop)
    }

    pub async fn status(&self, verbose: bool) -> Answer<StatusResponse> {
        let request = StatusRequest { verbose };
        let call = async |mut rpc: Runtime, request| rpc.status(request).await;
        self.client.runtime(LIMIT, request, call).await
    }

    pub async fn run_pod(&self, config: PodSandboxConfig) -> Answer<String> {
        self.run_pod_with(config, "").await
    }

    pub async fn run_pod_with(&self, config: PodSandboxConfig, handler: &str) -> Answer<String> {
        let request = RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: handler.to_owned(),
        };
        let call = async |mut rpc: Runtime, request| rpc.run_pod_sandbox(request).await;
        let reply = self.client.runtime(LIMIT, request, call).await?;
        Ok(reply.pod_sandbox_id)
    }

    pub async fn stop_pod(&self, id: &str) -> Answer<()> {
        let request = StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        let call = async |mut rpc: Runtime, request| rpc.stop_pod_sandbox(request).await;
        self.client.runtime(LIMIT, request, call).await.map(drop)
    }

    pub async fn remove_pod(&self, id: &str) -> Answer<()> {
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        let call = async |mut rpc: Runtime, request| rpc.remove_pod_sandbox(request).await;
        self.client.runtime(LIMIT, request, call).await.map(drop)
    }

    pub async fn pod_status(&self, id: &str, verbose: bool) -> Answer<PodSandboxStatusResponse> {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose,
        };
        let call = async |mut rpc: Runtime, request| rpc.pod_sandbox_status(request).await;
        self.client.runtime(LIMIT, request, call).await
    }

    /// The pod's address on the pod network, empty on the host's.
    pub async fn pod_ip(&self, id: &str) -> Answer<String> {
        let status = self.pod_status(id, false).await?.status;
        let network = status.and_then(|status| status.network);
        Ok(network.map(|network| network.ip).unwrap_or_default())
    }

    pub async fn pods(&self, filter: Option<PodSandboxFilter>) -> Answer<Vec<PodSandbox>> {
        let request = ListPodSandboxRequest { filter };
        let call = async |mut rpc: Runtime, request| rpc.list_pod_sandbox(request).await;
        let reply = self.client.runtime(LIMIT, request, call).await?;
        Ok(reply.items)
    }

    /// `timeout` in seconds; 0 is the daemon's.
    pub async fn checkpoint(&self, id: &str, location: &Path, timeout: i64) -> Answer<()> {
        let request = CheckpointContainerRequest {
            container_id: id.to_owned(),
            location: location.display().to_string(),
            timeout,
        };
        let call = async |mut rpc: Runtime, request| rpc.checkpoint_container(request).await;
        self.client.runtime(LIMIT, request, call).await.map(drop)
    }

    pub async fn checkpoint_pod(
        &self,
        pod_id: &str,
        directory: &Path,
        containers: &[&str],
    ) -> Answer<()> {
        self.checkpoint_pod_within(LIMIT, pod_id, directory, containers)
            .await
    }

    pub async fn checkpoint_pod_within(
        &self,
        limit: Option<Duration>,
        pod_id: &str,
        directory: &Path,
        containers: &[&str],
    ) -> Answer<()> {
        let request = CheckpointPodRequest {
            pod_sandbox_id: pod_id.to_owned(),
            output_path: directory.display().to_string(),
            container_ids: containers.iter().map(|id| (*id).to_owned()).collect(),
            ..Default::default()
        };
        let call = async |mut rpc: Runtime, request| rpc.checkpoint_pod(request).await;
        self.client.runtime(limit, request, call).await.map(drop)
    }

    pub async fn restore_pod(
        &self,
        directory: &Path,
        config: PodSandboxConfig,
        containers: Vec<ContainerConfig>,
    ) -> Answer<RestorePodResponse> {
        let request = RestorePodRequest {
            checkpoint_path: directory.display().to_string(),
            config: Some(config),
            container_configs: containers,
            ..Default::default()
        };
        let call = async |mut rpc: Runtime, request| rpc.restore_pod(request).await;
        self.client.runtime(LIMIT, request, call).await
    }

    pub async fn create(
        &self,
        pod_id: &str,
        config: ContainerConfig,
        pod: PodSandboxConfig,
    ) -> Answer<String> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod_id.to_owned(),
            config: Some(config),
            sandbox_config: Some(pod),
        };
        let call = async |mut rpc: Runtime, request| rpc.create_container(request).await;
        let reply = self.client.runtime(LIMIT, request, call).await?;
        Ok(reply.container_id)
    }

    pub async fn start(&self, id: &str) -> Answer<()> {
        let request = StartContainerRequest {
            container_id: id.to_owned(),
        };
        let call = async |mut rpc: Runtime, request| rpc.start_container(request).await;
        self.client.runtime(LIMIT, request, call).await.map(drop)
    }

    pub async fn update(&self, id: &str, linux: LinuxContainerResources) -> Answer<()> {
        self.update_with(UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(linux),
            ..Default::default()
        })
        .await
    }

    pub async fn update_with(&self, request: UpdateContainerResourcesRequest) -> Answer<()> {
        let call = async |mut rpc: Runtime, request| rpc.update_container_resources(request).await;
        self.client.runtime(LIMIT, request, call).await.map(drop)
    }

    pub async fn update_pod(&self, request: UpdatePodSandboxResourcesRequest) -> Answer<()> {
        let call =
            async |mut rpc: Runtime, request| rpc.update_pod_sandbox_resources(request).await;
        self.client.runtime(LIMIT, request, call).await.map(drop)
    }

    /// `timeout` is in seconds.
    pub async fn stop(&self, id: &str, timeout: i64) -> Answer<()> {
        let request = StopContainerRequest {
            container_id: id.to_owned(),
            timeout,
        };
        let call = async |mut rpc: Runtime, request| rpc.stop_container(request).await;
        self.client.runtime(LIMIT, request, call).await.map(drop)
    }

    pub async fn remove(&self, id: &str) -> Answer<()> {
        let request = RemoveContainerRequest {
            container_id: id.to_owned(),
        };
        let call = async |mut rpc: Runtime, request| rpc.remove_container(request).await;
        self.client.runtime(LIMIT, request, call).await.map(drop)
    }

    pub async fn container_status(&self, id: &str) -> Answer<ContainerStatus> {
        let reply = self.container_status_with(id, false).await?;
        reply
            .status
            .ok_or_else(|| Status::data_loss("ContainerStatus without a status"))
    }

    pub async fn container_status_with(
        &self,
        id: &str,
        verbose: bool,
    ) -> Answer<ContainerStatusResponse> {
        let request = ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose,
        };
        let call = async |mut rpc: Runtime, request| rpc.container_status(request).await;
        self.client.runtime(LIMIT, request, call).await
    }

    pub async fn containers(&self, filter: Option<ContainerFilter>) -> Answer<Vec<Container>> {
        let request = ListContainersRequest { filter };
        let call = async |mut rpc: Runtime, request| rpc.list_containers(request).await;
        let reply = self.client.runtime(LIMIT, request, call).await?;
        Ok(reply.containers)
    }

    /// `timeout` is in seconds, 0 for none.
    pub async fn exec(&self, id: &str, cmd: &[&str], timeout: i64) -> Answer<ExecSyncResponse> {
        let request = ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: cmd.iter().map(|word| (*word).to_owned()).collect(),
            timeout,
        };
        let call = async |mut rpc: Runtime, request| rpc.exec_sync(request).await;
        self.client.runtime(LIMIT, request, call).await
    }

    /// Runs a shell script in a container; its standard output.
    pub async fn sh(&self, id: &str, script: &str) -> Answer<String> {
        let reply = self.exec(id, &["sh", "-c", script], 100).await?;
        if reply.exit_code != 0 {
            let error = String::from_utf8_lossy(&reply.stderr).into_owned();
            return Err(Status::aborted(format!(
                "{script}: {}: {error}",
                reply.exit_code
            )));
        }
        Ok(String::from_utf8_lossy(&reply.stdout).into_owned())
    }

    /// A URL to run a command by, with these streams (and a terminal).
    pub async fn exec_url(&self, id: &str, cmd: &[&str], streams: Streams) -> Answer<String> {
        let request = ExecRequest {
            container_id: id.to_owned(),
            cmd: cmd.iter().map(|word| (*word).to_owned()).collect(),
            tty: streams.tty,
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
        };
        let call = async |mut rpc: Runtime, request| rpc.exec(request).await;
        Ok(self.client.runtime(LIMIT, request, call).await?.url)
    }

    pub async fn attach_url(&self, id: &str, streams: Streams) -> Answer<String> {
        let request = AttachRequest {
            container_id: id.to_owned(),
            tty: streams.tty,
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
        };
        let call = async |mut rpc: Runtime, request| rpc.attach(request).await;
        Ok(self.client.runtime(LIMIT, request, call).await?.url)
    }

    pub async fn port_forward_url(&self, pod_id: &str, port: Vec<i32>) -> Answer<String> {
        let request = PortForwardRequest {
            pod_sandbox_id: pod_id.to_owned(),
            port,
        };
        let call = async |mut rpc: Runtime, request| rpc.port_forward(request).await;
        Ok(self.client.runtime(LIMIT, request, call).await?.url)
    }

    pub async fn reopen_log(&self, id: &str) -> Answer<()> {
        let request = ReopenContainerLogRequest {
            container_id: id.to_owned(),
        };
        let call = async |mut rpc: Runtime, request| rpc.reopen_container_log(request).await;
        self.client.runtime(LIMIT, request, call).await.map(drop)
    }

    pub async fn container_stats(&self, id: &str) -> Answer<Option<ContainerStats>> {
        let request = ContainerStatsRequest {
            container_id: id.to_owned(),
        };
        let call = async |mut rpc: Runtime, request| rpc.container_stats(request).await;
        Ok(self.client.runtime(LIMIT, request, call).await?.stats)
    }

    pub async fn list_stats(
        &self,
        filter: Option<ContainerStatsFilter>,
    ) -> Answer<Vec<ContainerStats>> {
        let request = ListContainerStatsRequest { filter };
        let call = async |mut rpc: Runtime, request| rpc.list_container_stats(request).await;
        Ok(self.client.runtime(LIMIT, request, call).await?.stats)
    }

    pub async fn pull(&self, image: &str) -> Answer<String> {
        self.pull_with(image, None).await
    }

    pub async fn pull_with(
        &self,
        image: &str,
        auth: Option<cri::v1::AuthConfig>,
    ) -> Answer<String> {
        let request = PullImageRequest {
            image: Some(spec(image)),
            auth,
            sandbox_config: None,
        };
        let call = async |mut rpc: Images, request| rpc.pull_image(request).await;
        Ok(self.client.image(LIMIT, request, call).await?.image_ref)
    }

    pub async fn image(&self, image: &str) -> Answer<Option<Image>> {
        let request = ImageStatusRequest {
            image: Some(spec(image)),
            verbose: false,
        };
        let call = async |mut rpc: Images, request| rpc.image_status(request).await;
        Ok(self.client.image(LIMIT, request, call).await?.image)
    }

    pub async fn images(&self) -> Answer<Vec<Image>> {
        let request = ListImagesRequest::default();
        let call = async |mut rpc: Images, request| rpc.list_images(request).await;
        Ok(self.client.image(LIMIT, request, call).await?.images)
    }

    pub async fn remove_image(&self, image: &str) -> Answer<()> {
        let request = RemoveImageRequest {
            image: Some(spec(image)),
        };
        let call = async |mut rpc: Images, request| rpc.remove_image(request).await;
        self.client.image(LIMIT, request, call).await.map(drop)
    }

    pub async fn image_fs_info(&self) -> Answer<ImageFsInfoResponse> {
        let request = ImageFsInfoRequest::default();
        let call = async |mut rpc: Images, request| rpc.image_fs_info(request).await;
        self.client.image(LIMIT, request, call).await
    }
}

type Channel = tonic::transport::Channel;
type Runtime = cri::v1::runtime_service_client::RuntimeServiceClient<Channel>;
type Images = cri::v1::image_service_client::ImageServiceClient<Channel>;

fn spec(image: &str) -> ImageSpec {
    ImageSpec {
        image: image.to_owned(),
        ..Default::default()
    }
}

/// Calls a method by its path and with this content type, for what the generated clients do not say.
///
/// # Errors
/// Nobody listens, or the daemon's status.
pub async fn call_path<Req, Resp>(
    socket: &std::path::Path,
    path: &'static str,
    content_type: &'static str,
    request: Req,
) -> anyhow::Result<Resp>
where
    Req: prost::Message + 'static,
    Resp: prost::Message + Default + 'static,
{
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_: http::Uri| {
        let socket = socket.clone();
        async move {
            tokio::net::UnixStream::connect(socket)
                .await
                .map(TokioIo::new)
        }
    });
    let channel = tonic::transport::Endpoint::from_static("http://localhost")
        .connect_with_connector(connector)
        .await?;
    let channel = tower::ServiceBuilder::new()
        .map_request(move |mut request: http::Request<tonic::body::Body>| {
            let value = http::HeaderValue::from_static(content_type);
            request
                .headers_mut()
                .insert(http::header::CONTENT_TYPE, value);
            request
        })
        .service(channel);
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await?;
    let codec = tonic_prost::ProstCodec::<Req, Resp>::default();
    let path = http::uri::PathAndQuery::from_static(path);
    let reply = grpc
        .unary(tonic::Request::new(request), path, codec)
        .await?;
    Ok(reply.into_inner())
}
