//! Starting a supervisor, and finding one that an earlier daemon started.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::Stdio,
};

use rustix::{
    fs::{Mode, OFlags},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
    process::{Pid, Resource, Rlimit},
};
use supervisor_api::SOCKET_NAME;
use tokio::process::{Child, Command};

/// The supervisor's executable, in a sealed memfd: a container that reaches `/proc/PID/exe` of a process of ours can neither
/// write it nor find the file on disk (CVE-2019-5736), and replacing the file during an upgrade disturbs nobody.
#[derive(Debug)]
pub(crate) struct Executable {
    memfd: OwnedFd,
    /// What supervisors, and so containers, may open.
    descriptors: Rlimit,
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
            Self::Read { .. } | Self::Copy(_) | Self::Listen { .. } | Self::Start(_) => false,
        }
    }
}

impl Executable {
    /// Reads the file once; every supervisor shares the copy's pages.
    pub(crate) fn load(path: &Path, descriptors: Rlimit) -> Result<Self, SpawnError> {
        let image = std::fs::read(path).map_err(|source| SpawnError::Read {
            path: path.to_owned(),
            source,
        })?;
        let memfd =
            supervisor_api::sealed_memfd(&image).map_err(|error| SpawnError::Copy(error.into()))?;
        Ok(Self { memfd, descriptors })
    }

    /// A command that runs it, in a list of processes by this name.
    pub(crate) fn command(&self, name: &str) -> Command {
        // The child resolves this path, so it names the daemon's descriptor table, not the child's.
        let daemon = std::process::id();
        let mut command = Command::new(format!("/proc/{daemon}/fd/{}", self.memfd.as_raw_fd()));
        command.arg0(name).env_clear().current_dir("/");
        command
    }
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
    let errors = diagnostics.try_clone().map_err(SpawnError::Start)?;
    let child = executable
        .command("longshore-pod")
        .arg("--id")
        .arg(id)
        .arg("--dir")
        .arg(directory)
        .stdin(Stdio::from(listener))
        .stdout(Stdio::from(diagnostics))
        .stderr(Stdio::from(errors))
        .kill_on_drop(false)
        .spawn()
        .map_err(SpawnError::Start)?;
    // It makes no container before it is asked to, and nobody asks before this returns.
    if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
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
