//! Sockets in pods' networks.
//!
//! A socket belongs to the network namespace of the thread that makes it, and any thread may use it after that. One thread does nothing
//! else: it enters a namespace, makes a socket, and comes back, some microseconds in all; nothing in that can block.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::mpsc,
};

use rustix::{
    fs::{Mode, OFlags},
    net::{AddressFamily, SocketFlags, SocketType},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use tokio::sync::oneshot;

/// Makes sockets. Dropping it ends its thread.
#[derive(Debug)]
pub(crate) struct Sockets {
    orders: mpsc::Sender<Order>,
}

#[derive(Debug)]
struct Order {
    /// `None` is the daemon's own.
    namespace: Option<PathBuf>,
    family: AddressFamily,
    socket: oneshot::Sender<io::Result<OwnedFd>>,
}

impl Sockets {
    pub(crate) fn start() -> io::Result<Self> {
        let own = open("/proc/thread-self/ns/net".into())?;
        let (orders, ordered) = mpsc::channel();
        let serve = move || serve(&own, &ordered);
        std::thread::Builder::new()
            .name("pod-sockets".to_owned())
            // It has hardly any frames.
            .stack_size(128 * 1024)
            .spawn(serve)?;
        Ok(Self { orders })
    }

    /// A TCP socket, non-blocking, not connected, in the namespace that is pinned there.
    pub(super) async fn tcp(
        &self,
        namespace: Option<PathBuf>,
        family: AddressFamily,
    ) -> io::Result<OwnedFd> {
        let (socket, made) = oneshot::channel();
        let order = Order {
            namespace,
            family,
            socket,
        };
        let ended = || io::Error::other("the thread that makes sockets has ended");
        self.orders.send(order).map_err(|_| ended())?;
        made.await.map_err(|_| ended())?
    }
}

fn serve(own: &OwnedFd, orders: &mpsc::Receiver<Order>) {
    while let Ok(order) = orders.recv() {
        let socket = match order.namespace {
            None => make(order.family),
            Some(namespace) => {
                let socket = make_in(namespace, order.family);
                // Also after an error: then there is nothing to leave, and nothing is lost.
                if let Err(error) = enter(own) {
                    // Nothing may be made in the wrong network, and no pod's be held.
                    tracing::error!(%error, "leave a pod's network; no more ports are forwarded");
                    return;
                }
                socket
            }
        };
        // A caller that has gone does not want it.
        let _gone = order.socket.send(socket);
    }
}

fn make_in(namespace: PathBuf, family: AddressFamily) -> io::Result<OwnedFd> {
    enter(&open(namespace)?)?;
    make(family)
}

fn open(namespace: PathBuf) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(namespace, flags, Mode::empty())?)
}

fn enter(namespace: &OwnedFd) -> io::Result<()> {
    let kind = Some(LinkNameSpaceType::Network);
    Ok(move_into_link_name_space(namespace.as_fd(), kind)?)
}

fn make(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(
        family,
        SocketType::STREAM,
        flags,
        None,
    )?)
}
