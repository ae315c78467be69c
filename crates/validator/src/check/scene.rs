use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use cri::v1::*;
use registry::image::{Image as Built, ImageBuilder};

use super::{
    bed::Bed,
    calls::{Calls, Refused},
    case::{Ended, Verdict, ensure, ensure_eq},
};

/// Labels of everything that a scene makes.
const RUN_LABEL: &str = "longshore.check/run";
const SCENE_LABEL: &str = "longshore.check/scene";

/// Between two looks at what is waited for.
const AGAIN_AFTER: Duration = Duration::from_millis(30);

/// What a sleeper says once it listens.
pub(super) const READY: &str = "ready\n";

/// Where one case plays: its names, its directory, and what it has made.
pub(super) struct Scene<'a> {
    pub(super) bed: &'a Bed,
    pub(super) name: String,
    directory: PathBuf,
    images: RefCell<Vec<String>>,
}

/// A sandbox that runs, and what it was asked for with.
#[derive(Debug, Clone)]
pub(super) struct Pod {
    pub(super) id: String,
    pub(super) config: PodSandboxConfig,
}

/// A line of a container's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LogLine {
    pub(super) time: String,
    pub(super) stream: String,
    pub(super) partial: bool,
    pub(super) text: String,
}

impl<'a> Scene<'a> {
    pub(super) fn new(bed: &'a Bed) -> Self {
        let name = format!("s{}", bed.number());
        Self {
            bed,
            directory: bed.directory(&name),
            name,
            images: RefCell::default(),
        }
    }

    pub(super) fn calls(&self) -> &'a Calls {
        &self.bed.calls
    }

    /// How long something may be waited for: a guard against hanging, not an expectation. Time is left to say what did not come.
    pub(super) fn patience(&self) -> Duration {
        self.bed.settings.timeout * 2 / 3
    }

    /// What the runtime says that the handler of this run can do.
    pub(super) fn handler_features(&self) -> RuntimeHandlerFeatures {
        let handlers = self.bed.status.runtime_handlers.iter();
        let mut own = handlers.filter(|it| it.name == self.bed.settings.handler);
        own.next().and_then(|it| it.features).unwrap_or_default()
    }

    pub(super) fn labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (RUN_LABEL.to_owned(), self.bed.run.clone()),
            (SCENE_LABEL.to_owned(), self.name.clone()),
        ])
    }

    /// Everything of the run, other scenes' too.
    pub(super) fn run_filter(&self) -> PodSandboxFilter {
        PodSandboxFilter {
            label_selector: BTreeMap::from([(RUN_LABEL.to_owned(), self.bed.run.clone())]),
            ..Default::default()
        }
    }

    /// A directory of the scene's own, on this node.
    pub(super) fn directory(&self, name: &str) -> Verdict<PathBuf> {
        let path = self.directory.join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// A port of the node's that nobody listens at, below those that the kernel gives to whoever connects.
    pub(super) fn free_port(&self) -> Verdict<u16> {
        let begin = std::process::id().wrapping_mul(7919);
        for _ in 0..1000 {
            let place = begin.wrapping_add(self.bed.number()) % 10_000;
            let port = 20_000 + u16::try_from(place).unwrap_or_default();
            if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
                return Ok(port);
            }
        }
        Err(Ended::Failed(
            "all ports of this node are in use".to_owned(),
        ))
    }
}

