//! CheckpointContainer.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use oci_plan::FdSlot;
use oci_spec::runtime::Spec;
use supervisor_api::{Dump, RequestBody};

use super::{
    CheckpointError,
    archive::{Partial, add_all},
    criu::{self, Criu},
    layer::Changes,
    metadata::{self, DELETED, DESCRIPTORS, EXTERNAL, IMAGES, LAYER},
    mounts, root,
};
use crate::{
    container::{Container, Phase},
    flight::Crashed,
    pod::config::NamespaceMode,
    runtime::{Runtime, blocking},
    supervisor::{CallError, Link},
};

/// Where the request names no time: a kubelet waits two minutes.
const DEFAULT_BOUND: Duration = Duration::from_secs(110);

/// Writes a running container into an archive at `location`; it goes on. Zero is the default of two minutes, less what a kubelet needs to hear
/// of it. Cancellation: the checkpoint is made to its end.
pub(crate) async fn checkpoint(
    runtime: &Arc<Runtime>,
    container: &Arc<Container>,
    location: PathBuf,
    bound: Duration,
) -> Result<(), CheckpointError> {
    let bound = match bound {
        Duration::ZERO => DEFAULT_BOUND,
        bound => bound,
    };
    let (runtime, container) = (Arc::clone(runtime), Arc::clone(container));
    let made = tokio::spawn(async move {
        let id = container.id.clone();
        let _busy = runtime
            .checkpoints
            .begin(&id)
            .ok_or_else(|| CheckpointError::Busy(id.clone()))?;
        let link = admit(&container)?;
        let criu = runtime.checkpoints.criu.get(&runtime.config).await;
        let criu = criu.map_err(|error| CheckpointError::Criu(id, error))?;
        let work = Work {
            directory: root(&runtime).join(container.id.as_str()),
            until: Instant::now() + bound,
            bound,
            runtime: Arc::clone(&runtime),
            container,
            link,
        };
        let written = work.write(criu, location).await;
        work.remove().await;
        written
    });
    made.await.map_err(|_panicked| Crashed)?
}

/// Whether the container can be written down at all, and by whom.
fn admit(container: &Container) -> Result<Arc<Link>, CheckpointError> {
    let id = &container.id;
    let state = match container.phase() {
        Phase::Running { .. } => None,
        Phase::Creating => Some("being created"),
        Phase::Created { .. } => Some("created"),
        Phase::Exited(_) => Some("exited"),
        Phase::Removed => Some("removed"),
    };
    if let Some(state) = state {
        return Err(CheckpointError::State {
            id: id.clone(),
            state,
        });
    }
    if let Some(why) = unsupported(container) {
        return Err(CheckpointError::Unsupported {
            id: id.clone(),
            why,
        });
    }
    container.pod.link().ok_or_else(|| CheckpointError::State {
        id: id.clone(),
        state: "without its supervisor",
    })
}

/// What neither can be restored nor is tried.
fn unsupported(container: &Container) -> Option<String> {
    let (config, pod) = (&container.config, &container.pod);
    let process = config.linux.security_context.namespace_options.pid;
    if let Some(made_with) = &pod.made_with {
        let name = &made_with.name;
        return Some(format!(
            "its pod's handler is {name}; only the embedded core's containers can be checkpointed"
        ));
    }
    let why = if config.tty {
        "it has a terminal, whose other end CRIU would have to write down as well"
    } else if pod.config.user_namespace().is_some() {
        "its pod has a user namespace, which CRIU cannot restore a container into"
    } else if process != NamespaceMode::Container {
        "it has no PID namespace of its own: its processes would not get their numbers back"
    } else {
        return None;
    };
    Some(why.to_owned())
}

/// A checkpoint in the making.
struct Work {
    runtime: Arc<Runtime>,
    container: Arc<Container>,
    link: Arc<Link>,
    directory: PathBuf,
    until: Instant,
    bound: Duration,
}

impl Work {
    async fn write(&self, criu: Criu, location: PathBuf) -> Result<(), CheckpointError> {
        let spec = self.container.spec(&self.runtime.records);
        let spec =
            spec.map_err(|error| CheckpointError::Record(self.container.id.clone(), error))?;
        let partial = self.open(location.clone()).await?;
        let frozen = self.cut(&criu, &spec).await;
        // Whatever came of it; the supervisor would do it by itself when the time is over.
        let thawed = self.thaw().await;
        frozen?;
        thawed?;
        self.put_together(partial, location, spec).await
    }

