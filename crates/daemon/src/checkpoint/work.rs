//! One container's checkpoint in the making: what is written down of it, and where.

use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use copy::Packer;
use oci_plan::FdSlot;
use oci_spec::runtime::Spec;
use supervisor_api::{Dump, RequestBody};

use super::{
    CheckpointError,
    archive::Timely,
    criu::{self, Criu},
    layer::Changes,
    metadata::{self, DELETED, DESCRIPTORS, EXTERNAL, IMAGES, LAYER},
    mounts, root,
};
use crate::{
    container::{Container, Phase},
    pod::config::NamespaceMode,
    runtime::{Runtime, blocking},
    supervisor::{CallError, Link},
};

/// Where the request names no time: a kubelet waits two minutes.
const DEFAULT_BOUND: Duration = Duration::from_secs(110);

/// How long an operation may take, from now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Term {
    pub(super) until: Instant,
    pub(super) bound: Duration,
}

impl Term {
    /// `None`: as long as a kubelet would wait.
    pub(super) fn new(bound: Option<Duration>) -> Self {
        let bound = bound.unwrap_or(DEFAULT_BOUND);
        Self {
            until: Instant::now() + bound,
            bound,
        }
    }
}

/// A checkpoint in the making.
pub(super) struct Work {
    pub(super) runtime: Arc<Runtime>,
    pub(super) container: Arc<Container>,
    link: Arc<Link>,
    /// What is written down comes here.
    pub(super) directory: PathBuf,
    /// Ours, for as long as the work takes; `directory` may be there.
    scratch: PathBuf,
    pub(super) term: Term,
}

/// Holds containers of one pod still: all of them, or none. The supervisor lets them go by itself when their time is over, or the daemon dies.
pub(super) async fn freeze(all: &[Work]) -> Result<(), CheckpointError> {
    let Some(first) = all.first() else {
        return Ok(());
    };
    let request = RequestBody::Freeze {
        ids: all
            .iter()
            .map(|work| work.container.id.to_string())
            .collect(),
        bound_ms: first.left_ms()?,
    };
    let frozen = first
        .link
        .order_within("Freeze", request, Vec::new(), first.left()?);
    frozen.await.map_err(|error| match error {
        CallError::Silent(_) => first.late(),
        error => CheckpointError::Freeze(first.container.id.clone(), error),
    })
}

/// Lets them go on, whether or not they were held still. A dump that is under way is ended before.
pub(super) async fn thaw(all: &[Work]) -> Result<(), CheckpointError> {
    let Some(first) = all.first() else {
        return Ok(());
    };
    let request = RequestBody::Thaw {
        ids: all
            .iter()
            .map(|work| work.container.id.to_string())
            .collect(),
    };
    let thawed = first.link.order("Thaw", request, Vec::new());
    thawed
        .await
        .map_err(|error| CheckpointError::Supervisor(first.container.id.clone(), error))
}

impl Work {
    pub(super) fn new(
        runtime: &Arc<Runtime>,
        container: &Arc<Container>,
        directory: PathBuf,
        term: Term,
    ) -> Result<Self, CheckpointError> {
        Ok(Self {
            link: admit(container)?,
            scratch: root(runtime).join(container.id.as_str()),
            runtime: Arc::clone(runtime),
            container: Arc::clone(container),
            directory,
            term,
        })
    }

    pub(super) fn spec(&self) -> Result<Arc<Spec>, CheckpointError> {
        let spec = self.container.spec(&self.runtime.records);
        spec.map_err(|error| CheckpointError::Record(self.container.id.clone(), error))
    }