/// Pods.
impl Scene<'_> {
    /// On the host's network, which needs no plugins.
    pub(super) fn host_pod(&self, name: &str) -> PodSandboxConfig {
        let mut config = self.network_pod(name);
        config.hostname.clear();
        pod_namespaces(&mut config).network = NamespaceMode::Node.into();
        config
    }

    /// On the pods' network.
    pub(super) fn network_pod(&self, name: &str) -> PodSandboxConfig {
        let namespaces = NamespaceOption {
            pid: NamespaceMode::Container.into(),
            ..Default::default()
        };
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: format!("{}-{name}", self.name),
                uid: format!("{}-{}-{name}", self.bed.run, self.name),
                namespace: "longshore-check".to_owned(),
                attempt: 0,
            }),
            hostname: format!("{}-{name}", self.name),
            log_directory: self.directory.join(name).display().to_string(),
            labels: self.labels(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: self.bed.settings.cgroup_parent.clone(),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    pub(super) async fn try_pod(&self, config: PodSandboxConfig) -> Result<Pod, Refused> {
        // A kubelet makes it before; a runtime that has none says so itself.
        let _ = fs::create_dir_all(&config.log_directory);
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: self.bed.settings.handler.clone(),
        };
        let reply = self.calls().run_pod_sandbox(request).await?;
        Ok(Pod {
            id: reply.pod_sandbox_id,
            config,
        })
    }

    pub(super) async fn pod(&self, config: PodSandboxConfig) -> Verdict<Pod> {
        let pod = self.try_pod(config).await?;
        ensure!(!pod.id.is_empty(), "RunPodSandbox: no id in the answer");
        Ok(pod)
    }

    /// A pod on the host's network, ready.
    pub(super) async fn any_pod(&self) -> Verdict<Pod> {
        self.pod(self.host_pod("pod")).await
    }

    pub(super) async fn stop_pod(&self, id: &str) -> Result<(), Refused> {
        let request = StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.calls().stop_pod_sandbox(request).await.map(drop)
    }

    pub(super) async fn remove_pod(&self, id: &str) -> Result<(), Refused> {
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.calls().remove_pod_sandbox(request).await.map(drop)
    }

    pub(super) async fn pod_status(&self, id: &str) -> Verdict<PodSandboxStatus> {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: false,
        };
        let reply = self.calls().pod_sandbox_status(request).await?;
        let nothing = || Ended::Failed("PodSandboxStatus: no status in the answer".to_owned());
        reply.status.ok_or_else(nothing)
    }

    pub(super) async fn pods(&self, filter: PodSandboxFilter) -> Verdict<Vec<PodSandbox>> {
        let request = ListPodSandboxRequest {
            filter: Some(filter),
        };
        Ok(self.calls().list_pod_sandbox(request).await?.items)
    }

    /// Those of this scene.
    pub(super) async fn own_pods(&self) -> Verdict<Vec<PodSandbox>> {
        self.pods(PodSandboxFilter {
            label_selector: self.labels(),
            ..Default::default()
        })
        .await
    }
}