    /// The archive's file, before a process is held still for nothing, and an empty directory to work in.
    async fn open(&self, location: PathBuf) -> Result<(Partial, File), CheckpointError> {
        let (directory, place) = (self.directory.clone(), location.clone());
        let tag = self.container.id.as_str()[..12].to_owned();
        self.blocking(move || {
            if let Err(error) = std::fs::remove_dir_all(&directory)
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err((None, error));
            }
            std::fs::DirBuilder::new()
                .mode(0o700)
                .recursive(true)
                .create(directory.join(IMAGES))
                .and_then(|()| shim(&directory))
                .map_err(|error| (None, error))?;
            Partial::create(&place, &tag).map_err(|error| (Some(place), error))
        })
        .await?
        .map_err(|(place, source)| match place {
            Some(path) => CheckpointError::Location {
                id: self.container.id.clone(),
                path,
                source,
            },
            None => self.files("make a directory to work in", source),
        })
    }

    /// All that is read of the container while it stands still.
    async fn cut(&self, criu: &Criu, spec: &Arc<Spec>) -> Result<(), CheckpointError> {
        let id = self.container.id.to_string();
        let request = RequestBody::Freeze {
            ids: vec![id.clone()],
            bound_ms: self.left_ms()?,
        };
        let frozen = self
            .link
            .order_within("Freeze", request, Vec::new(), self.left()?);
        frozen
            .await
            .map_err(|error| self.called(error, CheckpointError::Freeze))?;
        let (arguments, mounts) = self.arguments(criu, spec).await?;
        let request = RequestBody::Dump(Box::new(Dump {
            container_id: id,
            program: criu.program.display().to_string(),
            arguments,
            path: format!("{}:{}", self.directory.join(SHIMS).display(), criu::PATH),
            mounts: FdSlot(0),
            bound_ms: self.left_ms()?,
        }));
        // The supervisor's word on what it has killed takes a moment.
        let bound = self.left()? + Duration::from_secs(5);
        let dumped = self.link.order_within("Dump", request, vec![mounts], bound);
        if let Err(error) = dumped.await {
            return Err(self.not_dumped(error).await);
        }
        self.layer().await
    }

    async fn thaw(&self) -> Result<(), CheckpointError> {
        let request = RequestBody::Thaw {
            ids: vec![self.container.id.to_string()],
        };
        let thawed = self.link.order("Thaw", request, Vec::new());
        thawed
            .await
            .map_err(|error| CheckpointError::Supervisor(self.container.id.clone(), error))
    }

    /// The arguments of a dump, with notes of what a restore needs, and the host's mount namespace.
    async fn arguments(
        &self,
        criu: &Criu,
        spec: &Arc<Spec>,
    ) -> Result<(Vec<String>, OwnedFd), CheckpointError> {
        let Phase::Running { pid, .. } = self.container.phase() else {
            return Err(CheckpointError::State {
                id: self.container.id.clone(),
                state: "exited",
            });
        };
        let (directory, spec) = (self.directory.clone(), Arc::clone(spec));
        let own_network = self.container.pod.config.namespaces().net;
        let hierarchies = self.runtime.hierarchies.clone();
        let cgroup = self.container.cgroup.clone();
        let skips_lock = criu.skips_lock;
        let looked = self.blocking(move || {
            let process = PathBuf::from(format!("/proc/{pid}"));
            let streams: Vec<String> = (0..3)
                .map(|number| {
                    let target = std::fs::read_link(process.join(format!("fd/{number}")));
                    target.map_or_else(|_closed| String::new(), |one| one.display().to_string())
                })
                .collect();
            metadata::json_file(&directory.join(IMAGES), DESCRIPTORS, &streams)?;
            let table = std::fs::read_to_string(process.join("mountinfo"))?;
            let external = mounts::external(&table, &spec);
            metadata::json_file(&directory.join(IMAGES), EXTERNAL, &external)?;
            let mut arguments: Vec<String> = [
                ("--images-dir", directory.join(IMAGES)),
                ("--work-dir", directory.clone()),
            ]
            .into_iter()
            .flat_map(|(option, path)| [option.to_owned(), path.display().to_string()])
            .collect();
            let options = [
                "--log-file=dump.log",
                "-v4",
                "--leave-running",
                "--manage-cgroups=ignore",
                "--file-locks",
                // A restored pod has another address.
                "--tcp-close",
            ];
            arguments.extend(options.map(str::to_owned));
            if skips_lock {
                arguments.push("--network-lock=skip".to_owned());
            }
            let freezer = hierarchies
                .open_cgroup(&cgroup)
                .and_then(|cgroup| cgroup.freezer_directory())
                .map_err(io::Error::other)?;
            arguments.extend(["--freeze-cgroup".to_owned(), freezer.display().to_string()]);
            let mut leave_out = |what: String| arguments.extend(["--external".to_owned(), what]);
            for point in external {
                let point = point.display();
                leave_out(format!("mnt[{point}]:{point}"));
            }
            if own_network {
                use std::os::unix::fs::MetadataExt;
                let inode = process.join("ns/net").metadata()?.ino();
                leave_out(format!("net[{inode}]:extRootNetNS"));
            }
            let mounts = OwnedFd::from(File::open("/proc/self/ns/mnt")?);
            Ok((arguments, mounts))
        });
        looked
            .await?
            .map_err(|source| self.files("look at its processes", source))
    }

    /// The writable layer's changes, beside what CRIU has written.
    async fn layer(&self) -> Result<(), CheckpointError> {
        let (runtime, container) = (Arc::clone(&self.runtime), Arc::clone(&self.container));
        let (directory, until) = (self.directory.clone(), self.until);
        let written = self.blocking(move || {
            let overlay = &runtime.overlay;
            let image = runtime.images.find(&container.image_id).ok().flatten();
            let image = image.ok_or_else(|| io::Error::other("its image is gone"))?;
            let view = overlay.view(&image.layers).map_err(io::Error::other)?;
            let file = File::create_new(directory.join(LAYER))?;
            let changes = Changes {
                upper: &overlay.container_dir(container.id.as_str()).join("upper"),
                image: &view,
                archive: tar::Builder::new(&file),
                deleted: Vec::new(),
                until,
                linked: BTreeMap::new(),
            };
            let deleted = changes.write()?;
            metadata::json_file(&directory, DELETED, &deleted)
        });
        written
            .await?
            .map_err(|source| self.files("write down what it has changed of its image", source))
    }

    async fn put_together(
        &self,
        (partial, file): (Partial, File),
        location: PathBuf,
        spec: Arc<Spec>,
    ) -> Result<(), CheckpointError> {
        let (directory, container) = (self.directory.clone(), Arc::clone(&self.container));
        let until = self.until;
        let written = self.blocking(move || {
            metadata::write(&directory, &container, &spec)?;
            std::fs::remove_dir_all(directory.join(SHIMS))?;
            let mut archive = tar::Builder::new(&file);
            add_all(&mut archive, &directory, Path::new(""), until)?;
            archive.finish()?;
            drop(archive);
            partial.put(&file)
        });
        written.await?.map_err(|source| match source.kind() {
            io::ErrorKind::TimedOut => self.late(),
            _ => CheckpointError::Location {
                id: self.container.id.clone(),
                path: location,
                source,
            },
        })
    }

    async fn not_dumped(&self, source: CallError) -> CheckpointError {
        if Instant::now() >= self.until {
            return self.late();
        }
        let path = self.directory.join("dump.log");
        let log = blocking(Duration::from_secs(10), move || std::fs::read(path)).await;
        let log = log.ok().and_then(Result::ok).unwrap_or_default();
        let said = match log.is_empty() {
            true => crate::rpc::chain(&source),
            false => criu::errors(&String::from_utf8_lossy(&log)),
        };
        CheckpointError::Dump {
            id: self.container.id.clone(),
            said,
        }
    }

    async fn remove(&self) {
        let directory = self.directory.clone();
        let removed = blocking(Duration::from_secs(60), move || {
            std::fs::remove_dir_all(directory)
        });
        match removed.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {}
            trouble => tracing::warn!(
                ?trouble,
                directory = %self.directory.display(),
                "an unfinished checkpoint stays on the disk until the daemon is started again"
            ),
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, CheckpointError> {
        let bound = self.left()? + Duration::from_secs(5);
        blocking(bound, call)
            .await
            .map_err(|error| CheckpointError::Blocking(self.container.id.clone(), error))
    }

    fn left(&self) -> Result<Duration, CheckpointError> {
        match self.until.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(self.late()),
            left => Ok(left),
        }
    }

    fn left_ms(&self) -> Result<u64, CheckpointError> {
        Ok(u64::try_from(self.left()?.as_millis()).unwrap_or(u64::MAX))
    }

    fn late(&self) -> CheckpointError {
        CheckpointError::Late {
            id: self.container.id.clone(),
            bound: self.bound,
        }
    }

    fn files(&self, action: &'static str, source: io::Error) -> CheckpointError {
        match source.kind() {
            io::ErrorKind::TimedOut => self.late(),
            _ => CheckpointError::Files {
                id: self.container.id.clone(),
                action,
                source,
            },
        }
    }

    fn called(
        &self,
        error: CallError,
        as_what: impl FnOnce(crate::id::ContainerId, CallError) -> CheckpointError,
    ) -> CheckpointError {
        match error {
            CallError::Silent(_) => self.late(),
            error => as_what(self.container.id.clone(), error),
        }
    }
}

/// Before the node's programs on CRIU's path.
const SHIMS: &str = "bin";

/// A CRIU that cannot be told to leave the network alone (before 3.19) blocks it by `iptables-restore` while it writes. That guards the state
/// of connections, of which none is written; and were CRIU killed meanwhile, the pod would stay without its network.
fn shim(directory: &Path) -> io::Result<()> {
    let shims = directory.join(SHIMS);
    std::fs::create_dir(&shims)?;
    for name in ["iptables-restore", "ip6tables-restore"] {
        std::os::unix::fs::symlink("/bin/true", shims.join(name))?;
    }
    Ok(())
}
