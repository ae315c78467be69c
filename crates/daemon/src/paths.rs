//! Paths of users: volumes, logs, devices, profiles. Any of them may lie on a file server that has gone, and whoever touches it then waits for
//! ever, a thread beyond the reach of any deadline.
//!
//! ```text
//!             in the kernel's cache, on a file system
//!             that waits for no server?
//!  open ──┬── yes: a few microseconds, here ───────────────────────────▶ descriptor
//!         └── no: a process of its own (`longshore-pod --path`) ──┬────▶ descriptor, or the system's error
//!                                                                 └── [`ANSWER_WITHIN`] is over: killed ──▶ Hung
//! ```
//!
//! `RESOLVE_CACHED` (`openat2(2)`) follows a path through the kernel's cache or not at all. A process that cannot even be killed keeps its
//! place among the [`MOST_PROCESSES`], and requests for its path fail at once until it has ended.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags},
    io::Errno,
    mount::OpenTreeFlags,
    net::{AddressFamily, SocketFlags, SocketType},
};
use supervisor_api::{
    DeviceNode, NoNodes, Outgoing, OutgoingError, PATH_ARGUMENT, PathAnswer, PathRequest,
    ReceiveError,
};
use tokio::{
    io::unix::AsyncFd,
    process::Child,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::{
    runtime::{BlockingError, blocking},
    supervisor::Executable,
};

/// A path that does not answer in this time is reported, and the kubelet tries again.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Volumes of millions of files are relabelled by then. Who asks again joins.
const RELABELLED_WITHIN: Duration = Duration::from_secs(10 * 60);

/// How many processes may look at paths, or hang there, at a time.
const MOST_PROCESSES: usize = 64;

/// File systems that are remembered to be local.
const MOST_DEVICES: usize = 1024;

/// Why a path cannot be had. The text does not name it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PathError {
    #[error(transparent)]
    System(io::Error),
    #[error("it hangs: its file system did not answer within {} s", ANSWER_WITHIN.as_secs())]
    Hung,
    #[error("it hangs: its file system has not answered an earlier request for {} s", .0.as_secs())]
    StillHung(Duration),
    #[error("it cannot be looked at: {MOST_PROCESSES} other paths hang")]
    TooManyHang,
    #[error("it is not a file of at most {0} bytes")]
    NotAText(u64),
    #[error("{} cannot be looked at", path.display())]
    Node {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{}: {why}", path.display())]
    NoNodes { path: PathBuf, why: &'static str },
    #[error("give {} the SELinux label", path.display())]
    Relabel {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("not all of it has the SELinux label after {} s", RELABELLED_WITHIN.as_secs())]
    RelabelLate,
    #[error("start the process that looks at it")]
    Start(#[source] io::Error),
    #[error("ask the process that looks at it")]
    Ask(#[source] OutgoingError),
    #[error("hear from the process that looks at it")]
    Hear(#[source] ReceiveError),
    #[error("the process that looks at it ended without an answer")]
    Ended,
}

/// How the daemon reaches users' paths.
#[derive(Debug)]
pub(crate) struct Paths {
    executable: Arc<Executable>,
    places: Arc<Semaphore>,
    /// Since when; killed, and not yet dead.
    hung: Arc<Mutex<HashMap<PathBuf, Instant>>>,
    /// Device numbers. One that comes round again for a file server does no harm: nothing that waits is done on its account.
    local: Mutex<HashSet<u64>>,
}

impl Paths {
    /// `own` are the daemon's directories.
    pub(crate) fn new(executable: Arc<Executable>, own: &[&Path]) -> Self {
        let local = own.iter().filter_map(|path| device_of(&cached(path)?));
        Self {
            executable,
            places: Arc::new(Semaphore::new(MOST_PROCESSES)),
            hung: Arc::default(),
            local: Mutex::new(local.collect()),
        }
    }

    /// A detached clone of the mount at a path, with every mount below it if `recursive`.
    pub(crate) async fn tree(&self, path: &Path, recursive: bool) -> Result<OwnedFd, PathError> {
        if let Some(place) = self.cached_local(path) {
            let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_EMPTY_PATH;
            if recursive {
                flags |= OpenTreeFlags::AT_RECURSIVE;
            }
            if let Ok(tree) = rustix::mount::open_tree(&place, "", flags) {
                return Ok(tree);
            }
        }
        let path = path.to_owned();
        let tree = PathRequest::Tree {
            path: path.clone(),
            recursive,
        };
        self.open(&path, tree).await
    }

    /// Where a path leads, every link followed.
    pub(crate) async fn canonical(&self, path: &Path) -> Result<PathBuf, PathError> {
        let name = match cached(path) {
            Some(name) => name,
            None => {
                let path = path.to_owned();
                let name = PathRequest::Name { path: path.clone() };
                self.open(&path, name).await?
            }
        };
        let link = format!("/proc/self/fd/{}", name.as_raw_fd());
        std::fs::read_link(link).map_err(PathError::System)
    }

    /// Makes a directory, and those above, where they are missing.
    pub(crate) async fn directory(&self, path: &Path) -> Result<(), PathError> {
        let path = path.to_owned();
        let directory = PathRequest::Directory { path: path.clone() };
        self.open(&path, directory).await.map(drop)
    }

    /// A log, opened for appending; it and its directory are made where they are missing.
    pub(crate) async fn log(&self, path: &Path) -> Result<OwnedFd, PathError> {
        if let (Some(directory), Some(name)) = (path.parent(), path.file_name())
            && let Some(directory) = self.cached_local(directory)
        {
            // A link may lead anywhere; a FIFO in the log's place must not wait for a reader.
            let flags = OFlags::WRONLY
                | OFlags::APPEND
                | OFlags::CREATE
                | OFlags::NOFOLLOW
                | OFlags::NONBLOCK
                | OFlags::CLOEXEC;
            let name = name.to_owned();
            let mode = Mode::from_raw_mode(0o640);
            match here(move || rustix::fs::openat(&directory, &name, flags, mode)).await? {
                Err(Errno::LOOP) => {}
                result => return result.map_err(|errno| PathError::System(errno.into())),
            }
        }
        let path = path.to_owned();
        let log = PathRequest::Log { path: path.clone() };
        self.open(&path, log).await
    }

    /// What is in a regular file of at most `most` bytes.
    pub(crate) async fn text(&self, path: &Path, most: u64) -> Result<Vec<u8>, PathError> {
        if let Some(place) = self.cached_local(path) {
            let read = here(move || read(&place, most)).await?;
            return read
                .map_err(PathError::System)?
                .ok_or(PathError::NotAText(most));
        }
        let request = PathRequest::Text {
            path: path.to_owned(),
            most,
        };
        match self.ask(path, request).await? {
            (PathAnswer::Text(bytes), _) => Ok(bytes),
            (PathAnswer::NotAText, _) => Err(PathError::NotAText(most)),
            (other, _) => Err(refusal(other)),
        }
    }

    /// The device nodes at or below each path.
    pub(crate) async fn nodes(
        &self,
        paths: Vec<PathBuf>,
    ) -> Result<Vec<Vec<DeviceNode>>, PathError> {
        let Some(first) = paths.first().cloned() else {
            return Ok(Vec::new());
        };
        match self.ask(&first, PathRequest::Nodes { paths }).await? {
            (PathAnswer::Nodes(nodes), _) => Ok(nodes),
            (other, _) => Err(refusal(other)),
        }
    }

    /// Gives what is at a path, where no link may lead, and all that is below it a label of SELinux.
    pub(crate) async fn relabel(&self, path: &Path, label: &str) -> Result<(), PathError> {
        let request = PathRequest::Relabel {
            path: path.to_owned(),
            label: label.to_owned(),
        };
        let asked = self.ask_within(path, request, RELABELLED_WITHIN).await;
        match asked {
            Ok((PathAnswer::Relabelled, _)) => Ok(()),
            Ok((other, _)) => Err(refusal(other)),
            Err(PathError::Hung) => Err(PathError::RelabelLate),
            Err(error) => Err(error),
        }
    }

    async fn open(&self, path: &Path, request: PathRequest) -> Result<OwnedFd, PathError> {
        match self.ask(path, request).await? {
            (PathAnswer::Opened { local }, mut descriptors) => {
                if let Some(device) = local {
                    let mut devices = lock(&self.local);
                    if devices.len() < MOST_DEVICES {
                        devices.insert(device);
                    }
                }
                descriptors.pop().ok_or(PathError::Ended)
            }
            (other, _) => Err(refusal(other)),
        }
    }

    /// Puts a request to a process of its own. `path` is whom to blame if it hangs.
    async fn ask(
        &self,
        path: &Path,
        request: PathRequest,
    ) -> Result<(PathAnswer, Vec<OwnedFd>), PathError> {
        self.ask_within(path, request, ANSWER_WITHIN).await
    }

    async fn ask_within(
        &self,
        path: &Path,
        request: PathRequest,
        bound: Duration,
    ) -> Result<(PathAnswer, Vec<OwnedFd>), PathError> {
        if let Some(since) = lock(&self.hung).get(path) {
            return Err(PathError::StillHung(since.elapsed()));
        }
        let begun = Instant::now();
        let end = begun + bound;
        let place = tokio::time::timeout_at(end, Arc::clone(&self.places).acquire_owned());
        // It is never closed.
        let Ok(Ok(place)) = place.await else {
            return Err(PathError::TooManyHang);
        };
        let (child, socket) = self.start()?;
        let mut looking = Looking {
            child: Some((child, place)),
            path,
            begun,
            hung: &self.hung,
        };
        let answer = tokio::time::timeout_at(end, converse(socket, request)).await;
        match answer {
            Ok(answer) => {
                looking.ended();
                answer
            }
            // Dropping it kills the process, as when nobody waits for it any more.
            Err(_elapsed) => Err(PathError::Hung),
        }
    }

    fn start(&self) -> Result<(Child, OwnedFd), PathError> {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|errno| PathError::Start(errno.into()))?;
        rustix::io::ioctl_fionbio(&ours, true).map_err(|errno| PathError::Start(errno.into()))?;
        let child = self
            .executable
            .command("longshore-path")
            .arg(PATH_ARGUMENT)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(PathError::Start)?;
        Ok((child, ours))
    }

    /// What is at a path, if that can be said without waiting.
    fn cached_local(&self, path: &Path) -> Option<OwnedFd> {
        let place = cached(path)?;
        let device = device_of(&place)?;
        lock(&self.local).contains(&device).then_some(place)
    }
}

/// What only a slow disk can delay.
async fn here<T: Send + 'static>(
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T, PathError> {
    blocking(ANSWER_WITHIN, call)
        .await
        .map_err(|error| match error {
            BlockingError::Stuck(_) => PathError::Hung,
            BlockingError::Crashed => PathError::Ended,
        })
}

fn read(place: &OwnedFd, most: u64) -> io::Result<Option<Vec<u8>>> {
    let place = format!("/proc/self/fd/{}", place.as_raw_fd());
    // Without O_NONBLOCK, a pipe in the file's place would wait for a writer.
    let nonblock = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options()
        .read(true)
        .custom_flags(nonblock)
        .open(place)?;
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= most).then_some(bytes))
}

fn cached(path: &Path) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED).ok()
}