/// Containers.
impl Scene<'_> {
    /// One of busybox in this pod.
    pub(super) fn container(&self, pod: &Pod, name: &str, command: &[&str]) -> ContainerConfig {
        let sandbox = pod.config.linux.as_ref();
        let context = sandbox.and_then(|linux| linux.security_context.clone());
        let namespaces = context.and_then(|context| context.namespace_options);
        ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: name.to_owned(),
                attempt: 0,
            }),
            image: Some(spec(&self.bed.image)),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            labels: self.labels(),
            log_path: format!("{name}.log"),
            linux: Some(LinuxContainerConfig {
                resources: None,
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: namespaces,
                    ..Default::default()
                }),
            }),
            ..Default::default()
        }
    }

    /// One that runs a shell script.
    pub(super) fn script(&self, pod: &Pod, name: &str, script: &str) -> ContainerConfig {
        self.container(pod, name, &["sh", "-c", script])
    }

    /// One that lives until it is asked to end, and then does. Before it has said [`READY`] it is deaf, as the first process of its
    /// namespace is to a signal that it does not handle.
    pub(super) fn sleeper(&self, pod: &Pod, name: &str) -> ContainerConfig {
        let script = "trap 'exit 0' TERM; echo ready; while :; do sleep 1000 & wait $!; done";
        self.script(pod, name, script)
    }

    pub(super) async fn try_create(
        &self,
        pod: &Pod,
        config: ContainerConfig,
    ) -> Result<String, Refused> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        }
        .naming_the_users_images();
        let reply = self.calls().create_container(request).await?;
        Ok(reply.container_id)
    }

    pub(super) async fn create(&self, pod: &Pod, config: ContainerConfig) -> Verdict<String> {
        let id = self.try_create(pod, config).await?;
        ensure!(!id.is_empty(), "CreateContainer: no id in the answer");
        Ok(id)
    }

    pub(super) async fn start(&self, id: &str) -> Result<(), Refused> {
        let request = StartContainerRequest {
            container_id: id.to_owned(),
        };
        self.calls().start_container(request).await.map(drop)
    }

    /// Creates and starts.
    pub(super) async fn run(&self, pod: &Pod, config: ContainerConfig) -> Verdict<String> {
        let id = self.create(pod, config).await?;
        self.start(&id).await?;
        Ok(id)
    }

    /// A pod, and a container in it that lives, and ends when it is asked to.
    pub(super) async fn any_container(&self) -> Verdict<(Pod, String)> {
        let pod = self.any_pod().await?;
        let config = self.sleeper(&pod, "sleeper");
        let id = self.run(&pod, config.clone()).await?;
        self.until_logged(&pod, &config, READY).await?;
        Ok((pod, id))
    }

    /// Runs a container until it ends: how, and what it wrote.
    pub(super) async fn run_to_end(
        &self,
        pod: &Pod,
        config: ContainerConfig,
    ) -> Verdict<(ContainerStatus, String)> {
        let id = self.run(pod, config.clone()).await?;
        let status = self.until_exited(&id).await?;
        Ok((status, self.output(pod, &config)?))
    }

    /// What a script writes in a container of its own, which has to end well.
    pub(super) async fn written_by(&self, pod: &Pod, config: ContainerConfig) -> Verdict<String> {
        let (status, output) = self.run_to_end(pod, config).await?;
        let code = status.exit_code;
        ensure!(code == 0, "the container ended with {code}: {output}");
        Ok(output)
    }

    pub(super) async fn stop(&self, id: &str, seconds: i64) -> Result<(), Refused> {
        let request = StopContainerRequest {
            container_id: id.to_owned(),
            timeout: seconds,
        };
        self.calls().stop_container(request).await.map(drop)
    }

    pub(super) async fn remove(&self, id: &str) -> Result<(), Refused> {
        let request = RemoveContainerRequest {
            container_id: id.to_owned(),
        };
        self.calls().remove_container(request).await.map(drop)
    }

    pub(super) async fn status(&self, id: &str) -> Verdict<ContainerStatus> {
        let request = ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        };
        let reply = self.calls().container_status(request).await?;
        let nothing = || Ended::Failed("ContainerStatus: no status in the answer".to_owned());
        reply.status.ok_or_else(nothing)
    }

    pub(super) async fn containers(&self, filter: ContainerFilter) -> Verdict<Vec<Container>> {
        let request = ListContainersRequest {
            filter: Some(filter),
        };
        Ok(self.calls().list_containers(request).await?.containers)
    }

    pub(super) async fn own_containers(&self) -> Verdict<Vec<Container>> {
        self.containers(ContainerFilter {
            label_selector: self.labels(),
            ..Default::default()
        })
        .await
    }

    pub(super) async fn until_exited(&self, id: &str) -> Verdict<ContainerStatus> {
        let end = Instant::now() + self.patience();
        loop {
            let status = self.status(id).await?;
            if status.state() == ContainerState::ContainerExited {
                return Ok(status);
            }
            let state = status.state();
            ensure!(Instant::now() < end, "the container stays {state:?}");
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    pub(super) async fn exec(
        &self,
        id: &str,
        command: &[&str],
        seconds: i64,
    ) -> Result<ExecSyncResponse, Refused> {
        let request = ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.iter().map(|word| (*word).to_owned()).collect(),
            timeout: seconds,
        };
        self.calls().exec_sync(request).await
    }

    /// What a shell script writes in a running container, without the last line's end. It has to end well.
    pub(super) async fn sh(&self, id: &str, script: &str) -> Verdict<String> {
        let reply = self.exec(id, &["sh", "-c", script], 60).await?;
        let text = String::from_utf8_lossy(&reply.stdout);
        let (code, error) = (reply.exit_code, String::from_utf8_lossy(&reply.stderr));
        ensure!(code == 0, "{script}: ended with {code}: {text}{error}");
        Ok(text.trim_end().to_owned())
    }
}

