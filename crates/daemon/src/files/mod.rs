//! Files of containers, for operators: what one has changed in its image, copies out of it and into it.
//!
//! ```text
//!  client ◀─ archive ─▶ rpc ◀─ pipe ─▶ a process of its own ──▶ the container's root, links followed in there
//!                        │               in the container's user namespace, gone with its client
//!                        └─ 60 s without a byte from it: killed, as where a volume's file server has gone
//! ```
//!
//! The process is this program once more ([`worker`]). It is given the root as a descriptor: of a container that runs, what it sees itself; of
//! one that has ended, its root file system, mounted again for as long as somebody copies.

mod errand;
mod worker;

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
};

pub(crate) use errand::{copy_in, copy_out};
use rustix::fs::{CWD, Mode, OFlags};
use snapshot::{Change, ContainerError, Shift, UserMapping};
use tokio::sync::{OnceCell, Semaphore};
pub(crate) use worker::{WORKER_ARGUMENT, main as worker_main};

use crate::{
    container::{Container, CreateError, Phase, mapping_root, user_namespace},
    id::ContainerId,
    runtime::{BlockingError, DISK_BOUND, Runtime, blocking},
};

/// How many copies are under way at a time, or hang.
const MOST_COPIES: usize = 16;

/// Why there is no copy, or none that is whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilesError {
    #[error("container {id}: it is {state}")]
    State {
        id: ContainerId,
        state: &'static str,
    },
    #[error(
        "container {id}: handler {handler:?} has a kernel of its own for it, which keeps its files to itself"
    )]
    OwnKernel { id: ContainerId, handler: String },
    #[error("container {0}: its image is gone")]
    NoImage(ContainerId),
    #[error(
        "container {0}: its pod has stopped, and the user namespace that its files belong to is gone"
    )]
    NoUserNamespace(ContainerId),
    #[error("container {0}: ask for its user namespace")]
    UserNamespace(ContainerId, #[source] CreateError),
    #[error("container {id}: open {}", path.display())]
    Open {
        id: ContainerId,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Layer(#[from] ContainerError),
    #[error("{MOST_COPIES} other copies are under way")]
    TooMany,
    #[error("start the process that copies")]
    Start(#[source] io::Error),
    #[error("container {0}: the file system did not answer within 60 s")]
    Hung(ContainerId),
    #[error("container {id}: {said}")]
    Worker {
        id: ContainerId,
        kind: Trouble,
        said: String,
    },
    #[error("the process that copies ended without an answer")]
    Ended,
    #[error(transparent)]
    Blocking(#[from] BlockingError),
}

/// Whose fault it is that the process could not do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Trouble {
    NotFound,
    /// What is at a path is not what was meant.
    Kind,
    /// The archive is none, or leads elsewhere.
    Archive,
    Denied,
    Full,
    System,
}

/// What copies share.
#[derive(Debug)]
pub(crate) struct Files {
    places: Arc<Semaphore>,
    /// Of containers that have ended: a writable layer must not be mounted twice at a time.
    mounted: Mutex<BTreeMap<ContainerId, Weak<OnceCell<OwnedFd>>>>,
}

impl Default for Files {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(MOST_COPIES)),
            mounted: Mutex::default(),
        }
    }
}

impl Files {
    fn mounted(&self, id: &ContainerId) -> Arc<OnceCell<OwnedFd>> {
        let mut mounted = self.mounted.lock().unwrap_or_else(PoisonError::into_inner);
        mounted.retain(|_, mount| mount.strong_count() > 0);
        if let Some(mount) = mounted.get(id).and_then(Weak::upgrade) {
            return mount;
        }
        let mount = Arc::default();
        mounted.insert(id.clone(), Arc::downgrade(&mount));
        mount
    }
}

/// Where a container's paths begin.
struct Root {
    directory: OwnedFd,
    user_namespace: Option<OwnedFd>,
    /// Keeps the mount of one that has ended to one.
    _mount: Option<Arc<OnceCell<OwnedFd>>>,
}

/// A container whose files can be looked at.
fn visible(container: &Container) -> Result<Phase, FilesError> {
    let id = container.id.clone();
    if let Some(handler) = &container.pod.made_with
        && handler.own_kernel
    {
        let handler = handler.name.clone();
        return Err(FilesError::OwnKernel { id, handler });
    }
    match container.phase() {
        Phase::Creating => Err(FilesError::State {
            id,
            state: "being created",
        }),
        Phase::Removed => Err(FilesError::State {
            id,
            state: "being removed",
        }),
        phase => Ok(phase),
    }
}

