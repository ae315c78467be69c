use cri::progress::progress_server::Progress;
use cri::progress::{PullProgress, WatchPullRequest};
use cri::v1::image_service_server::ImageService;
use cri::v1::runtime_service_server::RuntimeService;
use cri::v1::*;
use tokio_stream::{Empty, Iter};
use tonic::{Request, Response, Status};

use super::{Service, data};

type Reply<T> = Result<Response<T>, Status>;

impl Service {
    fn called(&self, call: impl Into<String>) {
        self.0.calls.lock().unwrap().push(call.into());
    }

    fn containers(&self) -> Vec<Container> {
        data::containers(*self.0.server_state.lock().unwrap())
    }

    fn container(&self, id: &str) -> Result<Container, Status> {
        let found = self
            .containers()
            .into_iter()
            .find(|container| container.id == id);
        found.ok_or_else(|| Status::not_found(format!("container {id:?} not found")))
    }

    fn pod(&self, id: &str) -> Result<PodSandbox, Status> {
        let known = data::pods().into_iter().find(|pod| pod.id == id);
        // A pod that a test has run.
        let made = || (id == "newpod").then(PodSandbox::default);
        known
            .or_else(made)
            .ok_or_else(|| Status::not_found(format!("pod {id:?} not found")))
    }
}

/// `impl $trait for Service` of the given items, and of the RPCs listed after them, which answer UNIMPLEMENTED.
macro_rules! service {
    ($trait:ident { $($items:tt)* } $($name:ident($request:ty) -> $reply:ty;)*) => {
        #[tonic::async_trait]
        impl $trait for Service {
            $($items)*
            $(
                async fn $name(&self, _: Request<$request>) -> Reply<$reply> {
                    Err(Status::unimplemented(concat!("not implemented: ", stringify!($name))))
                }
            )*
        }
    };
}

