//! CreateContainer from a checkpoint.
//!
//! ```text
//!  found by its image ─▶ taken out ─▶ the writable layer ─▶ (made as every container, but) criu restore ─▶ audited, still stopped ─▶ Created
//!     an archive's path,  plain files   changes unpacked,    in the new pod's namespaces and                   anything more than the
//!     or an image that    into a        deletions as          cgroup, with the new mounts and streams          request gives: undone
//!     is a checkpoint     directory     whiteouts
//! ```
//!
//! StartContainer lets the processes go on. Mounts, namespaces, cgroup, limits and log are the request's; the processes, what they may do
//! and what they have open are the checkpoint's.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use image::{Image, LayerError};
use oci_plan::ContainerPlan;
use oci_spec::runtime::Spec;
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use supervisor_api::{Bundle, CreateContainer, Inherited, ReplyBody, RequestBody, Restore};

use super::{
    audit::{Bounds, Excess},
    criu::{self, Criu, CriuError},
    metadata::{DELETED, DESCRIPTORS, EXTERNAL, IMAGES, LAYER, SPEC},
    mounts::is_bind,
    opened::{self, Described, OpenError, Origin},
    root,
};
use crate::{
    container::{Container, config::ContainerConfig},
    handlers::{BundleError, make_places},
    id::ContainerId,
    pod::config::NamespaceMode,
    runtime::{BlockingError, Runtime, blocking},
    supervisor::{CallError, Link, mismatch},
};

/// How long processes may take to be made again, and before that a checkpoint to be taken out.
const BOUND: Duration = Duration::from_secs(100);

/// Of the files that a container had changed.
const MOST_LAYER_BYTES: u64 = 1 << 40;

/// What CRIU calls something that the processes had open, and what it becomes.
type Kept = Vec<(String, Inherited)>;

/// runc's name for the network that is not the checkpoint's.
const NETWORK: &str = "extRootNetNS";