async fn root(runtime: &Arc<Runtime>, container: &Arc<Container>) -> Result<Root, FilesError> {
    if let Phase::Created { pid } | Phase::Running { pid, .. } = visible(container)? {
        let root = seen_by(container, pid)?;
        // The number may have become somebody else's between the question and the opening.
        if let Phase::Created { .. } | Phase::Running { .. } = container.phase() {
            return Ok(root);
        }
    }
    visible(container)?;
    let user_namespace = ended_user_namespace(container).await?;
    let mount = runtime.files.mounted(&container.id);
    let mounted = mount.get_or_try_init(|| mount_again(runtime, container, &user_namespace));
    let directory = mounted.await?.try_clone();
    Ok(Root {
        directory: directory.map_err(FilesError::Start)?,
        user_namespace,
        _mount: Some(mount),
    })
}

/// What a process has for `/`, with all that is mounted there.
fn seen_by(container: &Container, pid: i32) -> Result<Root, FilesError> {
    let open = |what: &str, flags| {
        let path = PathBuf::from(format!("/proc/{pid}/{what}"));
        rustix::fs::openat(CWD, &path, flags | OFlags::CLOEXEC, Mode::empty()).map_err(|error| {
            FilesError::Open {
                id: container.id.clone(),
                path,
                source: error.into(),
            }
        })
    };
    let user_namespace = match container.pod.config.user_namespace() {
        Some(_) => Some(open("ns/user", OFlags::RDONLY)?),
        None => None,
    };
    Ok(Root {
        directory: open("root", OFlags::PATH | OFlags::DIRECTORY)?,
        user_namespace,
        _mount: None,
    })
}

async fn ended_user_namespace(container: &Container) -> Result<Option<OwnedFd>, FilesError> {
    if container.pod.config.user_namespace().is_none() {
        return Ok(None);
    }
    let link = container.pod.link();
    let link = link.ok_or_else(|| FilesError::NoUserNamespace(container.id.clone()))?;
    let namespace = user_namespace(container, &link).await;
    namespace.map_err(|error| FilesError::UserNamespace(container.id.clone(), error))
}

async fn mount_again(
    runtime: &Arc<Runtime>,
    container: &Arc<Container>,
    user_namespace: &Option<OwnedFd>,
) -> Result<OwnedFd, FilesError> {
    let namespace = user_namespace.as_ref().map(OwnedFd::try_clone).transpose();
    let namespace = namespace.map_err(FilesError::Start)?;
    let (runtime, container) = (Arc::clone(runtime), Arc::clone(container));
    let mounted = blocking(DISK_BOUND, move || {
        let image = runtime.images.find(&container.image_id).ok().flatten();
        let image = image.ok_or_else(|| FilesError::NoImage(container.id.clone()))?;
        let mapping = match (&namespace, container.pod.config.user_namespace()) {
            (Some(namespace), Some(user)) => Some(UserMapping {
                namespace: namespace.as_fd(),
                root_uid: mapping_root(&user.uids),
                root_gid: mapping_root(&user.gids),
            }),
            _ => None,
        };
        let id = container.id.as_str();
        let mounted = runtime.overlay.mount(id, &image.layers, mapping, None);
        mounted.map_err(FilesError::Layer)
    });
    mounted.await?
}

/// Tells each change, until it is told to stop. Blocks for as long as the layer is large; only the daemon's own disk is looked at.
pub(crate) fn changes(
    runtime: &Runtime,
    container: &Container,
    tell: impl FnMut(Change) -> bool,
) -> Result<(), FilesError> {
    visible(container)?;
    let image = runtime.images.find(&container.image_id).ok().flatten();
    let image = image.ok_or_else(|| FilesError::NoImage(container.id.clone()))?;
    let spec = container.spec(&runtime.records).ok();
    let mounts = spec.as_ref().and_then(|spec| spec.mounts().as_deref());
    let mounts = mounts.unwrap_or_default();
    let mounts = mounts.iter().map(|mount| mount.destination().clone());
    let user = container.pod.config.user_namespace();
    let shift = user.map_or(Shift::default(), |user| Shift {
        uid: mapping_root(&user.uids),
        gid: mapping_root(&user.gids),
    });
    let id = container.id.as_str();
    (runtime.overlay)
        .changes(id, &image.layers, shift, &mounts.collect::<Vec<_>>(), tell)
        .map_err(FilesError::Layer)
}