service! {
    RuntimeService {
        type StreamPodSandboxesStream = Empty<Result<StreamPodSandboxesResponse, Status>>;
        type StreamContainersStream = Empty<Result<StreamContainersResponse, Status>>;
        type StreamContainerStatsStream = Empty<Result<StreamContainerStatsResponse, Status>>;
        type StreamPodSandboxStatsStream = Empty<Result<StreamPodSandboxStatsResponse, Status>>;
        type GetContainerEventsStream = Empty<Result<ContainerEventResponse, Status>>;
        type StreamPodSandboxMetricsStream = Empty<Result<StreamPodSandboxMetricsResponse, Status>>;

        async fn version(&self, _: Request<VersionRequest>) -> Reply<VersionResponse> {
            Ok(Response::new(VersionResponse {
                version: "0.1.0".to_owned(),
                runtime_name: "fake".to_owned(),
                runtime_version: "1.2.3".to_owned(),
                runtime_api_version: "v1".to_owned(),
            }))
        }

        async fn status(&self, request: Request<StatusRequest>) -> Reply<StatusResponse> {
            let config = ("config".to_owned(), "{\"root\":\"/var\"}".to_owned());
            Ok(Response::new(StatusResponse {
                status: Some(RuntimeStatus {
                    conditions: vec![RuntimeCondition {
                        r#type: "RuntimeReady".to_owned(),
                        status: true,
                        ..RuntimeCondition::default()
                    }],
                }),
                info: request.into_inner().verbose.then_some(config).into_iter().collect(),
                runtime_handlers: vec![RuntimeHandler {
                    name: "runsc".to_owned(),
                    features: Some(RuntimeHandlerFeatures {
                        user_namespaces: true,
                        ..RuntimeHandlerFeatures::default()
                    }),
                }],
                features: None,
            }))
        }

        async fn run_pod_sandbox(&self, request: Request<RunPodSandboxRequest>) -> Reply<RunPodSandboxResponse> {
            let request = request.into_inner();
            let config = request.config.unwrap();
            let metadata = config.metadata.unwrap();
            assert!(!metadata.uid.is_empty());
            self.called(format!("run pod {}/{} {:?}", metadata.namespace, metadata.name, request.runtime_handler));
            Ok(Response::new(RunPodSandboxResponse { pod_sandbox_id: "newpod".to_owned() }))
        }

        async fn stop_pod_sandbox(&self, request: Request<StopPodSandboxRequest>) -> Reply<StopPodSandboxResponse> {
            self.called(format!("stop pod {}", request.into_inner().pod_sandbox_id));
            Ok(Response::new(StopPodSandboxResponse {}))
        }

        async fn remove_pod_sandbox(&self, request: Request<RemovePodSandboxRequest>) -> Reply<RemovePodSandboxResponse> {
            self.called(format!("remove pod {}", request.into_inner().pod_sandbox_id));
            Ok(Response::new(RemovePodSandboxResponse {}))
        }

        async fn pod_sandbox_status(&self, request: Request<PodSandboxStatusRequest>) -> Reply<PodSandboxStatusResponse> {
            let request = request.into_inner();
            let pod = self.pod(&request.pod_sandbox_id)?;
            let pid = ("pid".to_owned(), "4711".to_owned());
            Ok(Response::new(PodSandboxStatusResponse {
                status: Some(data::pod_status(&pod)),
                info: request.verbose.then_some(pid).into_iter().collect(),
                ..PodSandboxStatusResponse::default()
            }))
        }

        async fn list_pod_sandbox(&self, request: Request<ListPodSandboxRequest>) -> Reply<ListPodSandboxResponse> {
            let filter = request.into_inner().filter.unwrap_or_default();
            let mut items = data::pods();
            items.retain(|pod| {
                pod.id.starts_with(&filter.id)
                    && filter.state.is_none_or(|state| state.state == pod.state)
                    && filter.label_selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
            });
            Ok(Response::new(ListPodSandboxResponse { items }))
        }

        async fn create_container(&self, request: Request<CreateContainerRequest>) -> Reply<CreateContainerResponse> {
            let request = request.into_inner();
            let config = request.config.unwrap();
            let name = config.metadata.unwrap().name;
            let image = config.image.unwrap();
            // CRI-O refuses it.
            assert_ne!(image.user_specified_image, "", "the image by its user's name");
            let image = image.image;
            let env: Vec<_> = config.envs.iter().map(|e| format!("{}={}", e.key, String::from_utf8_lossy(&e.value))).collect();
            self.called(format!("create {name} in {} of {image} {env:?}", request.pod_sandbox_id));
            if name == "broken" {
                return Err(Status::invalid_argument("config.command: no such file: /nothing"));
            }
            Ok(Response::new(CreateContainerResponse { container_id: format!("new{name}") }))
        }

        async fn start_container(&self, request: Request<StartContainerRequest>) -> Reply<StartContainerResponse> {
            self.called(format!("start {}", request.into_inner().container_id));
            Ok(Response::new(StartContainerResponse {}))
        }

        async fn stop_container(&self, request: Request<StopContainerRequest>) -> Reply<StopContainerResponse> {
            let request = request.into_inner();
            self.container(&request.container_id)?;
            self.called(format!("stop {} {}", request.container_id, request.timeout));
            Ok(Response::new(StopContainerResponse {}))
        }

        async fn remove_container(&self, request: Request<RemoveContainerRequest>) -> Reply<RemoveContainerResponse> {
            self.called(format!("remove {}", request.into_inner().container_id));
            Ok(Response::new(RemoveContainerResponse {}))
        }

        async fn list_containers(&self, request: Request<ListContainersRequest>) -> Reply<ListContainersResponse> {
            let filter = request.into_inner().filter.unwrap_or_default();
            let mut containers = self.containers();
            containers.retain(|container| {
                container.id.starts_with(&filter.id)
                    && container.pod_sandbox_id.starts_with(&filter.pod_sandbox_id)
                    && filter.state.is_none_or(|state| state.state == container.state)
            });
            Ok(Response::new(ListContainersResponse { containers }))
        }

        async fn container_status(&self, request: Request<ContainerStatusRequest>) -> Reply<ContainerStatusResponse> {
            let request = request.into_inner();
            let container = self.container(&request.container_id)?;
            let info = ("info".to_owned(), "{\"pid\":7}".to_owned());
            Ok(Response::new(ContainerStatusResponse {
                status: Some(data::container_status(&container, &self.0.directory)),
                info: request.verbose.then_some(info).into_iter().collect(),
            }))
        }

        async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Reply<ExecSyncResponse> {
            let request = request.into_inner();
            self.called(format!("exec {} {:?} {}", request.container_id, request.cmd, request.timeout));
            Ok(Response::new(ExecSyncResponse {
                stdout: b"out\n".to_vec(),
                stderr: b"err\n".to_vec(),
                exit_code: 3,
            }))
        }

        async fn list_container_stats(&self, request: Request<ListContainerStatsRequest>) -> Reply<ListContainerStatsResponse> {
            let filter = request.into_inner().filter.unwrap_or_default();
            self.called("stats");
            let sample = self.0.calls.lock().unwrap().len() as i64;
            let mut stats = vec![
                data::container_stats(data::CLIENT, "client", sample),
                data::container_stats(data::SERVER, "server", sample),
            ];
            stats.retain(|s| s.attributes.as_ref().unwrap().id.starts_with(&filter.id));
            Ok(Response::new(ListContainerStatsResponse { stats }))
        }

        async fn update_container_resources(&self, request: Request<UpdateContainerResourcesRequest>) -> Reply<UpdateContainerResourcesResponse> {
            let request = request.into_inner();
            self.container(&request.container_id)?;
            let linux = request.linux.unwrap();
            self.called(format!("update {} {} {} {:?}", request.container_id, linux.memory_limit_in_bytes, linux.cpu_quota, linux.cpuset_cpus));
            Ok(Response::new(UpdateContainerResourcesResponse {}))
        }

        async fn checkpoint_container(&self, request: Request<CheckpointContainerRequest>) -> Reply<CheckpointContainerResponse> {
            let request = request.into_inner();
            self.called(format!("checkpoint {} {}", request.container_id, request.location));
            Ok(Response::new(CheckpointContainerResponse {}))
        }

        async fn checkpoint_pod(&self, request: Request<CheckpointPodRequest>) -> Reply<CheckpointPodResponse> {
            let request = request.into_inner();
            self.called(format!("checkpoint-pod {} {} {:?}", request.pod_sandbox_id, request.output_path, request.container_ids));
            Ok(Response::new(CheckpointPodResponse {}))
        }

        async fn restore_pod(&self, request: Request<RestorePodRequest>) -> Reply<RestorePodResponse> {
            let request = request.into_inner();
            self.called(format!("restore-pod {} {:?}", request.checkpoint_path, request.runtime_handler));
            let containers = request.container_configs.into_iter().map(|config| RestoredContainer {
                name: config.metadata.unwrap_or_default().name,
                container_id: "c".repeat(64),
            });
            Ok(Response::new(RestorePodResponse {
                pod_sandbox_id: "b".repeat(64),
                restored_containers: containers.collect(),
            }))
        }

        async fn runtime_config(&self, _: Request<RuntimeConfigRequest>) -> Reply<RuntimeConfigResponse> {
            let linux = LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver::Cgroupfs.into() };
            Ok(Response::new(RuntimeConfigResponse { linux: Some(linux) }))
        }

        async fn update_runtime_config(&self, request: Request<UpdateRuntimeConfigRequest>) -> Reply<UpdateRuntimeConfigResponse> {
            let network = request.into_inner().runtime_config.unwrap().network_config.unwrap();
            if network.pod_cidr == "10.0.0.0/33" {
                return Err(Status::invalid_argument("pod_cidr is no CIDR"));
            }
            self.called(format!("update-runtime-config {:?}", network.pod_cidr));
            Ok(Response::new(UpdateRuntimeConfigResponse {}))
        }
    }
    stream_pod_sandboxes(StreamPodSandboxesRequest) -> Self::StreamPodSandboxesStream;
    stream_containers(StreamContainersRequest) -> Self::StreamContainersStream;
    reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse;
    exec(ExecRequest) -> ExecResponse;
    attach(AttachRequest) -> AttachResponse;
    port_forward(PortForwardRequest) -> PortForwardResponse;
    container_stats(ContainerStatsRequest) -> ContainerStatsResponse;
    stream_container_stats(StreamContainerStatsRequest) -> Self::StreamContainerStatsStream;
    pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse;
    list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse;
    stream_pod_sandbox_stats(StreamPodSandboxStatsRequest) -> Self::StreamPodSandboxStatsStream;
    get_container_events(GetEventsRequest) -> Self::GetContainerEventsStream;
    list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse;
    list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse;
    stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest) -> Self::StreamPodSandboxMetricsStream;
    update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest) -> UpdatePodSandboxResourcesResponse;
}

