use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::error::AttachError;

/// A port of the node that leads to a port of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PortMapping {
    pub protocol: Protocol,
    pub container_port: u16,
    pub host_port: u16,
    /// The node's address to which it is limited. `None`: all of them, IPv4 and IPv6; `0.0.0.0` and `::`: all of that family.
    pub host_ip: Option<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    /// Refused by attach: the built-in network does not map it.
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        })
    }
}

/// Refuses mappings that cannot be had, before anything is touched. `ipv6`: whether the pod gets an IPv6 address.
pub(super) fn check(ports: &[PortMapping], ipv6: bool) -> Result<(), AttachError> {
    for (index, port) in ports.iter().enumerate() {
        let refused = |field: &str, value: String, reason| {
            Err(AttachError::Port {
                field: format!("port_mappings[{index}].{field}"),
                value,
                reason,
            })
        };
        if port.protocol == Protocol::Sctp {
            return refused(
                "protocol",
                port.protocol.to_string(),
                "the built-in network maps TCP and UDP only; use a CNI plugin for SCTP",
            );
        }
        if port.container_port == 0 {
            return refused("container_port", "0".to_owned(), "must be from 1 to 65535");
        }
        if port.host_port == 0 {
            return refused("host_port", "0".to_owned(), "must be from 1 to 65535");
        }
        match port.host_ip {
            Some(IpAddr::V6(ip)) if !ipv6 => {
                return refused(
                    "host_ip",
                    ip.to_string(),
                    "the built-in network has no IPv6 here",
                );
            }
            Some(IpAddr::V6(ip)) if ip.is_loopback() => {
                return refused(
                    "host_ip",
                    ip.to_string(),
                    "the kernel routes nothing from ::1 to a pod; use 127.0.0.1",
                );
            }
            Some(IpAddr::V4(_) | IpAddr::V6(_)) | None => {}
        }
        if ports[..index].iter().any(|earlier| earlier.conflicts(port)) {
            return refused(
                "host_port",
                format!("{}/{}", port.host_port, port.protocol),
                "an earlier mapping of the same pod has this port",
            );
        }
    }
    Ok(())
}

impl PortMapping {
    /// Whether some packet would match both.
    pub(super) fn conflicts(&self, other: &PortMapping) -> bool {
        self.protocol == other.protocol
            && self.host_port == other.host_port
            && match (self.host_ip, other.host_ip) {
                (None, _) | (_, None) => true,
                (Some(one), Some(two)) => {
                    one == two
                        || one.is_ipv4() == two.is_ipv4()
                            && (one.is_unspecified() || two.is_unspecified())
                }
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host_ip: Option<&str>, host_port: u16) -> PortMapping {
        PortMapping {
            protocol: Protocol::Tcp,
            container_port: 80,
            host_port,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        }
    }

    #[test]
    fn a_wildcard_conflicts_within_its_family() {
        let conflict = |one, two| {
            let (one, two) = (tcp(one, 1), tcp(two, 1));
            assert_eq!(one.conflicts(&two), two.conflicts(&one));
            one.conflicts(&two)
        };
        assert!(conflict(None, None));
        assert!(conflict(None, Some("10.0.0.1")));
        assert!(conflict(None, Some("fd00::1")));
        assert!(conflict(Some("0.0.0.0"), Some("10.0.0.1")));
        assert!(conflict(Some("10.0.0.1"), Some("10.0.0.1")));
        assert!(!conflict(Some("10.0.0.2"), Some("10.0.0.1")));
        assert!(!conflict(Some("0.0.0.0"), Some("fd00::1")));
        assert!(!conflict(Some("0.0.0.0"), Some("::")));
        let udp = PortMapping {
            protocol: Protocol::Udp,
            ..tcp(None, 1)
        };
        assert!(!udp.conflicts(&tcp(None, 1)));
    }

    #[test]
    fn refusals_name_the_field() {
        let refused = |ports: &[PortMapping]| check(ports, false).unwrap_err().to_string();
        let sctp = PortMapping {
            protocol: Protocol::Sctp,
            ..tcp(None, 1)
        };
        assert!(refused(&[tcp(None, 2), sctp]).contains("port_mappings[1].protocol = SCTP"));
        assert!(refused(&[tcp(None, 0)]).contains("host_port"));
        assert!(refused(&[tcp(None, 1), tcp(None, 1)]).contains("[1].host_port = 1/TCP"));
        assert!(refused(&[tcp(Some("fd00::1"), 1)]).contains("host_ip = fd00::1"));
    }
}
