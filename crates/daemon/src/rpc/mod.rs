//! CRI's two services and our own: each RPC a file that decodes, calls once, and encodes. Policy is elsewhere.

pub(crate) mod decode;
pub(crate) mod encode;
mod status;

mod attach;
mod batch;
mod changes;
mod check_store;
mod checkpoint_container;
mod checkpoint_pod;
mod container_stats;
mod container_status;
mod copy_in;
mod copy_out;
mod create_container;
mod deadline;
mod disk_usage;
mod exec;
mod exec_sync;
mod explain_pull;
mod get_container_events;
mod image_fs_info;
mod image_status;
mod list_containers;
mod list_images;
mod list_operations;
mod list_pod_sandbox;
mod load_images;
mod metered;
mod metric_table;
mod metrics;
mod pod_sandbox_metrics;
mod pod_sandbox_stats;
mod pod_sandbox_status;
mod port_forward;
mod pull_image;
mod push_image;
mod remove_container;
mod remove_image;
mod remove_pod_sandbox;
mod reopen_container_log;
mod restore_pod;
mod run_pod_sandbox;
mod runtime_config;
mod save_images;
mod start_container;
mod status_rpc;
mod stop_container;
mod stop_pod_sandbox;
mod update_container_resources;
mod update_pod_sandbox_resources;
mod update_runtime_config;
mod usage;
mod v1alpha2;
mod version;
mod watch_pull;

use std::{pin::Pin, sync::Arc};

use cri::{
    progress::{
        self, files_server::Files, images_server::Images, operations_server::Operations,
        progress_server::Progress, store_server::Store,
    },
    v1::{self, image_service_server::ImageService, runtime_service_server::RuntimeService},
};
pub(crate) use deadline::CallersDeadline;
pub(crate) use metered::{Calls, Metered};
pub(crate) use status::chain;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};
pub(crate) use v1alpha2::{OlderPackage, RewriteOlderPackage};

use crate::{runtime::Runtime, sessions};

/// All services, on one runtime.
#[derive(Debug, Clone)]
pub(crate) struct Cri {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) streaming: sessions::Server,
}

