//! A forwarded connection: from a client to a port on a pod's loopback.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{AddressFamily, Shutdown},
};
use streaming::{Duplex, SessionError};

use super::{
    Sockets,
    pump::{End, inward, outward},
};
use crate::{
    handlers::{MadeWith, Stack},
    pod::Pod,
    runtime::Runtime,
};

/// Programs of the pod have this long to accept a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Where programs of a pod listen for their neighbours, the more usual first.
const LOOPBACKS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// Carries bytes both ways until both have ended. Each is half-closed on its own. The end of the pod is its end too: a connection would keep
/// the pod's network.
pub(super) async fn port_forward(
    runtime: &Runtime,
    sockets: &Sockets,
    pod: &Arc<Pod>,
    port: u16,
    stream: Duplex,
) -> Result<(), SessionError> {
    let failed = |why: &str| SessionError::new(format!("port {port} of pod {}: {why}", pod.id));
    let carried = async {
        let connection = connect(runtime, sockets, pod, port)
            .await
            .map_err(|error| failed(&error.to_string()))?;
        carry(&connection, stream)
            .await
            .map_err(|error| failed(&format!("the connection broke: {error}")))
    };
    tokio::select! {
        carried = carried => carried,
        () = pod.ended() => Err(failed("the pod is not ready (any more)")),
    }
}

async fn connect(runtime: &Runtime, sockets: &Sockets, pod: &Pod, port: u16) -> io::Result<End> {
    let (namespace, addresses) = way(runtime, pod);
    let mut first = None;
    for address in addresses {
        let address = SocketAddr::new(address, port);
        let attempt = connect_to(sockets, namespace.as_deref(), address);
        let attempt = tokio::time::timeout(CONNECT_WITHIN, attempt).await;
        match attempt.unwrap_or_else(|elapsed| Err(elapsed.into())) {
            Ok(connection) => return Ok(connection),
            Err(error) => {
                first.get_or_insert_with(|| {
                    io::Error::new(error.kind(), format!("connect to {address}: {error}"))
                });
            }
        }
    }
    Err(first.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
}

/// In which network namespace to ask for a connection, and to which addresses. A stack of the containers' own is no namespace's: it is reached as
/// by everybody else, by the pod's addresses, from the node.
fn way(runtime: &Runtime, pod: &Pod) -> (Option<PathBuf>, Vec<IpAddr>) {
    let own = |made_with: &MadeWith| made_with.stack() == Stack::Own;
    match pod.config.namespaces().net {
        true if pod.made_with.as_ref().is_some_and(own) => (None, pod.ips()),
        true => (Some(runtime.netns_path(&pod.id)), LOOPBACKS.to_vec()),
        false => (None, LOOPBACKS.to_vec()),
    }
}

async fn connect_to(
    sockets: &Sockets,
    namespace: Option<&Path>,
    address: SocketAddr,
) -> io::Result<End> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = sockets.tcp(namespace.map(Path::to_owned), family).await?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    // What is typed must not wait for what is typed next.
    rustix::net::sockopt::set_tcp_nodelay(&socket, true)?;
    let connection = End::new(socket)?;
    connection.connected().await?;
    Ok(connection)
}

async fn carry(connection: &End, stream: Duplex) -> io::Result<()> {
    let (mut from, to) = tokio::io::split(stream);
    let inwards = async {
        inward(&mut from, connection).await?;
        // It fails where the program has closed already.
        let _closed = rustix::net::shutdown(connection.descriptor(), Shutdown::Write);
        Ok(())
    };
    tokio::try_join!(inwards, outward(connection, to, std::future::pending()))?;
    Ok(())
}