service! {
    ImageService {
        type StreamImagesStream = Empty<Result<StreamImagesResponse, Status>>;

        async fn list_images(&self, _: Request<ListImagesRequest>) -> Reply<ListImagesResponse> {
            Ok(Response::new(ListImagesResponse { images: data::images() }))
        }

        async fn image_status(&self, request: Request<ImageStatusRequest>) -> Reply<ImageStatusResponse> {
            let name = request.into_inner().image.unwrap().image;
            let named = |image: &Image| image.id == name || image.repo_tags.contains(&name);
            let image = data::images().into_iter().find(named);
            Ok(Response::new(ImageStatusResponse { image, ..ImageStatusResponse::default() }))
        }

        async fn pull_image(&self, request: Request<PullImageRequest>) -> Reply<PullImageResponse> {
            let request = request.into_inner();
            let user = request.auth.map(|auth| auth.username).unwrap_or_default();
            let image = request.image.unwrap().image;
            self.called(format!("pull {image} {user:?}"));
            if image == "slow" {
                self.0.pulled.notified().await;
            }
            Ok(Response::new(PullImageResponse { image_ref: format!("{image}@sha256:1234") }))
        }

        async fn remove_image(&self, request: Request<RemoveImageRequest>) -> Reply<RemoveImageResponse> {
            self.called(format!("remove image {}", request.into_inner().image.unwrap().image));
            Ok(Response::new(RemoveImageResponse {}))
        }

        async fn image_fs_info(&self, _: Request<ImageFsInfoRequest>) -> Reply<ImageFsInfoResponse> {
            Ok(Response::new(ImageFsInfoResponse::default()))
        }
    }
    stream_images(StreamImagesRequest) -> Self::StreamImagesStream;
}

service! {
    Progress {
        type WatchPullStream = Iter<std::vec::IntoIter<Result<PullProgress, Status>>>;

        async fn watch_pull(&self, request: Request<WatchPullRequest>) -> Reply<Self::WatchPullStream> {
            self.called(format!("watch the pull of {}", request.into_inner().image));
            Ok(Response::new(tokio_stream::iter(data::pull_progress())))
        }
    }
}
