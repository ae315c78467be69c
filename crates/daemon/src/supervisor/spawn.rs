//! Starting a supervisor, and finding one that an earlier daemon started.

use std::{
    ffi::{CString, OsStr},
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
    process::{Pid, Resource, Rlimit, WaitId, WaitIdOptions},
};
use supervisor_api::SOCKET_NAME;
use sys::{CStrings, Program, SpawnStep, Spawned};
use tokio::{
    io::{Interest, unix::AsyncFd},
    process::Command,
};

use super::nest::{Entrance, Nest};

/// The supervisor's executable, in a sealed memfd: a container that reaches `/proc/PID/exe` of a process of ours can neither
/// write it nor find the file on disk (CVE-2019-5736), and replacing the file during an upgrade disturbs nobody.
#[derive(Debug)]
pub(crate) struct Executable {
    memfd: OwnedFd,
    /// What supervisors, and so containers, may open.
    descriptors: Rlimit,
    /// Where supervisors live; the daemon's own cgroup without one.
    nest: Option<Nest>,
}

/// A supervisor that this daemon has started.
#[derive(Debug)]
pub(crate) struct Child {
    process: Spawned,
    outside: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum SpawnError {
    #[error("read the supervisor's executable {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("copy the supervisor's executable to memory")]
    Copy(#[source] io::Error),
    #[error("open the pod's state directory {}", path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("listen for the pod's supervisor in {}", path.display())]
    Listen {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("connect to the pod's supervisor in {}", path.display())]
    Connect {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("start the pod's supervisor")]
    Start(#[source] io::Error),
    #[error("open the supervisors' cgroup {path}")]
    Nest {
        path: String,
        #[source]
        source: cgroup::Error,
    },
    #[error("start the pod's supervisor in the cgroup {path}")]
    EnterNest {
        path: String,
        #[source]
        source: io::Error,
    },
}

impl SpawnError {
    /// The pod's socket is nobody's any more.
    pub(crate) fn nobody_listens(&self) -> bool {
        match self {
            Self::Directory { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::Connect { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ),
            Self::Read { .. }
            | Self::Copy(_)
            | Self::Listen { .. }
            | Self::Start(_)
            | Self::Nest { .. }
            | Self::EnterNest { .. } => false,
        }
    }
}

impl Executable {
    /// Reads the file once; every supervisor shares the copy's pages.
    pub(crate) fn load(
        path: &Path,
        descriptors: Rlimit,
        nest: Option<Nest>,
    ) -> Result<Self, SpawnError> {
        let image = std::fs::read(path).map_err(|source| SpawnError::Read {
            path: path.to_owned(),
            source,
        })?;
        let memfd =
            supervisor_api::sealed_memfd(&image).map_err(|error| SpawnError::Copy(error.into()))?;
        Ok(Self {
            memfd,
            descriptors,
            nest,
        })
    }

    /// A command that runs it, in a list of processes by this name.
    pub(crate) fn command(&self, name: &str) -> Command {
        // The child resolves this path, so it names the daemon's descriptor table, not the child's.
        let daemon = std::process::id();
        let mut command = Command::new(format!("/proc/{daemon}/fd/{}", self.memfd.as_raw_fd()));
        command.arg0(name).env_clear().current_dir("/");
        command
    }

    /// Where supervisors live, if not in the daemon's own cgroup.
    pub(crate) fn nest(&self) -> Option<&Nest> {
        self.nest.as_ref()
    }

    /// Runs it in the supervisors' cgroup, or in the daemon's where that is a scope which is not there.
    fn run(&self, args: &CStrings, stdio: [&OwnedFd; 3]) -> Result<Child, SpawnError> {
        // The child's own table still has the descriptor when it resolves this.
        let path = c_string(OsStr::new(&format!(
            "/proc/self/fd/{}",
            self.memfd.as_raw_fd()
        )))?;
        let env = CStrings::new(Vec::new());
        let program = Program {
            path: &path,
            args,
            env: &env,
            stdio: stdio.map(AsFd::as_fd),
            cgroup: None,
            tasks: &[],
        };
        let spawn_in = |entrance: Option<&Entrance>| {
            sys::spawn(&Program {
                cgroup: entrance.and_then(|place| place.unified.as_ref().map(AsFd::as_fd)),
                tasks: entrance.map_or(&[], |place| &place.tasks),
                ..program
            })
        };
        let (spawned, outside) = match &self.nest {
            None => (spawn_in(None), false),
            Some(nest) => spawn_in_nest(nest, spawn_in)?,
        };
        match (spawned, &self.nest) {
            (Ok(process), _) => Ok(Child { process, outside }),
            (Err((SpawnStep::Clone | SpawnStep::EnterCgroup, error)), Some(nest)) => {
                Err(SpawnError::EnterNest {
                    path: nest.path().to_owned(),
                    source: error.into(),
                })
            }
            (Err((_, error)), _) => Err(SpawnError::Start(error.into())),
        }
    }
}

type SpawnResult = Result<Spawned, (SpawnStep, Errno)>;

/// In the nest, or outside of it (`true`) where it is a scope that is not there.
fn spawn_in_nest(
    nest: &Nest,
    spawn_in: impl Fn(Option<&Entrance>) -> SpawnResult,
) -> Result<(SpawnResult, bool), SpawnError> {
    let is_gone = |result: &SpawnResult| {
        matches!(
            result,
            Err((
                SpawnStep::Clone | SpawnStep::EnterCgroup,
                Errno::NODEV | Errno::NOENT
            ))
        )
    };
    if let Some(entrance) = nest.entrance() {
        let spawned = spawn_in(Some(&entrance));
        if !is_gone(&spawned) {
            return Ok((spawned, false));
        }
    }
    // An administrator who tidies up may have removed the cgroup while it was empty; of a scope that is what becomes.
    if let Some(entrance) = nest.look_again()? {
        let spawned = spawn_in(Some(&entrance));
        if !is_gone(&spawned) || nest.scope().is_none() {
            return Ok((spawned, false));
        }
    }
    Ok((spawn_in(None), true))
}

impl Child {
    pub(crate) fn pid(&self) -> i32 {
        self.process.pid
    }

    /// Whether the scope of all supervisors was not there to be born in.
    pub(crate) fn is_outside(&self) -> bool {
        self.outside
    }

    /// Waits until it has ended. A child that nobody waits for stays a zombie.
    ///
    /// # Errors
    /// The kernel does not say.
    pub(crate) async fn wait(self) -> io::Result<()> {
        #[expect(
            deprecated,
            reason = "sound for an OwnedFd, and unsafe code lives in one crate"
        )]
        let pidfd = AsyncFd::with_interest(self.process.pidfd, Interest::READABLE)?;
        let _ended = pidfd.readable().await?;
        let id = WaitId::PidFd(pidfd.get_ref().as_fd());
        rustix::process::waitid(id, WaitIdOptions::EXITED)?;
        Ok(())
    }
}

fn c_string(text: &OsStr) -> Result<CString, SpawnError> {
    CString::new(text.as_bytes()).map_err(|nul| SpawnError::Start(nul.into()))
}

/// Starts a supervisor for the pod whose state directory is `directory`, and connects to it. The socket listens before the
/// process exists, so there is nothing to wait for. The child is reaped by whoever holds it.
pub(crate) fn spawn(
    executable: &Executable,
    id: &str,
    directory: &Path,
) -> Result<(Child, OwnedFd), SpawnError> {
    let directory_fd = open_directory(directory)?;
    let listen = |source: rustix::io::Errno| SpawnError::Listen {
        path: directory.to_owned(),
        source: source.into(),
    };
    let listener = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(listen)?;
    let address = short_address(&directory_fd).map_err(listen)?;
    rustix::net::bind(&listener, &address).map_err(listen)?;
    rustix::net::listen(&listener, 16).map_err(listen)?;
    let socket = connect(directory)?;

    let diagnostics =
        File::create(directory.join("supervisor.log")).map_err(|source| SpawnError::Directory {
            path: directory.to_owned(),
            source,
        })?;
    let diagnostics = OwnedFd::from(diagnostics);
    let args = ["longshore-pod", "--id", id, "--dir"].map(OsStr::new);
    let args = args
        .into_iter()
        .chain([directory.as_os_str()])
        .map(c_string)
        .collect::<Result<_, _>>()?;
    let args = CStrings::new(args);
    let child = executable.run(&args, [&listener, &diagnostics, &diagnostics])?;
    // It makes no container before it is asked to, and nobody asks before this returns.
    if let Some(pid) = Pid::from_raw(child.pid()) {
        rustix::process::prlimit(Some(pid), Resource::Nofile, executable.descriptors)
            .map_err(|error| SpawnError::Start(error.into()))?;
    }
    Ok((child, socket))
}

/// Connects to the supervisor that listens in a pod's state directory.
pub(crate) fn connect(directory: &Path) -> Result<OwnedFd, SpawnError> {
    let directory_fd = open_directory(directory)?;
    let error = |source: rustix::io::Errno| SpawnError::Connect {
        path: directory.to_owned(),
        source: source.into(),
    };
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .map_err(error)?;
    let address = short_address(&directory_fd).map_err(error)?;
    rustix::net::connect(&socket, &address).map_err(error)?;
    Ok(socket)
}

fn open_directory(path: &Path) -> Result<OwnedFd, SpawnError> {
    rustix::fs::open(
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|source| SpawnError::Directory {
        path: path.to_owned(),
        source: source.into(),
    })
}

/// `sun_path` holds 108 bytes, a state directory may be deeper: the address goes through the directory's descriptor.
fn short_address(directory: &OwnedFd) -> rustix::io::Result<SocketAddrUnix> {
    SocketAddrUnix::new(format!(
        "/proc/self/fd/{}/{SOCKET_NAME}",
        directory.as_raw_fd()
    ))
}
