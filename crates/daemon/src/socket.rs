//! The CRI socket.

use std::{
    io,
    os::{
        fd::AsRawFd,
        unix::{
            fs::PermissionsExt,
            net::{UnixListener as StdUnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use rustix::fs::{Mode, OFlags};
use tokio::net::UnixListener;

use crate::service;

/// `sun_path` without its end (unix(7)).
const LONGEST: usize = 107;

#[derive(Debug)]
pub(crate) struct Socket {
    /// Ours to remove; one that the service manager made is not.
    path: Option<PathBuf>,
}

impl Socket {
    /// Takes the socket that a service manager hands over, or replaces that of a daemon that is gone.
    pub(crate) fn listen(address: &Path) -> anyhow::Result<(Self, UnixListener)> {
        let activated = service::activated_listener().context("take the socket handed over")?;
        let (listener, path) = match activated {
            Some(listener) => (listener, None),
            None => (bind(address)?, Some(address.to_owned())),
        };
        listener.set_nonblocking(true)?;
        Ok((Self { path }, UnixListener::from_std(listener)?))
    }

    /// One beside it, which no service manager makes.
    pub(crate) fn listen_beside(address: &Path) -> anyhow::Result<(Self, UnixListener)> {
        let listener = bind(address)?;
        listener.set_nonblocking(true)?;
        let path = Some(address.to_owned());
        Ok((Self { path }, UnixListener::from_std(listener)?))
    }

    pub(crate) fn remove(&self) {
        if let Some(path) = &self.path
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::warn!(%error, address = %path.display(), "remove the socket");
        }
    }
}

fn bind(address: &Path) -> anyhow::Result<StdUnixListener> {
    let (Some(directory), Some(name)) = (address.parent(), address.file_name()) else {
        bail!("the address {} names no file", address.display());
    };
    std::fs::create_dir_all(directory)
        .with_context(|| format!("make the directory {}", directory.display()))?;
    // A path longer than an address holds goes through its directory's descriptor, which is open until the socket is there.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory, flags, Mode::empty())
        .with_context(|| format!("open the directory {}", directory.display()))?;
    let short = match address.as_os_str().len() > LONGEST {
        true => Path::new("/proc/self/fd")
            .join(opened.as_raw_fd().to_string())
            .join(name),
        false => address.to_owned(),
    };
    // Locks tell daemons of the same directories apart; this may be somebody else's.
    if UnixStream::connect(&short).is_ok() {
        bail!("somebody serves {} already", address.display());
    }
    match std::fs::remove_file(address) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("replace the socket {}", address.display()));
        }
        Ok(()) | Err(_) => {}
    }
    let listener = StdUnixListener::bind(&short)
        .with_context(|| format!("listen on {}", address.display()))?;
    std::fs::set_permissions(address, PermissionsExt::from_mode(0o660))
        .with_context(|| format!("set the mode of {}", address.display()))?;
    Ok(listener)
}
