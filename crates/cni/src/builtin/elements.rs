//! Host ports as elements of the table's maps.

use std::net::IpAddr;

use super::journal::Record;
use super::portmap::{PortMapping, Protocol};
use crate::netlink::nftables::Element;

const PORTS4: &str = "ports4";
const PORTS6: &str = "ports6";
const ADDRESSED4: &str = "addressed4";
const ADDRESSED6: &str = "addressed6";

pub(super) const MAPS: [&str; 4] = [PORTS4, PORTS6, ADDRESSED4, ADDRESSED6];

/// Maps and elements for an attachment's host ports: one of each family, as far as the host address allows.
pub(super) fn of(record: &Record) -> Vec<(&'static str, Element)> {
    let mut elements = Vec::new();
    for port in &record.ports {
        for pod in record.ips() {
            elements.extend(element(port, pod, &record.id));
        }
    }
    elements
}

/// `None`: the mapping is for the other family. Each part of a key or of data takes whole words of four bytes.
fn element(port: &PortMapping, pod: IpAddr, id: &str) -> Option<(&'static str, Element)> {
    let mut key = Vec::with_capacity(24);
    let map = match (pod, port.host_ip) {
        (IpAddr::V4(_), None) => PORTS4,
        (IpAddr::V6(_), None) => PORTS6,
        (IpAddr::V4(_), Some(IpAddr::V4(host))) if host.is_unspecified() => PORTS4,
        (IpAddr::V6(_), Some(IpAddr::V6(host))) if host.is_unspecified() => PORTS6,
        (IpAddr::V4(_), Some(IpAddr::V4(host))) => {
            key.extend(host.octets());
            ADDRESSED4
        }
        (IpAddr::V6(_), Some(IpAddr::V6(host))) => {
            key.extend(host.octets());
            ADDRESSED6
        }
        (IpAddr::V4(_), Some(IpAddr::V6(_))) | (IpAddr::V6(_), Some(IpAddr::V4(_))) => return None,
    };
    key.extend([protocol(port.protocol)?, 0, 0, 0]);
    key.extend(port.host_port.to_be_bytes());
    key.extend([0, 0]);
    let mut data = match pod {
        IpAddr::V4(pod) => pod.octets().to_vec(),
        IpAddr::V6(pod) => pod.octets().to_vec(),
    };
    data.extend(port.container_port.to_be_bytes());
    data.extend([0, 0]);
    let comment = id.to_owned();
    Some((map, Element { key, data, comment }))
}

/// The protocol's number, where host ports exist for it.
fn protocol(protocol: Protocol) -> Option<u8> {
    match protocol {
        Protocol::Tcp => Some(6),
        Protocol::Udp => Some(17),
        Protocol::Sctp => None,
    }
}