type Reply<T> = Result<Response<T>, Status>;
type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl RuntimeService for Cri {
    type StreamPodSandboxesStream = Streamed<v1::StreamPodSandboxesResponse>;
    type StreamContainersStream = Streamed<v1::StreamContainersResponse>;
    type StreamContainerStatsStream = Streamed<v1::StreamContainerStatsResponse>;
    type StreamPodSandboxStatsStream = Streamed<v1::StreamPodSandboxStatsResponse>;
    type StreamPodSandboxMetricsStream = Streamed<v1::StreamPodSandboxMetricsResponse>;
    type GetContainerEventsStream = Streamed<v1::ContainerEventResponse>;

    async fn version(&self, request: Request<v1::VersionRequest>) -> Reply<v1::VersionResponse> {
        version::version(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Reply<v1::StatusResponse> {
        status_rpc::status(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn runtime_config(
        &self,
        request: Request<v1::RuntimeConfigRequest>,
    ) -> Reply<v1::RuntimeConfigResponse> {
        runtime_config::runtime_config(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<v1::RunPodSandboxRequest>,
    ) -> Reply<v1::RunPodSandboxResponse> {
        run_pod_sandbox::run_pod_sandbox(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> Reply<v1::StopPodSandboxResponse> {
        stop_pod_sandbox::stop_pod_sandbox(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Reply<v1::RemovePodSandboxResponse> {
        remove_pod_sandbox::remove_pod_sandbox(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Reply<v1::PodSandboxStatusResponse> {
        pod_sandbox_status::pod_sandbox_status(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> Reply<v1::ListPodSandboxResponse> {
        list_pod_sandbox::list_pod_sandbox(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<v1::StreamPodSandboxesRequest>,
    ) -> Reply<Self::StreamPodSandboxesStream> {
        list_pod_sandbox::stream_pod_sandboxes(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Reply<v1::CreateContainerResponse> {
        create_container::create_container(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn start_container(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Reply<v1::StartContainerResponse> {
        start_container::start_container(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Reply<v1::StopContainerResponse> {
        stop_container::stop_container(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Reply<v1::RemoveContainerResponse> {
        remove_container::remove_container(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Reply<v1::ContainerStatusResponse> {
        container_status::container_status(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Reply<v1::ListContainersResponse> {
        list_containers::list_containers(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn stream_containers(
        &self,
        request: Request<v1::StreamContainersRequest>,
    ) -> Reply<Self::StreamContainersStream> {
        list_containers::stream_containers(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Reply<v1::ReopenContainerLogResponse> {
        reopen_container_log::reopen_container_log(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn exec_sync(
        &self,
        request: Request<v1::ExecSyncRequest>,
    ) -> Reply<v1::ExecSyncResponse> {
        exec_sync::exec_sync(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn container_stats(
        &self,
        request: Request<v1::ContainerStatsRequest>,
    ) -> Reply<v1::ContainerStatsResponse> {
        container_stats::container_stats(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn list_container_stats(
        &self,
        request: Request<v1::ListContainerStatsRequest>,
    ) -> Reply<v1::ListContainerStatsResponse> {
        container_stats::list_container_stats(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn stream_container_stats(
        &self,
        request: Request<v1::StreamContainerStatsRequest>,
    ) -> Reply<Self::StreamContainerStatsStream> {
        container_stats::stream_container_stats(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Reply<v1::UpdateContainerResourcesResponse> {
        update_container_resources::update_container_resources(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Reply<v1::ExecResponse> {
        exec::exec(self, request).map(Response::new)
    }

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Reply<v1::AttachResponse> {
        attach::attach(self, request).map(Response::new)
    }

    async fn port_forward(
        &self,
        request: Request<v1::PortForwardRequest>,
    ) -> Reply<v1::PortForwardResponse> {
        port_forward::port_forward(self, request).map(Response::new)
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<v1::PodSandboxStatsRequest>,
    ) -> Reply<v1::PodSandboxStatsResponse> {
        pod_sandbox_stats::pod_sandbox_stats(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<v1::ListPodSandboxStatsRequest>,
    ) -> Reply<v1::ListPodSandboxStatsResponse> {
        pod_sandbox_stats::list_pod_sandbox_stats(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<v1::StreamPodSandboxStatsRequest>,
    ) -> Reply<Self::StreamPodSandboxStatsStream> {
        pod_sandbox_stats::stream_pod_sandbox_stats(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn update_runtime_config(
        &self,
        request: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> Reply<v1::UpdateRuntimeConfigResponse> {
        update_runtime_config::update_runtime_config(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn checkpoint_container(
        &self,
        request: Request<v1::CheckpointContainerRequest>,
    ) -> Reply<v1::CheckpointContainerResponse> {
        checkpoint_container::checkpoint_container(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn checkpoint_pod(
        &self,
        request: Request<v1::CheckpointPodRequest>,
    ) -> Reply<v1::CheckpointPodResponse> {
        checkpoint_pod::checkpoint_pod(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn restore_pod(
        &self,
        request: Request<v1::RestorePodRequest>,
    ) -> Reply<v1::RestorePodResponse> {
        restore_pod::restore_pod(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn get_container_events(
        &self,
        request: Request<v1::GetEventsRequest>,
    ) -> Reply<Self::GetContainerEventsStream> {
        get_container_events::get_container_events(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn list_metric_descriptors(
        &self,
        request: Request<v1::ListMetricDescriptorsRequest>,
    ) -> Reply<v1::ListMetricDescriptorsResponse> {
        pod_sandbox_metrics::list_metric_descriptors(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn list_pod_sandbox_metrics(
        &self,
        request: Request<v1::ListPodSandboxMetricsRequest>,
    ) -> Reply<v1::ListPodSandboxMetricsResponse> {
        pod_sandbox_metrics::list_pod_sandbox_metrics(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        request: Request<v1::StreamPodSandboxMetricsRequest>,
    ) -> Reply<Self::StreamPodSandboxMetricsStream> {
        pod_sandbox_metrics::stream_pod_sandbox_metrics(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<v1::UpdatePodSandboxResourcesRequest>,
    ) -> Reply<v1::UpdatePodSandboxResourcesResponse> {
        update_pod_sandbox_resources::update_pod_sandbox_resources(&self.runtime, request)
            .await
            .map(Response::new)
    }
}

#[tonic::async_trait]
impl ImageService for Cri {
    type StreamImagesStream = Streamed<v1::StreamImagesResponse>;

    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Reply<v1::ListImagesResponse> {
        list_images::list_images(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn stream_images(
        &self,
        request: Request<v1::StreamImagesRequest>,
    ) -> Reply<Self::StreamImagesStream> {
        list_images::stream_images(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn image_status(
        &self,
        request: Request<v1::ImageStatusRequest>,
    ) -> Reply<v1::ImageStatusResponse> {
        image_status::image_status(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn pull_image(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Reply<v1::PullImageResponse> {
        pull_image::pull_image(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Reply<v1::RemoveImageResponse> {
        remove_image::remove_image(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn image_fs_info(
        &self,
        request: Request<v1::ImageFsInfoRequest>,
    ) -> Reply<v1::ImageFsInfoResponse> {
        image_fs_info::image_fs_info(&self.runtime, request)
            .await
            .map(Response::new)
    }
}

#[tonic::async_trait]
impl Images for Cri {
    async fn explain_pull(
        &self,
        request: Request<progress::ExplainPullRequest>,
    ) -> Reply<progress::ExplainPullResponse> {
        explain_pull::explain_pull(&self.runtime, request)
            .await
            .map(Response::new)
    }
}

#[tonic::async_trait]
impl Progress for Cri {
    type WatchPullStream = Streamed<progress::PullProgress>;

    async fn watch_pull(
        &self,
        request: Request<progress::WatchPullRequest>,
    ) -> Reply<Self::WatchPullStream> {
        watch_pull::watch_pull(&self.runtime, request)
            .await
            .map(Response::new)
    }
}

#[tonic::async_trait]
impl Store for Cri {
    type CheckStream = Streamed<progress::CheckFinding>;
    type SaveStream = Streamed<progress::SaveChunk>;
    type DiskUsageStream = Streamed<progress::DiskPart>;

    async fn check(&self, request: Request<progress::CheckRequest>) -> Reply<Self::CheckStream> {
        check_store::check(&self.runtime, request)
            .await
            .map(Response::new)
    }
    async fn load(
        &self,
        request: Request<tonic::Streaming<progress::LoadRequest>>,
    ) -> Reply<progress::LoadResponse> {
        load_images::load(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn save(&self, request: Request<progress::SaveRequest>) -> Reply<Self::SaveStream> {
        save_images::save(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn push(&self, request: Request<progress::PushRequest>) -> Reply<progress::PushResponse> {
        push_image::push(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn disk_usage(
        &self,
        request: Request<progress::DiskUsageRequest>,
    ) -> Reply<Self::DiskUsageStream> {
        disk_usage::disk_usage(&self.runtime, request)
            .await
            .map(Response::new)
    }
}

#[tonic::async_trait]
impl Files for Cri {
    type ChangesStream = Streamed<progress::Change>;
    type CopyOutStream = Streamed<progress::CopyOutPart>;

    async fn changes(
        &self,
        request: Request<progress::ChangesRequest>,
    ) -> Reply<Self::ChangesStream> {
        changes::changes(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn copy_out(
        &self,
        request: Request<progress::CopyOutRequest>,
    ) -> Reply<Self::CopyOutStream> {
        copy_out::copy_out(&self.runtime, request)
            .await
            .map(Response::new)
    }

    async fn copy_in(
        &self,
        request: Request<tonic::Streaming<progress::CopyInRequest>>,
    ) -> Reply<progress::CopyInResponse> {
        copy_in::copy_in(&self.runtime, request)
            .await
            .map(Response::new)
    }
}

#[tonic::async_trait]
impl Operations for Cri {
    async fn list_operations(
        &self,
        request: Request<progress::ListOperationsRequest>,
    ) -> Reply<progress::ListOperationsResponse> {
        list_operations::list_operations(&self.runtime, &request).map(Response::new)
    }
}
