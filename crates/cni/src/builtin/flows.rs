//! UDP knows no connections, but the kernel remembers where it sent the packets of each client, and looks host ports up for the first
//! one only. A client that goes on from one port would talk to a pod that is gone for ever, or never to one that came after its
//! first packet. So what it remembers is dropped when a host port comes or goes.

use std::net::IpAddr;

use rustix::io::Errno;

use super::journal::Record;
use super::portmap::Protocol;
use crate::netlink::conntrack::{self, Flow};
use crate::netlink::nftables::{IPV4, IPV6};
use crate::netlink::{NetlinkError, Socket};

const UDP: u8 = 17;

/// After the host ports of this attachment came: flows to them that lead elsewhere.
pub(super) fn forget_others(socket: &mut Socket, record: &Record) {
    forget(socket, record, |flow, pod| flow.server != pod);
}

/// After they went: flows that lead to this pod.
pub(super) fn forget_own(socket: &mut Socket, record: &Record) {
    forget(socket, record, |flow, pod| flow.server == pod);
}

/// Failing is no reason to fail: flows end by themselves after a minute or three of silence.
fn forget(socket: &mut Socket, record: &Record, stale: impl Fn(&Flow, IpAddr) -> bool) {
    let udp = record
        .ports
        .iter()
        .filter(|port| port.protocol == Protocol::Udp);
    let ports: Vec<u16> = udp.map(|port| port.host_port).collect();
    if ports.is_empty() {
        return;
    }
    for pod in record.ips() {
        let wanted = |flow: &Flow| {
            flow.protocol == UDP && ports.contains(&flow.destination_port) && stale(flow, pod)
        };
        if let Err(error) = forget_wanted(socket, pod, wanted) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "UDP clients of host ports may have to pause before they reach the right pod"
            );
        }
    }
}

fn forget_wanted(
    socket: &mut Socket,
    pod: IpAddr,
    wanted: impl Fn(&Flow) -> bool,
) -> Result<(), NetlinkError> {
    let family = match pod {
        IpAddr::V4(_) => IPV4,
        IpAddr::V6(_) => IPV6,
    };
    for flow in conntrack::flows(socket, family, wanted)? {
        match conntrack::delete(socket, &flow) {
            Err(error) if error.errno() == Some(Errno::NOENT) => {}
            other => other?,
        }
    }
    Ok(())
}