#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    #[error("open the checkpoint")]
    Open(#[from] OpenError),
    #[error("the checkpoint's image ({names}) is not on the node: pull it first")]
    NoImage { names: String },
    #[error("the request's image is {asked}, and the checkpoint was made of {made_of}")]
    OtherImage { asked: String, made_of: String },
    #[error(transparent)]
    Criu(CriuError),
    #[error("{0}")]
    Unsupported(String),
    #[error("the checkpoint has a mount at {}, and the request has none there", .0.display())]
    NoMount(PathBuf),
    #[error("the request has a mount at {}, and the checkpoint has none there", .0.display())]
    NewMount(PathBuf),
    #[error("unpack what the container had changed of its image")]
    Layer(#[source] LayerError),
    #[error("{action}")]
    Files {
        action: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error("criu restore failed: {0}")]
    Failed(String),
    #[error(transparent)]
    Supervisor(CallError),
    #[error(transparent)]
    Excess(#[from] Excess),
    #[error("find its cgroup")]
    Cgroup(#[from] cgroup::Error),
    #[error(transparent)]
    Blocking(#[from] BlockingError),
}

/// A checkpoint that a container is to be made from.
#[derive(Debug, Clone)]
pub(crate) struct Restoring {
    origin: Origin,
    /// The image below the container.
    pub(crate) image: Arc<Image>,
}

impl Restoring {
    /// The checkpoint that a request names as its image: by the absolute path of an archive, or an image that is one. `None`: it is an image
    /// like others, or none that is known.
    pub(crate) async fn find(
        runtime: &Arc<Runtime>,
        config: &ContainerConfig,
    ) -> Result<Option<Self>, RestoreError> {
        let name = &config.image.image;
        let origin = match &config.checkpoint {
            Some(directory) => Origin::Directory(directory.clone()),
            None if name.starts_with('/') => Origin::Archive(PathBuf::from(name)),
            None => match runtime.images.find(name) {
                Ok(Some(image)) if opened::may_be(runtime, &image) => Origin::Image(image),
                // Whoever looks for the image will say what is wrong.
                Ok(_) | Err(_) => return Ok(None),
            },
        };
        let described = {
            let (runtime, origin) = (Arc::clone(runtime), origin.clone());
            blocking(BOUND, move || opened::describe(&runtime, &origin)).await??
        };
        let Some(described) = described else {
            return Ok(None);
        };
        let image = base(runtime, &described).ok_or_else(|| RestoreError::NoImage {
            names: described.images().collect::<Vec<_>>().join(", "),
        })?;
        // There the name is the image's; elsewhere it is the checkpoint's.
        if config.checkpoint.is_some() {
            let asked = runtime.images.find(name).ok().flatten();
            let asked = asked.ok_or_else(|| RestoreError::NoImage {
                names: name.clone(),
            })?;
            if asked.id != image.id {
                return Err(RestoreError::OtherImage {
                    asked: name.clone(),
                    made_of: image.name().to_owned(),
                });
            }
        }
        Ok(Some(Self { origin, image }))
    }

    /// Takes the checkpoint out, where the container can be restored at all.
    pub(crate) async fn unpack(
        &self,
        runtime: &Arc<Runtime>,
        container: &Container,
    ) -> Result<(), RestoreError> {
        if let Some(why) = unsupported(container) {
            return Err(RestoreError::Unsupported(why));
        }
        // Before anything is written.
        criu(runtime).await?;
        let directory = directory(runtime, &container.id);
        let (runtime, origin) = (Arc::clone(runtime), self.origin.clone());
        blocking(BOUND, move || opened::unpack(&runtime, &origin, &directory)).await??;
        Ok(())
    }

    /// Fills the container's writable layer, which is empty. Blocks.
    pub(crate) fn fill(&self, runtime: &Runtime, id: &ContainerId) -> Result<(), RestoreError> {
        let directory = directory(runtime, id);
        let files = |action| move |source| RestoreError::Files { action, source };
        let layer = match File::open(directory.join(LAYER)) {
            Ok(layer) => layer,
            // Nothing was changed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(files("open what the container had changed")(error)),
        };
        let deleted: Vec<PathBuf> = opened::json(&directory, DELETED)?.unwrap_or_default();
        let whiteouts = opened::whiteouts(&deleted)?;
        let upper = runtime.overlay.container_dir(id.as_str()).join("upper");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let upper = rustix::fs::open(&upper, flags, Mode::empty())
            .map_err(|error| files("open its writable layer")(error.into()))?;
        let view = runtime
            .overlay
            .view(&self.image.layers)
            .map_err(|error| files("look at its image")(io::Error::other(error)))?;
        let archive = BufReader::with_capacity(256 << 10, io::Cursor::new(whiteouts).chain(layer));
        image::unpack_changes(upper, view, archive, MOST_LAYER_BYTES).map_err(RestoreError::Layer)
    }
}

/// Makes the container's processes, and looks at them. They are stopped. Returns the pid of the first.
pub(crate) async fn make(
    runtime: &Arc<Runtime>,
    container: &Arc<Container>,
    link: &Link,
    spec: &Spec,
    create: CreateContainer,
    mut descriptors: Vec<OwnedFd>,
) -> Result<i32, RestoreError> {
    if spec.hooks().is_some() {
        let why = "hooks before its start cannot run in a container that is restored";
        return Err(RestoreError::Unsupported(why.to_owned()));
    }
    if create.plan.process.labels != oci_plan::Labels::default() {
        let why =
            "the container is to have a label of a security module, and its processes keep theirs";
        return Err(RestoreError::Unsupported(why.to_owned()));
    }
    if create.plan.process.habits.memory_policy.is_some() {
        let why = "the container is to have a memory policy, and its processes keep theirs";
        return Err(RestoreError::Unsupported(why.to_owned()));
    }
    let criu = criu(runtime).await?;
    let id = &container.id;
    let work = directory(runtime, id);
    let pod = &container.pod;
    let own_network = pod.config.namespaces().net;
    let places = {
        let (runtime, container, spec) = (Arc::clone(runtime), Arc::clone(container), spec.clone());
        let (work, plan) = (work.clone(), create.plan.clone());
        let prepare = move || {
            let (bundle, placed) =
                make_places(runtime.records.bundles(), &spec, &plan, &descriptors)?;
            let (mut arguments, streams) = arguments(&work, &bundle, &spec)?;
            for (point, source) in sources(&runtime, &container, &work, &spec, &placed)? {
                let (point, source) = (point.display(), source.display());
                arguments.extend(["--external".to_owned(), format!("mnt[{point}]:{source}")]);
            }
            let mut open = |path: &Path| -> Result<(), RestoreError> {
                let file = File::open(path).map_err(|source| RestoreError::Files {
                    action: "open what the restore is run in",
                    source,
                })?;
                descriptors.push(file.into());
                Ok(())
            };
            open(Path::new("/proc/self/ns/mnt"))?;
            open(&container.pod.directory)?;
            Ok::<_, RestoreError>((arguments, streams, descriptors))
        };
        blocking(BOUND, prepare).await??
    };
    let (arguments, mut inherited, given) = places;
    let root_device = device(&create.plan, &given)?;
    descriptors = given;
    if own_network {
        inherited.push((NETWORK.to_owned(), Inherited::Network));
    }
    let last = descriptors.len();
    let bounds = Bounds::of(
        &create.plan,
        match own_network {
            true => Some(network(runtime, container).await?),
            false => None,
        },
        root_device,
    );
    let request = RequestBody::Restore(Box::new(Restore {
        create,
        program: criu.program.display().to_string(),
        arguments,
        path: criu::PATH.to_owned(),
        bundles: runtime.records.bundles().display().to_string(),
        mounts: crate::container::slot(last - 2),
        directory: crate::container::slot(last - 1),
        inherited,
        bound_ms: u64::try_from(BOUND.as_millis()).unwrap_or(u64::MAX),
    }));
    let bound = BOUND + Duration::from_secs(45);
    let pid = match link.call_within(request, descriptors, bound).await {
        Ok((ReplyBody::Created { pid }, _)) => pid,
        Ok((other, _)) => return Err(RestoreError::Supervisor(mismatch("Restore", &other))),
        Err(error) => return Err(failed(&work, error).await),
    };
    let hierarchies = runtime.hierarchies.clone();
    let cgroup = container.cgroup().to_owned();
    blocking(BOUND, move || {
        for process in hierarchies.open_cgroup(&cgroup)?.processes(true)? {
            bounds.check(process.as_raw_nonzero().get())?;
        }
        Ok::<_, RestoreError>(())
    })
    .await??;
    Ok(pid)
}

/// Removes what was taken out.
pub(crate) async fn forget(runtime: &Runtime, id: &ContainerId) {
    let directory = directory(runtime, id);
    let removed = blocking(BOUND, move || std::fs::remove_dir_all(directory)).await;
    if let Ok(Err(error)) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, container = %id, "a checkpoint stays on the disk until the daemon is started again");
    }
}

async fn criu(runtime: &Runtime) -> Result<Criu, RestoreError> {
    let criu = runtime.checkpoints.criu.get(&runtime.config).await;
    criu.map_err(RestoreError::Criu)
}

fn directory(runtime: &Runtime, id: &ContainerId) -> PathBuf {
    root(runtime).join(format!("{id}.restore"))
}

fn base(runtime: &Runtime, described: &Described) -> Option<Arc<Image>> {
    let mut names = described.images();
    names.find_map(|name| runtime.images.find(name).ok().flatten())
}

fn unsupported(container: &Container) -> Option<String> {
    let (config, pod) = (&container.config, &container.pod);
    if let Some(made_with) = &pod.made_with {
        let name = &made_with.name;
        return Some(format!(
            "its pod's handler is {name}; only the embedded core's containers can be restored"
        ));
    }
    let why = if config.tty {
        "a container with a terminal cannot be restored"
    } else if pod.config.user_namespace().is_some() {
        "CRIU cannot restore a container into a pod's user namespace"
    } else if config.linux.security_context.namespace_options.pid != NamespaceMode::Container {
        "a container is restored into a PID namespace of its own, or its processes would not get their numbers back"
    } else {
        return None;
    };
    Some(why.to_owned())
}

/// What CRIU is told beside the mounts, and the streams that the processes had. Blocks.
fn arguments(
    work: &Path,
    bundle: &Bundle,
    spec: &Spec,
) -> Result<(Vec<String>, Kept), RestoreError> {
    use oci_spec::runtime::LinuxNamespaceType as Kind;
    let mut arguments: Vec<String> = [
        ("--images-dir", work.join(IMAGES)),
        ("--work-dir", work.to_owned()),
        ("--root", bundle.rootfs()),
    ]
    .into_iter()
    .flat_map(|(option, path)| [option.to_owned(), path.display().to_string()])
    .collect();
    let options = [
        "--log-file=restore.log",
        "-v4",
        "--restore-detached",
        "--leave-stopped",
        "--manage-cgroups=ignore",
        "--file-locks",
        "--tcp-close",
    ];
    arguments.extend(options.map(str::to_owned));
    let linux = spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_ref());
    for namespace in namespaces.into_iter().flatten() {
        let name = match namespace.typ() {
            Kind::Ipc => "ipc",
            Kind::Uts => "uts",
            Kind::Network | Kind::Mount | Kind::Pid | Kind::User | Kind::Cgroup | Kind::Time => {
                continue;
            }
        };
        if namespace.path().is_some() {
            let place = bundle.namespace(name);
            arguments.extend([
                "--join-ns".to_owned(),
                format!("{name}:{}", place.display()),
            ]);
        }
    }
    let streams: Vec<String> = opened::json(&work.join(IMAGES), DESCRIPTORS)?.unwrap_or_default();
    let all = [Inherited::Stdin, Inherited::Stdout, Inherited::Stderr];
    let mut inherited = Kept::new();
    for (name, what) in streams.into_iter().zip(all) {
        // Files are opened again, in the container.
        let is_pipe = name.starts_with("pipe:[") || name.starts_with("socket:[");
        if is_pipe && !inherited.iter().any(|(known, _)| *known == name) {
            inherited.push((name, what));
        }
    }
    Ok((arguments, inherited))
}

/// Where each external mount of the checkpoint comes from now: a mount of the request in the same place, the container's cgroup, or nothing
/// where a file is hidden. Blocks.
fn sources(
    runtime: &Runtime,
    container: &Container,
    work: &Path,
    spec: &Spec,
    placed: &Spec,
) -> Result<Vec<(PathBuf, PathBuf)>, RestoreError> {
    let noted: Option<Vec<PathBuf>> = opened::json(&work.join(IMAGES), EXTERNAL)?;
    // An archive of somebody else's does not say which were external: those that such archives have.
    let external = match noted {
        Some(noted) => noted,
        None => {
            let theirs: Option<Spec> = opened::json(work, SPEC)?;
            let theirs = theirs.unwrap_or_default();
            let binds = theirs.mounts().iter().flatten().filter(|one| is_bind(one));
            let linux = theirs.linux().as_ref();
            let masked = linux.and_then(|linux| linux.masked_paths().clone());
            binds
                .map(|mount| mount.destination().clone())
                .chain(masked.into_iter().flatten().map(PathBuf::from))
                .collect()
        }
    };
    let linux = spec.linux().as_ref();
    let masked = linux.and_then(|linux| linux.masked_paths().clone());
    let masked: Vec<PathBuf> = masked.into_iter().flatten().map(PathBuf::from).collect();
    let cgroups = cgroup_places(spec, container.cgroup(), runtime)?;
    let mounts = placed.mounts().as_deref().unwrap_or_default();
    let binds: Vec<_> = mounts.iter().filter(|mount| is_bind(mount)).collect();
    for bind in &binds {
        if !external.contains(bind.destination()) {
            return Err(RestoreError::NewMount(bind.destination().clone()));
        }
    }
    external
        .into_iter()
        .map(|point| {
            let nearest = binds
                .iter()
                .filter(|mount| point.starts_with(mount.destination()))
                .max_by_key(|mount| mount.destination().components().count());
            let cgroup = cgroups.iter().find(|(place, _)| *place == point);
            let source = if let Some((_, source)) = cgroup {
                source.clone()
            } else if masked.contains(&point) {
                PathBuf::from("/dev/null")
            } else if let Some(mount) = nearest {
                let source = mount.source().clone().unwrap_or_default();
                match point.strip_prefix(mount.destination()) {
                    Ok(rest) if !rest.as_os_str().is_empty() => source.join(rest),
                    Ok(_) | Err(_) => source,
                }
            } else {
                return Err(RestoreError::NoMount(point));
            };
            Ok((point, source))
        })
        .collect()
}

/// The container's cgroup, as its own mounts of the trees show it.
fn cgroup_places(
    spec: &Spec,
    cgroup: &str,
    runtime: &Runtime,
) -> Result<Vec<(PathBuf, PathBuf)>, RestoreError> {
    let mounts = spec.mounts().iter().flatten();
    let mount = mounts
        .filter(|mount| matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2")))
        .map(|mount| mount.destination().clone())
        .next();
    let Some(point) = mount else {
        return Ok(Vec::new());
    };
    let paths = runtime.hierarchies.paths_of(cgroup)?;
    Ok(match paths.as_slice() {
        // The tree itself lies there, where there is but one.
        [(_, only)] => vec![(point, only.clone())],
        _ => paths
            .into_iter()
            .map(|(name, path)| (point.join(name), path))
            .collect(),
    })
}

/// `MAJOR:MINOR` of the root file system, which a plan has by its descriptor.
fn device(plan: &ContainerPlan, descriptors: &[OwnedFd]) -> Result<String, RestoreError> {
    let root = descriptors.get(usize::from(plan.rootfs.mount.0));
    let found = root.ok_or(Errno::BADF).and_then(rustix::fs::fstat);
    let found = found.map_err(|error| RestoreError::Files {
        action: "look at its root file system",
        source: error.into(),
    })?;
    let (major, minor) = (
        rustix::fs::major(found.st_dev),
        rustix::fs::minor(found.st_dev),
    );
    Ok(format!("{major}:{minor}"))
}

/// The pod's network namespace, as `/proc` names it.
async fn network(runtime: &Runtime, container: &Container) -> Result<PathBuf, RestoreError> {
    let path = runtime.netns_path(&container.pod.id);
    let inode = blocking(BOUND, move || {
        use std::os::unix::fs::MetadataExt;
        path.metadata().map(|found| found.ino())
    })
    .await?
    .map_err(|source| RestoreError::Files {
        action: "look at the pod's network namespace",
        source,
    })?;
    Ok(PathBuf::from(format!("net:[{inode}]")))
}

async fn failed(work: &Path, error: CallError) -> RestoreError {
    let path = work.join("restore.log");
    let log = blocking(Duration::from_secs(10), move || std::fs::read(path)).await;
    let log = log.ok().and_then(Result::ok).unwrap_or_default();
    match (&error, log.is_empty()) {
        (CallError::Refused(_), false) => {
            RestoreError::Failed(criu::errors(&String::from_utf8_lossy(&log)))
        }
        _ => RestoreError::Supervisor(error),
    }
}