    /// Empty directories to work in.
    pub(super) async fn prepare(&self) -> Result<(), CheckpointError> {
        let (directory, scratch) = (self.directory.clone(), self.scratch.clone());
        let made = self.blocking(move || {
            if let Err(error) = std::fs::remove_dir_all(&scratch)
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error);
            }
            for directory in [directory.join(IMAGES), scratch.join(SHIMS)] {
                std::fs::DirBuilder::new()
                    .mode(0o700)
                    .recursive(true)
                    .create(directory)?;
            }
            shim(&scratch.join(SHIMS))
        });
        made.await?
            .map_err(|source| self.files("make a directory to work in", source))
    }

    /// All that is read of the container while it stands still.
    pub(super) async fn cut(&self, criu: &Criu, spec: &Arc<Spec>) -> Result<(), CheckpointError> {
        let (arguments, mounts) = self.arguments(criu, spec).await?;
        let request = RequestBody::Dump(Box::new(Dump {
            container_id: self.container.id.to_string(),
            program: criu.program.display().to_string(),
            arguments,
            path: format!("{}:{}", self.scratch.join(SHIMS).display(), criu::PATH),
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

    /// What the container is, beside what was read of it.
    pub(super) async fn describe(&self, spec: Arc<Spec>) -> Result<(), CheckpointError> {
        let (directory, container) = (self.directory.clone(), Arc::clone(&self.container));
        let (scratch, nested) = (self.scratch.clone(), self.directory == self.scratch);
        let written = self.blocking(move || {
            if nested {
                std::fs::remove_dir_all(scratch.join(SHIMS))?;
            }
            metadata::write(&directory, &container, &spec)
        });
        written
            .await?
            .map_err(|source| self.files("describe it", source))
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
        let cgroup = self.container.cgroup().to_owned();
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
        let (directory, until) = (self.directory.clone(), self.term.until);
        let written = self.blocking(move || {
            let overlay = &runtime.overlay;
            let image = runtime.images.find(&container.image_id).ok().flatten();
            let image = image.ok_or_else(|| io::Error::other("its image is gone"))?;
            let view = overlay.view(&image.layers).map_err(io::Error::other)?;
            let file = File::create_new(directory.join(LAYER))?;
            let changes = Changes {
                upper: &overlay.container_dir(container.id.as_str()).join("upper"),
                image: &view,
                archive: Packer::new(Timely {
                    inner: &file,
                    until,
                }),
                deleted: Vec::new(),
                until,
            };
            let deleted = changes.write()?;
            metadata::json_file(&directory, DELETED, &deleted)
        });
        written
            .await?
            .map_err(|source| self.files("write down what it has changed of its image", source))
    }

    async fn not_dumped(&self, source: CallError) -> CheckpointError {
        if Instant::now() >= self.term.until {
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

    /// Removes what was only needed meanwhile.
    pub(super) async fn remove(&self) {
        let directory = self.scratch.clone();
        let removed = blocking(Duration::from_secs(60), move || {
            std::fs::remove_dir_all(directory)
        });
        match removed.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {}
            trouble => tracing::warn!(
                ?trouble,
                directory = %self.scratch.display(),
                "an unfinished checkpoint stays on the disk until the daemon is started again"
            ),
        }
    }

    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, CheckpointError> {
        let bound = self.left()? + Duration::from_secs(5);
        blocking(bound, call)
            .await
            .map_err(|error| CheckpointError::Blocking(self.container.id.clone(), error))
    }

    pub(super) fn left(&self) -> Result<Duration, CheckpointError> {
        match self.term.until.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(self.late()),
            left => Ok(left),
        }
    }

    fn left_ms(&self) -> Result<u64, CheckpointError> {
        Ok(u64::try_from(self.left()?.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn late(&self) -> CheckpointError {
        CheckpointError::Late {
            id: self.container.id.clone(),
            bound: self.term.bound,
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
    if let Some(made_with) = pod.made_with.as_ref().filter(|one| one.own_kernel) {
        let name = &made_with.name;
        return Some(format!(
            "its pod's handler is {name}, whose containers have a kernel of their own, and CRIU asks the node's"
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

/// Before the node's programs on CRIU's path.
const SHIMS: &str = "bin";

/// A CRIU that cannot be told to leave the network alone (before 3.19) blocks it by `iptables-restore` while it writes. That guards the state
/// of connections, of which none is written; and were CRIU killed meanwhile, the pod would stay without its network.
fn shim(shims: &Path) -> io::Result<()> {
    for name in ["iptables-restore", "ip6tables-restore"] {
        std::os::unix::fs::symlink("/bin/true", shims.join(name))?;
    }
    Ok(())
}
