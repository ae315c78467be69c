//! What the node needs before the first pod: the bridge, forwarding, the table.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::io::Errno;

use super::conditions::Condition;
use super::error::StepError;
use super::journal::{Record, mac_of};
use super::{BridgeConfig, Ranges, rules};
use crate::netlink::message::Request;
use crate::netlink::nftables::{self, Hook};
use crate::netlink::{NetlinkError, Socket, route};

/// The bridge as it is now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prepared {
    pub(super) bridge: u32,
}

/// Sockets in the node's network namespace.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) route: Socket,
    pub(super) netfilter: Socket,
}

impl Sockets {
    pub(super) fn open() -> Result<Sockets, StepError> {
        Ok(Sockets {
            route: Socket::route().map_err(netlink("reach rtnetlink"))?,
            netfilter: Socket::netfilter().map_err(netlink("reach nf_tables"))?,
        })
    }
}

/// Brings everything into being, or into shape. Leaves what is right.
pub(super) fn prepare(
    sockets: &mut Sockets,
    config: &BridgeConfig,
    ranges: &[Ranges],
    records: &[Record],
    conditions: &mut Vec<Condition>,
) -> Result<Prepared, StepError> {
    let bridge = bridge(sockets, config)?;
    let ipv6 = ranges.iter().any(|ranges| ranges.ipv6.is_some());
    forwarding(config, ipv6, conditions)?;
    addresses(sockets, config, ranges, bridge)?;
    rules::replace(&mut sockets.netfilter, config, ranges, records)
        .map_err(netlink("make nf_tables table inet longshore"))?;
    Ok(Prepared { bridge })
}

fn bridge(sockets: &mut Sockets, config: &BridgeConfig) -> Result<u32, StepError> {
    let name = &config.name;
    let mut request = Request::new();
    route::bridge(
        &mut request,
        name,
        // Of the configured range, whatever range is used: running pods have learnt it.
        mac_of(config.ipv4.gateway()),
        config.mtu,
    );
    sockets
        .route
        .run(&request)
        .map_err(netlink(&format!("make bridge {name}")))?;
    let index = route::index_of(&mut sockets.route, name)
        .map_err(netlink(&format!("find bridge {name}")))?;
    Ok(index)
}

fn addresses(
    sockets: &mut Sockets,
    config: &BridgeConfig,
    ranges: &[Ranges],
    index: u32,
) -> Result<(), StepError> {
    let name = &config.name;
    let mut request = Request::new();
    route::up(&mut request, index);
    for (gateway, prefix) in ranges.iter().flat_map(|ranges| ranges.gateways()) {
        route::address(&mut request, index, gateway, prefix);
    }
    sockets
        .route
        .run(&request)
        .map_err(netlink(&format!("give bridge {name} its addresses")))
}

fn forwarding(
    config: &BridgeConfig,
    ipv6: bool,
    conditions: &mut Vec<Condition>,
) -> Result<(), StepError> {
    let name = &config.name;
    set("net/ipv4/ip_forward", "1", conditions)?;
    // The node's own; harmless to others, so not worth telling.
    let mut own = Vec::new();
    set(
        &format!("net/ipv4/conf/{name}/route_localnet"),
        "1",
        &mut own,
    )?;
    if !ipv6 {
        return Ok(());
    }
    // Before the bridge is up: its link-local address, which is nobody else's, would be tentative for two seconds from the first
    // pod on, and the node cannot look for pods without one.
    set(&format!("net/ipv6/conf/{name}/accept_dad"), "0", &mut own)?;
    // No pod tells the node where the world is.
    set(&format!("net/ipv6/conf/{name}/accept_ra"), "0", &mut own)?;
    if read("net/ipv6/conf/all/forwarding").as_deref() != Some("1") {
        keep_router_advertisements(conditions)?;
        set("net/ipv6/conf/all/forwarding", "1", conditions)?;
    }
    Ok(())
}

