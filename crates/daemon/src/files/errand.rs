//! The daemon's side of a copy.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use supervisor_api::{Outgoing, ReceiveError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, unix::AsyncFd},
    net::unix::pipe,
    process::Command,
    sync::oneshot,
};

use super::{
    FilesError, Root,
    worker::{Answer, Errand, WORKER_ARGUMENT},
};
use crate::{container::Container, id::ContainerId, runtime::Runtime};

/// Without a byte from the process, or one that it takes.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Of the archive, at a time.
const PIECE_BYTES: usize = 64 << 10;

/// What came of a copy: what was left out, with the reason.
pub(crate) type Outcome = Result<Vec<String>, FilesError>;

/// A copy under way. Dropping it ends the process.
#[derive(Debug)]
pub(crate) struct Copying<P> {
    id: ContainerId,
    /// The archive's end of ours; `None` once it is closed.
    pipe: Option<P>,
    socket: AsyncFd<OwnedFd>,
    _root: RootHeld,
    /// Its end tells whoever waits for the process to kill it.
    _leash: oneshot::Sender<()>,
}

/// Kept as long as the process may look.
#[derive(Debug)]
struct RootHeld {
    _mount: Option<Arc<tokio::sync::OnceCell<OwnedFd>>>,
}

/// Begins to copy a path out of a container.
pub(crate) async fn copy_out(
    runtime: &Arc<Runtime>,
    container: &Arc<Container>,
    path: String,
    follow: bool,
    contents: bool,
) -> Result<Copying<pipe::Receiver>, FilesError> {
    let errand = Errand::Out {
        path: from_root(path),
        follow,
        contents,
    };
    let (theirs, ours) = pipes(|write, read| (write, read))?;
    let ours = pipe::Receiver::from_owned_fd(ours).map_err(FilesError::Start)?;
    begin(runtime, container, errand, theirs, ours).await
}

/// Begins to copy into a container.
pub(crate) async fn copy_in(
    runtime: &Arc<Runtime>,
    container: &Arc<Container>,
    target: copy::Target,
) -> Result<Copying<pipe::Sender>, FilesError> {
    let errand = Errand::In {
        path: from_root(target.path.to_string_lossy().into_owned()),
        directory: target.directory,
        contents: target.contents,
        keep: target.keep,
    };
    let (theirs, ours) = pipes(|write, read| (read, write))?;
    let ours = pipe::Sender::from_owned_fd(ours).map_err(FilesError::Start)?;
    begin(runtime, container, errand, theirs, ours).await
}

/// A relative path counts from `/`, whatever the container's working directory.
fn from_root(path: String) -> String {
    match path.starts_with('/') {
        true => path,
        false => format!("/{path}"),
    }
}

/// Our end does not block.
fn pipes(
    order: impl FnOnce(OwnedFd, OwnedFd) -> (OwnedFd, OwnedFd),
) -> Result<(OwnedFd, OwnedFd), FilesError> {
    let made = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let (read, write) = made.map_err(start)?;
    let (theirs, ours) = order(write, read);
    rustix::io::ioctl_fionbio(&ours, true).map_err(start)?;
    Ok((theirs, ours))
}

fn start(error: impl Into<io::Error>) -> FilesError {
    FilesError::Start(error.into())
}

async fn begin<P>(
    runtime: &Arc<Runtime>,
    container: &Arc<Container>,
    errand: Errand,
    theirs: OwnedFd,
    ours: P,
) -> Result<Copying<P>, FilesError> {
    let place = Arc::clone(&runtime.files.places).try_acquire_owned();
    let place = place.map_err(|_all_taken| FilesError::TooMany)?;
    let Root {
        directory,
        user_namespace,
        _mount,
    } = super::root(runtime, container).await?;
    let mut descriptors = vec![directory, theirs];
    descriptors.extend(user_namespace);
    let (socket, child_end) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(start)?;
    rustix::io::ioctl_fionbio(&socket, true).map_err(start)?;
    let mut child = Command::new("/proc/self/exe")
        .arg0("longshore-copy")
        .arg(WORKER_ARGUMENT)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(child_end))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(FilesError::Start)?;
    let (leash, let_go) = oneshot::channel::<()>();
    tokio::spawn(async move {
        tokio::select! {
            _ended = child.wait() => {}
            _let_go = let_go => {
                // One that waits for a dead file server cannot even be killed: it keeps its place until it has ended.
                let _ended_already = child.start_kill();
                let _status = child.wait().await;
            }
        }
        drop(place);
    });
    let message =
        Outgoing::new(&errand, descriptors).map_err(|error| start(io::Error::other(error)))?;
    message.send(socket.as_fd()).map_err(start)?;
    // Its successor is an unsafe function, for inner types that may change their descriptor; this one is owned and never does.
    #[expect(
        deprecated,
        reason = "sound for an OwnedFd, and unsafe code lives in one crate"
    )]
    let socket = AsyncFd::new(socket).map_err(FilesError::Start)?;
    Ok(Copying {
        id: container.id.clone(),
        pipe: Some(ours),
        socket,
        _root: RootHeld { _mount },
        _leash: leash,
    })
}

impl<P> Copying<P> {
    async fn bounded<T>(id: &ContainerId, step: impl Future<Output = T>) -> Result<T, FilesError> {
        let step = tokio::time::timeout(ANSWER_WITHIN, step).await;
        step.map_err(|_elapsed| FilesError::Hung(id.clone()))
    }

    /// How it ended.
    async fn outcome(&mut self) -> Outcome {
        let id = self.id.clone();
        let answer = async {
            loop {
                let mut ready = self.socket.readable().await.map_err(FilesError::Start)?;
                match supervisor_api::receive::<Answer>(self.socket.get_ref().as_fd()) {
                    Ok(Some((answer, _))) => return Ok(answer),
                    Err(ReceiveError::Socket(rustix::io::Errno::AGAIN)) => ready.clear_ready(),
                    Ok(None) | Err(_) => return Err(FilesError::Ended),
                }
            }
        };
        match Self::bounded(&id, answer).await?? {
            Answer::Done { left_out } => Ok(left_out),
            Answer::Failed { kind, said } => Err(FilesError::Worker { id, kind, said }),
        }
    }
}

impl Copying<pipe::Receiver> {
    /// The next piece of the archive, or, behind the last one, how it ended.
    pub(crate) async fn next(&mut self) -> Result<Vec<u8>, Outcome> {
        let Some(pipe) = &mut self.pipe else {
            return Err(self.outcome().await);
        };
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let read = Self::bounded(&self.id, pipe.read_buf(&mut piece)).await;
        match read {
            Err(hung) => Err(Err(hung)),
            Ok(Ok(0)) => {
                self.pipe = None;
                Err(self.outcome().await)
            }
            Ok(Ok(_)) => Ok(piece),
            Ok(Err(error)) => Err(Err(FilesError::Start(error))),
        }
    }
}

impl Copying<pipe::Sender> {
    /// Passes a piece of the archive on. `false`: no more is wanted, [`Copying::end`] says why.
    pub(crate) async fn put(&mut self, piece: &[u8]) -> Result<bool, FilesError> {
        let Some(pipe) = &mut self.pipe else {
            return Ok(false);
        };
        match Self::bounded(&self.id, pipe.write_all(piece)).await? {
            Ok(()) => Ok(true),
            Err(_broken) => {
                self.pipe = None;
                Ok(false)
            }
        }
    }

    /// The archive has ended.
    pub(crate) async fn end(mut self) -> Outcome {
        self.pipe = None;
        self.outcome().await
    }
}
