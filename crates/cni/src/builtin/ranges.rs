//! The ranges that pods' addresses come from, now and before.
//!
//! They can change while pods run. A pod keeps what it has, its gateway too, so a range stays on the bridge as long as a pod is of it:
//!
//! ```text
//!            use_ranges              the last pod of it is gone
//!   current ───────────▶ earlier ──────────────────────────────▶ off the bridge
//!      ▲                    │
//!      └────────────────────┘ used again
//! ```

use std::net::IpAddr;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::error::{RangeError, StepError};
use super::journal::Journal;
use super::node::{Sockets, netlink};
use super::{Ipv4Subnet, Ipv6Subnet};
use crate::netlink::route;
use crate::records::RecordError;

/// Beside the attachments' records, and no `.json` as they are.
const FILE: &str = "ranges";

/// Where the addresses of a pod come from. Both are at the same place of their subnets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranges {
    pub ipv4: Ipv4Subnet,
    pub ipv6: Option<Ipv6Subnet>,
}

impl Default for Ranges {
    fn default() -> Ranges {
        Ranges {
            ipv4: Ipv4Subnet::DEFAULT,
            ipv6: Some(Ipv6Subnet::DEFAULT),
        }
    }
}

impl Ranges {
    /// The bridge's addresses, each with its prefix. IPv4 first.
    pub(super) fn gateways(self) -> impl Iterator<Item = (IpAddr, u8)> {
        let ipv4 = (IpAddr::V4(self.ipv4.gateway()), self.ipv4.prefix());
        let ipv6 = self
            .ipv6
            .map(|ipv6| (IpAddr::V6(ipv6.gateway()), ipv6.prefix()));
        std::iter::once(ipv4).chain(ipv6)
    }

    /// How many pods fit.
    pub(super) fn capacity(self) -> u64 {
        let ipv6 = self.ipv6.map_or(u64::MAX, Ipv6Subnet::capacity);
        self.ipv4.capacity().min(ipv6)
    }

    /// The place of an address, if a pod could get it.
    pub(super) fn index_of(self, address: IpAddr) -> Option<u64> {
        match address {
            IpAddr::V4(address) => self.ipv4.index_of(address),
            IpAddr::V6(address) => self.ipv6?.index_of(address),
        }
    }
}

/// What is on disk: the ranges in use when they are not the configured ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chosen {
    /// What the configuration said then. Where it says something else now, that is what counts.
    pub(super) configured: Ranges,
    pub(super) current: Ranges,
    /// Those whose gateways may still be on the bridge.
    pub(super) earlier: Vec<Ranges>,
}

impl Chosen {
    pub(super) fn load(journal: &Journal, configured: Ranges) -> Chosen {
        let none = Chosen {
            configured,
            current: configured,
            earlier: Vec::new(),
        };
        let Ok(bytes) = std::fs::read(journal.records.path().join(FILE)) else {
            return none;
        };
        match serde_json::from_slice::<Chosen>(&bytes) {
            Ok(chosen) if chosen.configured == configured => chosen,
            Ok(mut other) => {
                tracing::info!("the configured ranges of pods have changed, and count");
                other.earlier.push(other.current);
                Chosen {
                    earlier: other.earlier,
                    ..none
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the record of pods' ranges is damaged; the configured ones count");
                none
            }
        }
    }

    /// Also against the loss of power: whoever chose them does so once, when it starts.
    pub(super) fn save(&self, journal: &Journal) -> Result<(), RecordError> {
        journal.records.replace(FILE, self, sys::Durability::Power)
    }
}

/// Whether the node itself knows another way to something in the ranges: an address of its own, or a network. Pods would take it away,
/// or could not be reached. A route that is wider is none of these: the more special one wins.
pub(super) fn check_routes(
    sockets: &mut Sockets,
    bridge: Option<u32>,
    ranges: Ranges,
) -> Result<(), RangeError> {
    let mut subnets = vec![(IpAddr::V4(ranges.ipv4.network()), ranges.ipv4.prefix())];
    subnets.extend(
        ranges
            .ipv6
            .map(|ipv6| (IpAddr::V6(ipv6.network()), ipv6.prefix())),
    );
    for (network, prefix) in subnets {
        let routes = route::routes(&mut sockets.route, network)
            .map_err(netlink("list the node's routes"))
            .map_err(RangeError::Step)?;
        let taken = routes.into_iter().find(|route| {
            route.link.is_none_or(|link| Some(link) != bridge)
                && route.prefix >= prefix
                && starts_alike(route.destination, network, prefix)
        });
        if let Some(route) = taken {
            let name =
                |index| rustix::net::netdevice::index_to_name(sockets.route.as_fd(), index).ok();
            return Err(RangeError::Routed {
                range: format!("{network}/{prefix}"),
                destination: format!("{}/{}", route.destination, route.prefix),
                link: route
                    .link
                    .and_then(name)
                    .unwrap_or_else(|| "another link".to_owned()),
            });
        }
    }
    Ok(())
}

fn starts_alike(one: IpAddr, other: IpAddr, prefix: u8) -> bool {
    let differing = match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
    };
    differing >= u32::from(prefix)
}

/// Takes addresses off the bridge; those that are gone, too.
pub(super) fn take_off(
    sockets: &mut Sockets,
    bridge: u32,
    gateways: impl Iterator<Item = (IpAddr, u8)>,
) -> Result<(), StepError> {
    for (address, prefix) in gateways {
        let mut request = crate::netlink::message::Request::new();
        route::remove_address(&mut request, bridge, address, prefix);
        match sockets.route.run(&request) {
            Err(error) if error.errno() == Some(Errno::ADDRNOTAVAIL) => {}
            other => other.map_err(netlink(&format!("take {address} off the bridge")))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_counts_as_long_as_the_configuration_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(dir.path()).unwrap();
        let configured = Ranges::default();
        assert_eq!(Chosen::load(&journal, configured).current, configured);
        let given = Ranges {
            ipv4: "10.1.0.0/24".parse().unwrap(),
            ipv6: None,
        };
        let chosen = Chosen {
            configured,
            current: given,
            earlier: vec![configured],
        };
        chosen.save(&journal).unwrap();
        assert_eq!(Chosen::load(&journal, configured), chosen);
        // It is no attachment's, and opening the journal leaves it.
        let (journal, records) = Journal::open(dir.path()).unwrap();
        assert!(records.is_empty());
        let other = Ranges {
            ipv4: "10.2.0.0/24".parse().unwrap(),
            ipv6: None,
        };
        let changed = Chosen::load(&journal, other);
        assert_eq!(changed.current, other);
        assert_eq!(changed.earlier, [configured, given]);
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(Chosen::load(&journal, configured).current, configured);
    }

    #[test]
    fn networks_begin_alike_or_do_not() {
        let alike = |one: &str, other: &str, prefix| {
            starts_alike(one.parse().unwrap(), other.parse().unwrap(), prefix)
        };
        assert!(alike("10.1.2.3", "10.1.0.0", 16));
        assert!(!alike("10.2.2.3", "10.1.0.0", 16));
        assert!(alike("fd00::1", "fd00::", 64));
        assert!(!alike("fd00:0:0:1::1", "fd00::", 64));
        assert!(!alike("fd00::", "10.1.0.0", 1));
    }
}
