use std::{fmt, time::Duration};

use cri::{client::Client, v1::*};
use tonic::Status;

/// How long one call may take; beyond what any runtime grants itself.
const BOUND: Duration = Duration::from_secs(150);

/// The runtime's refusal of one call.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    pub(super) rpc: &'static str,
    pub(super) status: Status,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (code, message) = (self.status.code(), self.status.message());
        write!(f, "{}: {code:?}: {message}", self.rpc)
    }
}

impl Refused {
    pub(super) fn code(&self) -> tonic::Code {
        self.status.code()
    }
}

/// Every call with one answer, by the generated method's name.
#[derive(Debug, Clone)]
pub(super) struct Calls {
    pub(super) runtime: Client,
    pub(super) images: Client,
}

macro_rules! calls {
    ($($client:ident $service:ident.$method:ident($request:ty) -> $reply:ty, $rpc:literal;)+) => {
        impl Calls {
            $(
                pub(super) async fn $method(&self, request: $request) -> Result<$reply, Refused> {
                    self.$client
                        .$service(Some(BOUND), request, async |mut rpc, request| rpc.$method(request).await)
                        .await
                        .map_err(|status| Refused { rpc: $rpc, status })
                }
            )+
        }
    };
}

calls! {
    runtime runtime.version(VersionRequest) -> VersionResponse, "Version";
    runtime runtime.status(StatusRequest) -> StatusResponse, "Status";
    runtime runtime.runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse, "RuntimeConfig";
    runtime runtime.update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse, "UpdateRuntimeConfig";
    runtime runtime.run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse, "RunPodSandbox";
    runtime runtime.stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse, "StopPodSandbox";
    runtime runtime.remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse, "RemovePodSandbox";
    runtime runtime.pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse, "PodSandboxStatus";
    runtime runtime.list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse, "ListPodSandbox";
    runtime runtime.create_container(CreateContainerRequest) -> CreateContainerResponse, "CreateContainer";
    runtime runtime.start_container(StartContainerRequest) -> StartContainerResponse, "StartContainer";
    runtime runtime.stop_container(StopContainerRequest) -> StopContainerResponse, "StopContainer";
    runtime runtime.remove_container(RemoveContainerRequest) -> RemoveContainerResponse, "RemoveContainer";
    runtime runtime.list_containers(ListContainersRequest) -> ListContainersResponse, "ListContainers";
    runtime runtime.container_status(ContainerStatusRequest) -> ContainerStatusResponse, "ContainerStatus";
    runtime runtime.update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse, "UpdateContainerResources";
    runtime runtime.update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest) -> UpdatePodSandboxResourcesResponse, "UpdatePodSandboxResources";
    runtime runtime.reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse, "ReopenContainerLog";
    runtime runtime.exec_sync(ExecSyncRequest) -> ExecSyncResponse, "ExecSync";
    runtime runtime.exec(ExecRequest) -> ExecResponse, "Exec";
    runtime runtime.attach(AttachRequest) -> AttachResponse, "Attach";
    runtime runtime.port_forward(PortForwardRequest) -> PortForwardResponse, "PortForward";
    runtime runtime.container_stats(ContainerStatsRequest) -> ContainerStatsResponse, "ContainerStats";
    runtime runtime.list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse, "ListContainerStats";
    runtime runtime.pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse, "PodSandboxStats";
    runtime runtime.list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse, "ListPodSandboxStats";
    runtime runtime.list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse, "ListMetricDescriptors";
    runtime runtime.list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse, "ListPodSandboxMetrics";
    images image.list_images(ListImagesRequest) -> ListImagesResponse, "ListImages";
    images image.image_status(ImageStatusRequest) -> ImageStatusResponse, "ImageStatus";
    images image.pull_image(PullImageRequest) -> PullImageResponse, "PullImage";
    images image.remove_image(RemoveImageRequest) -> RemoveImageResponse, "RemoveImage";
    images image.image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse, "ImageFsInfo";
}

/// All that a streamed list has sent, part by part.
macro_rules! streamed {
    ($client:ident $service:ident.$method:ident($request:ty) -> $part:ty, $rpc:literal) => {
        impl Calls {
            pub(super) async fn $method(&self, request: $request) -> Result<Vec<$part>, Refused> {
                let refused = |status| Refused { rpc: $rpc, status };
                let whole = async {
                    let reply = self.$client.$service().$method(request).await?;
                    let mut parts = Vec::new();
                    let mut stream = reply.into_inner();
                    while let Some(part) = stream.message().await? {
                        parts.push(part);
                    }
                    Ok(parts)
                };
                match tokio::time::timeout(BOUND, whole).await {
                    Ok(parts) => parts.map_err(refused),
                    Err(_) => Err(refused(Status::deadline_exceeded("the list has no end"))),
                }
            }
        }
    };
}

streamed!(runtime runtime_service.stream_pod_sandboxes(StreamPodSandboxesRequest) -> StreamPodSandboxesResponse, "StreamPodSandboxes");
streamed!(runtime runtime_service.stream_containers(StreamContainersRequest) -> StreamContainersResponse, "StreamContainers");
streamed!(runtime runtime_service.stream_container_stats(StreamContainerStatsRequest) -> StreamContainerStatsResponse, "StreamContainerStats");
streamed!(runtime runtime_service.stream_pod_sandbox_stats(StreamPodSandboxStatsRequest) -> StreamPodSandboxStatsResponse, "StreamPodSandboxStats");
streamed!(runtime runtime_service.stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest) -> StreamPodSandboxMetricsResponse, "StreamPodSandboxMetrics");
streamed!(images image_service.stream_images(StreamImagesRequest) -> StreamImagesResponse, "StreamImages");

impl Calls {
    /// Calls a method by its path, for what the generated clients do not have.
    pub(super) async fn by_path<Req, Reply>(
        &self,
        path: &'static str,
        request: Req,
    ) -> Result<Reply, Status>
    where
        Req: prost::Message + 'static,
        Reply: prost::Message + Default + 'static,
    {
        let mut grpc = tonic::client::Grpc::new(self.runtime.channel());
        grpc.ready()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let codec = tonic_prost::ProstCodec::<Req, Reply>::default();
        let path = http::uri::PathAndQuery::from_static(path);
        let call = grpc.unary(tonic::Request::new(request), path, codec);
        match tokio::time::timeout(BOUND, call).await {
            Ok(reply) => reply.map(tonic::Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded("no answer")),
        }
    }
}
