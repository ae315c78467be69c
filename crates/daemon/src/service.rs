//! The service manager: what it is told (sd_notify(3)), and the socket that it may hand over (sd_listen_fds(3)).

use std::{
    env, io,
    os::{
        fd::OwnedFd,
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram, UnixListener},
        },
    },
    time::Duration,
};

use rustix::time::ClockId;

/// The first descriptor that a service manager hands over.
const FIRST_DESCRIPTOR: i32 = 3;

/// Whoever started the daemon, if it listens. What it misses is not worth a failure.
#[derive(Debug)]
pub(crate) struct ServiceManager {
    listener: Option<(UnixDatagram, SocketAddr)>,
}

impl ServiceManager {
    /// The one that `NOTIFY_SOCKET` names.
    pub(crate) fn from_environment() -> Self {
        let listener = env::var_os("NOTIFY_SOCKET").and_then(|name| {
            let connected = connect(name.as_bytes());
            if let Err(error) = &connected {
                tracing::warn!(%error, socket = %name.display(), "reach the service manager");
            }
            connected.ok()
        });
        Self { listener }
    }

    pub(crate) fn starting(&self, doing: &str) {
        self.tell(&format!("STATUS={doing}"));
    }

    pub(crate) fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// To be followed by [`ServiceManager::ready`].
    pub(crate) fn reloading(&self) {
        let now = rustix::time::clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=ending; pods go on");
    }

    /// Says again and again that the daemon's tasks get their turn, if the manager wants to hear it; never ends.
    pub(crate) async fn watch(&self) {
        let Some(interval) = watchdog() else {
            return std::future::pending().await;
        };
        let mut ticks = tokio::time::interval(interval / 2);
        loop {
            ticks.tick().await;
            self.tell("WATCHDOG=1");
        }
    }

    fn tell(&self, message: &str) {
        if let Some((socket, address)) = &self.listener
            && let Err(error) = socket.send_to_addr(message.as_bytes(), address)
        {
            tracing::warn!(%error, message, "tell the service manager");
        }
    }
}

fn connect(name: &[u8]) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
    };
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read must not hold up the daemon.
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

/// How long the manager waits for a sign of life (sd_watchdog_enabled(3)).
fn watchdog() -> Option<Duration> {
    if let Some(pid) = number("WATCHDOG_PID")
        && pid != u64::from(std::process::id())
    {
        return None;
    }
    let interval = Duration::from_micros(number("WATCHDOG_USEC")?);
    (interval > Duration::ZERO).then_some(interval)
}

/// The listening unix socket that the manager hands over, if it does.
///
/// # Errors
/// What it hands over is something else.
pub(crate) fn activated_listener() -> io::Result<Option<UnixListener>> {
    let for_us = number("LISTEN_PID") == Some(u64::from(std::process::id()));
    if !for_us || number("LISTEN_FDS").is_none_or(|count| count == 0) {
        return Ok(None);
    }
    let descriptor: OwnedFd = sys::inherited_descriptor(FIRST_DESCRIPTOR)?;
    let listens = rustix::net::sockopt::socket_acceptconn(&descriptor)?;
    let family = rustix::net::sockopt::socket_domain(&descriptor)?;
    if !listens || family != rustix::net::AddressFamily::UNIX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a unix socket that listens",
        ));
    }
    Ok(Some(UnixListener::from(descriptor)))
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}
