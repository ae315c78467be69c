//! A pod's link: both ends, addresses, routes.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::error::StepError;
use super::journal::Record;
use super::node::{Prepared, Sockets, netlink};
use super::{BridgeConfig, node};
use crate::netlink::message::Request;
use crate::netlink::{Socket, route};

/// In the pod.
pub(super) const INTERFACE: &str = "eth0";

/// Begins the names of the node's ends, so that a sweep knows them.
pub(super) const PREFIX: &str = "lsv";

/// After this long the kernel has begun to take a dead namespace apart, in the background and many at a time.
const BEGUN_BOUND: Duration = Duration::from_millis(100);

/// How long it may take to get to the link.
const VANISH_BOUND: Duration = Duration::from_secs(2);

/// The node's end, from the attachment's id: 15 bytes at most, so a hash (FNV-1a) stands for it. Records tell of collisions.
pub(super) fn name_for(id: &str, attempt: u64) -> String {
    let hash = id
        .bytes()
        .chain(attempt.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
    format!("{PREFIX}{:012x}", hash >> 16)
}

/// Moves the calling thread.
pub(super) fn enter(namespace: BorrowedFd<'_>, whose: &'static str) -> Result<(), StepError> {
    move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))
        .map_err(|source| StepError::Enter { whose, source })
}

/// Makes the link. What an earlier life of this attachment left under the name goes first.
pub(super) fn make(
    sockets: &mut Sockets,
    config: &BridgeConfig,
    prepared: Prepared,
    record: &Record,
    netns: BorrowedFd<'_>,
) -> Result<(), StepError> {
    let mut request = Request::new();
    route::veth(
        &mut request,
        &route::Veth {
            name: &record.link,
            bridge: prepared.bridge,
            mtu: config.mtu,
            peer: INTERFACE,
            peer_mac: record.mac(),
            netns,
        },
    );
    let doing = format!("make link {} with {INTERFACE} in the pod", record.link);
    match sockets.route.run(&request) {
        Err(error) if error.errno() == Some(Errno::EXIST) => {
            delete(sockets, &record.link)?;
            sockets.route.run(&request).map_err(netlink(&doing))
        }
        other => other.map_err(netlink(&doing)),
    }
}

/// Gives the pod's end its addresses and routes. The calling thread stays in the pod's namespace.
pub(super) fn configure(record: &Record, netns: BorrowedFd<'_>) -> Result<(), StepError> {
    enter(netns, "pod's")?;
    let mut socket = Socket::route().map_err(netlink("reach rtnetlink in the pod"))?;
    let index = route::index_of(&mut socket, INTERFACE).map_err(netlink("find eth0 in the pod"))?;
    if record.ipv6.is_some() {
        node::skip_duplicate_detection(INTERFACE);
    }
    let mut request = Request::new();
    route::up(&mut request, route::LOOPBACK);
    route::up(&mut request, index);
    let ipv4 = IpAddr::V4(record.ipv4);
    let ranges = record.ranges;
    route::address(&mut request, index, ipv4, ranges.ipv4.prefix());
    route::default_route(&mut request, index, IpAddr::V4(ranges.ipv4.gateway()));
    if let (Some(ipv6), Some(subnet)) = (record.ipv6, ranges.ipv6) {
        route::address(&mut request, index, IpAddr::V6(ipv6), subnet.prefix());
        route::default_route(&mut request, index, IpAddr::V6(subnet.gateway()));
    }
    let addresses: Vec<String> = record.ips().iter().map(IpAddr::to_string).collect();
    let doing = format!("give eth0 in the pod {}", addresses.join(" and "));
    socket.run(&request).map_err(netlink(&doing))
}

/// Also when it is gone.
pub(super) fn delete(sockets: &mut Sockets, name: &str) -> Result<(), StepError> {
    let mut request = Request::new();
    route::delete(&mut request, name);
    match sockets.route.run(&request) {
        Err(error) if error.errno() == Some(Errno::NODEV) => Ok(()),
        other => other.map_err(netlink(&format!("remove link {name}"))),
    }
}

/// Waits for the kernel to reap the link of a namespace that was let go, which costs nobody anything; removing it by name takes tens
/// of milliseconds under the lock of all network configuration. A namespace that lives on loses its link by name.
pub(super) fn let_go(sockets: &mut Sockets, name: &str) -> Result<(), StepError> {
    // By ioctl, which does not wait for that lock.
    let index = match rustix::net::netdevice::name_to_index(sockets.route.as_fd(), name) {
        Ok(index) => index,
        Err(Errno::NODEV) => return Ok(()),
        Err(_) => return delete(sockets, name),
    };
    let started = Instant::now();
    let mut pause = Duration::from_millis(1);
    let mut dying = false;
    while exists(sockets, index) {
        let waited = started.elapsed();
        if waited >= VANISH_BOUND {
            return delete(sockets, name);
        }
        if waited >= BEGUN_BOUND && !dying {
            match route::peer_lives(&mut sockets.route, name) {
                Ok(true) => return delete(sockets, name),
                // Gone, or nobody knows: the bound decides.
                Ok(false) | Err(_) => dying = true,
            }
        }
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(8));
    }
    Ok(())
}

/// Asked by number: for a name that is not there, the kernel first runs `modprobe`, twice.
fn exists(sockets: &Sockets, index: u32) -> bool {
    let found = rustix::net::netdevice::index_to_name_inlined(sockets.route.as_fd(), index);
    !matches!(found, Err(Errno::NODEV))
}