/// Logs.
impl Scene<'_> {
    pub(super) fn log_path(&self, pod: &Pod, config: &ContainerConfig) -> PathBuf {
        Path::new(&pod.config.log_directory).join(&config.log_path)
    }

    pub(super) fn log(&self, pod: &Pod, config: &ContainerConfig) -> Verdict<Vec<LogLine>> {
        let path = self.log_path(pod, config);
        let text = fs::read(&path)
            .map_err(|error| Ended::Failed(format!("read {}: {error}", path.display())))?;
        let text = String::from_utf8_lossy(&text);
        // A line without its end is being written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(LogLine::parse).collect()
    }

    /// Both streams, whole lines.
    pub(super) fn output(&self, pod: &Pod, config: &ContainerConfig) -> Verdict<String> {
        let lines = self.log(pod, config)?;
        Ok(lines.iter().fold(String::new(), |mut text, line| {
            text.push_str(&line.text);
            if !line.partial {
                text.push('\n');
            }
            text
        }))
    }

    pub(super) async fn until_logged(
        &self,
        pod: &Pod,
        config: &ContainerConfig,
        wanted: &str,
    ) -> Verdict {
        self.until(&format!("{wanted:?} in the log"), async || {
            let output = self.output(pod, config).unwrap_or_default();
            Ok(output.contains(wanted).then_some(()))
        })
        .await
    }

    /// Asks again and again until there is something.
    pub(super) async fn until<T>(
        &self,
        what: &str,
        mut probe: impl AsyncFnMut() -> Verdict<Option<T>>,
    ) -> Verdict<T> {
        let limit = self.patience();
        let end = Instant::now() + limit;
        loop {
            if let Some(found) = probe().await? {
                return Ok(found);
            }
            ensure!(Instant::now() < end, "{what}: not within {limit:?}");
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    /// As [`Self::until`], of what a runtime that is slow may refuse for a moment.
    pub(super) async fn until_told<T>(
        &self,
        what: &str,
        mut ask: impl AsyncFnMut() -> Result<Option<T>, Refused>,
    ) -> Verdict<T> {
        let mut last = String::new();
        let told = self.until(what, async || match ask().await {
            Ok(found) => Ok(found),
            Err(refused) if refused.code() == tonic::Code::Unimplemented => Err(refused.into()),
            Err(refused) => {
                last = refused.to_string();
                Ok(None)
            }
        });
        match told.await {
            Err(Ended::Failed(why)) if !last.is_empty() => {
                Err(Ended::Failed(format!("{why}: {last}")))
            }
            told => told,
        }
    }
}

/// Images.
impl Scene<'_> {
    /// Busybox with something of this scene's own in its configuration, so that no other scene has this image.
    pub(super) fn recipe(&self, name: &str) -> ImageBuilder {
        let own = format!("{}-{}-{name}", self.bed.run, self.name);
        self.bed.busybox.clone().label("longshore.check", &own)
    }

    /// Serves an image, which is removed from the runtime at the scene's end.
    pub(super) fn push(&self, repository: &str, tag: &str, image: &Built) -> String {
        let repository = format!("check/{}-{}/{repository}", self.bed.run, self.name);
        let reference = self.bed.registry.push(&repository, tag, image);
        self.images.borrow_mut().push(reference.clone());
        reference
    }

    /// An image of this scene's own.
    pub(super) fn own_image(&self, name: &str) -> String {
        self.push(name, "1", &self.recipe(name).build())
    }

    pub(super) async fn pull(&self, reference: &str) -> Result<String, Refused> {
        let request = PullImageRequest {
            image: Some(spec(reference)),
            ..Default::default()
        };
        Ok(self.calls().pull_image(request).await?.image_ref)
    }

    pub(super) async fn image(&self, reference: &str) -> Verdict<Option<Image>> {
        let request = ImageStatusRequest {
            image: Some(spec(reference)),
            verbose: false,
        };
        Ok(self.calls().image_status(request).await?.image)
    }

    pub(super) async fn present_image(&self, reference: &str) -> Verdict<Image> {
        let image = self.image(reference).await?;
        let missing = || Ended::Failed(format!("ImageStatus of {reference}: there is none"));
        image.ok_or_else(missing)
    }

    pub(super) async fn images(&self) -> Verdict<Vec<Image>> {
        let request = ListImagesRequest::default();
        Ok(self.calls().list_images(request).await?.images)
    }

    pub(super) async fn remove_image(&self, reference: &str) -> Result<(), Refused> {
        let request = RemoveImageRequest {
            image: Some(spec(reference)),
        };
        self.calls().remove_image(request).await.map(drop)
    }
}