/// A kernel that forwards IPv6 ignores router advertisements unless told not to, and a node that has its default route from one
/// would lose it.
fn keep_router_advertisements(conditions: &mut Vec<Condition>) -> Result<(), StepError> {
    let Ok(interfaces) = fs::read_dir("/proc/sys/net/ipv6/conf") else {
        return Ok(());
    };
    for interface in interfaces.flatten() {
        let interface = interface.file_name();
        let interface = interface.to_string_lossy();
        let accept = format!("net/ipv6/conf/{interface}/accept_ra");
        let physical = !matches!(&*interface, "all" | "default" | "lo");
        if physical && read(&accept).as_deref() == Some("1") {
            set(&accept, "2", conditions)?;
        }
    }
    Ok(())
}

/// Whether this kernel does IPv6 in this namespace.
pub(super) fn has_ipv6() -> bool {
    read("net/ipv6/conf/all/disable_ipv6").as_deref() == Some("0")
        && read("net/ipv6/conf/default/disable_ipv6").as_deref() == Some("0")
}

fn read(name: &str) -> Option<String> {
    let text = fs::read_to_string(PathBuf::from("/proc/sys").join(name)).ok()?;
    Some(text.trim().to_owned())
}

/// In a pod, where the calling thread is: its link-local address is at once its own. What cannot be set costs two seconds' delay of
/// that address alone.
pub(super) fn skip_duplicate_detection(interface: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/accept_dad");
    if let Err(error) = fs::write(path, "0") {
        tracing::debug!(%error, "a pod's link-local address waits for duplicate address detection");
    }
}

/// Not written where it is right already: `/proc/sys` may be read-only.
fn set(name: &str, value: &str, conditions: &mut Vec<Condition>) -> Result<(), StepError> {
    let failed = |source: io::Error| StepError::Sysctl {
        name: name.replace('/', "."),
        value: value.to_owned(),
        source: Arc::new(source),
    };
    let path = PathBuf::from("/proc/sys").join(name);
    let now = fs::read_to_string(&path).map_err(failed)?;
    let now = now.trim();
    if now == value {
        return Ok(());
    }
    fs::write(&path, value).map_err(failed)?;
    let condition = Condition::SysctlChanged {
        name: name.replace('/', "."),
        from: now.to_owned(),
        to: value.to_owned(),
    };
    tracing::info!(%condition, "kernel setting changed");
    conditions.push(condition);
    Ok(())
}

/// Chains of others that drop what is forwarded.
pub(super) fn forward_drops(sockets: &mut Sockets) -> Result<Vec<Condition>, StepError> {
    let chains = nftables::base_chains(&mut sockets.netfilter)
        .map_err(netlink("list the nf_tables chains"))?;
    let drops = chains.into_iter().filter_map(|chain| {
        if chain.hook != Hook::Forward as u32 || !chain.drops || chain.table == rules::TABLE {
            return None;
        }
        let family = match chain.family {
            1 => "inet",
            2 => "ip",
            10 => "ip6",
            // Bridges and devices have hooks of their own with these numbers.
            _ => return None,
        };
        Some(Condition::ForwardDropped {
            family,
            table: chain.table,
            chain: chain.name,
        })
    });
    Ok(drops.collect())
}

/// The index of the bridge, if there is one.
pub(super) fn find_bridge(
    sockets: &mut Sockets,
    config: &BridgeConfig,
) -> Result<Option<u32>, StepError> {
    match route::index_of(&mut sockets.route, &config.name) {
        Ok(index) => Ok(Some(index)),
        Err(error) if error.errno() == Some(Errno::NODEV) => Ok(None),
        Err(error) => Err(netlink(&format!("find bridge {}", config.name))(error)),
    }
}

/// For `map_err`.
pub(super) fn netlink(doing: &str) -> impl FnOnce(NetlinkError) -> StepError {
    let doing = doing.to_owned();
    move |source| StepError::Netlink { doing, source }
}