/// Whether the kernel remembers that there is nothing at a path. Does not wait: what it does not remember may be there.
pub(crate) fn is_known_missing(path: &Path) -> bool {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let opened = rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED);
    matches!(opened, Err(Errno::NOENT))
}

/// The number of a file system, from memory.
fn device_of(file: &OwnedFd) -> Option<u64> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(file, "", flags, StatxFlags::empty()).ok()?;
    Some(rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor))
}

/// A process that looks at a path.
struct Looking<'a> {
    child: Option<(Child, OwnedSemaphorePermit)>,
    path: &'a Path,
    begun: Instant,
    hung: &'a Arc<Mutex<HashMap<PathBuf, Instant>>>,
}

impl Looking<'_> {
    /// It has answered, and ends by itself.
    fn ended(&mut self) {
        if let Some((mut child, place)) = self.child.take() {
            tokio::spawn(async move {
                let _status = child.wait().await;
                drop(place);
            });
        }
    }
}

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        let Some((mut child, place)) = self.child.take() else {
            return;
        };
        // It has not been waited for, so the signal meets it and nobody else.
        let _dead_already = child.start_kill();
        if child.try_wait().is_ok_and(|status| status.is_some()) {
            return;
        }
        let path = self.path.to_owned();
        lock(self.hung).insert(path.clone(), self.begun);
        let hung = Arc::clone(self.hung);
        tokio::spawn(async move {
            let _status = child.wait().await;
            lock(&hung).remove(&path);
            drop(place);
        });
    }
}