/// The end.
impl Scene<'_> {
    /// Removes everything that the scene has made, as a kubelet would; what refuses to go, or is still there then, is the runtime's fault.
    pub(super) async fn clear(&self) -> Verdict {
        for pod in self.own_pods().await? {
            self.stop_pod(&pod.id).await?;
            self.remove_pod(&pod.id).await?;
        }
        for reference in self.images.take() {
            self.remove_image(&reference).await?;
        }
        let pods: Vec<String> = self.own_pods().await?.into_iter().map(|it| it.id).collect();
        ensure!(pods.is_empty(), "removed pods are still listed: {pods:?}");
        let left = self.own_containers().await?;
        let left: Vec<String> = left.into_iter().map(|it| it.id).collect();
        ensure!(left.is_empty(), "containers of no pod are left: {left:?}");
        let _ = fs::remove_dir_all(&self.directory);
        Ok(())
    }
}

impl LogLine {
    /// `TIME STREAM TAGS TEXT` (kubelet's logging format for CRI).
    fn parse(line: &str) -> Verdict<Self> {
        let mut words = line.splitn(4, ' ');
        let (Some(time), Some(stream), Some(tags), Some(text)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(Ended::Failed(format!("no log line of CRI's: {line:?}")));
        };
        let known = ["stdout", "stderr"].contains(&stream) && time.contains('T');
        ensure!(known, "no log line of CRI's: {line:?}");
        Ok(Self {
            time: time.to_owned(),
            stream: stream.to_owned(),
            partial: tags.split(':').any(|tag| tag == "P"),
            text: text.to_owned(),
        })
    }
}

/// What the kubelet finds its own by: metadata, labels, annotations.
pub(super) type Marks<'a, M> = (
    &'a Option<M>,
    &'a BTreeMap<String, String>,
    &'a BTreeMap<String, String>,
);

/// Whether they are told as they were given.
pub(super) fn kept<M: PartialEq + std::fmt::Debug>(
    told: &str,
    found: Marks<'_, M>,
    given: Marks<'_, M>,
) -> Verdict {
    ensure_eq!(found.0, given.0, "{told} metadata");
    ensure_eq!(found.1, given.1, "{told} labels");
    ensure_eq!(found.2, given.2, "{told} annotations");
    Ok(())
}

pub(super) fn spec(image: &str) -> ImageSpec {
    ImageSpec {
        image: image.to_owned(),
        ..Default::default()
    }
}

pub(super) fn pod_namespaces(config: &mut PodSandboxConfig) -> &mut NamespaceOption {
    pod_security(config)
        .namespace_options
        .get_or_insert_default()
}

pub(super) fn pod_security(config: &mut PodSandboxConfig) -> &mut LinuxSandboxSecurityContext {
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default()
}

pub(super) fn security(config: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default()
}

pub(super) fn resources(config: &mut ContainerConfig) -> &mut LinuxContainerResources {
    let linux = config.linux.get_or_insert_default();
    linux.resources.get_or_insert_default()
}