async fn converse(
    socket: OwnedFd,
    request: PathRequest,
) -> Result<(PathAnswer, Vec<OwnedFd>), PathError> {
    Outgoing::new(&request, Vec::new())
        .map_err(PathError::Ask)?
        .send(socket.as_fd())
        .map_err(|errno| PathError::Start(errno.into()))?;
    // Its successor is an unsafe function, for inner types that may change their descriptor; this one is owned and never does.
    #[expect(
        deprecated,
        reason = "sound for an OwnedFd, and unsafe code lives in one crate"
    )]
    let socket = AsyncFd::new(socket).map_err(PathError::Start)?;
    loop {
        let mut ready = socket.readable().await.map_err(PathError::Start)?;
        match supervisor_api::receive(socket.get_ref().as_fd()) {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => return Err(PathError::Ended),
            Err(ReceiveError::Socket(Errno::AGAIN)) => ready.clear_ready(),
            Err(error) => return Err(PathError::Hear(error)),
        }
    }
}

fn refusal(answer: PathAnswer) -> PathError {
    let system = io::Error::from_raw_os_error;
    match answer {
        PathAnswer::Failed(errno) => PathError::System(system(errno)),
        PathAnswer::NoNodes { path, why } => match why {
            NoNodes::Failed(errno) => PathError::Node {
                path,
                source: system(errno),
            },
            NoNodes::NotADevice => PathError::NoNodes {
                path,
                why: "neither a device node nor a directory of them",
            },
            NoNodes::TooMany => PathError::NoNodes {
                path,
                why: "holds too many device nodes",
            },
            NoNodes::TooDeep => PathError::NoNodes {
                path,
                why: "is too many directories deep",
            },
        },
        PathAnswer::NotRelabelled { path, errno } => PathError::Relabel {
            path,
            source: system(errno),
        },
        // The answer to another question.
        PathAnswer::Opened { .. }
        | PathAnswer::Text(_)
        | PathAnswer::Nodes(_)
        | PathAnswer::Relabelled
        | PathAnswer::NotAText => PathError::Ended,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
