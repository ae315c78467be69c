use std::path::PathBuf;

use super::Ranges;
use super::subnet::{Ipv4Subnet, Ipv6Subnet};

/// What the network looks like. Changing it while pods are attached is not supported; of the ranges see [`super::Bridge::use_ranges`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeConfig {
    /// The bridge's interface name, at most 15 bytes. Made if missing, never removed.
    pub name: String,
    /// Pods' addresses; the first is the bridge's. /30 or wider.
    pub ipv4: Ipv4Subnet,
    /// Likewise; `None` for IPv4 only. /126 or wider.
    pub ipv6: Option<Ipv6Subnet>,
    /// Of the bridge and of pods' interfaces, bytes.
    pub mtu: u32,
    /// Made if missing. Need not survive a reboot, must survive the daemon.
    pub state_dir: PathBuf,
    /// Whether pods reach other networks under the node's address.
    pub masquerade: bool,
}

impl Default for BridgeConfig {
    fn default() -> BridgeConfig {
        BridgeConfig {
            name: "longshore0".to_owned(),
            ipv4: Ipv4Subnet::DEFAULT,
            ipv6: Some(Ipv6Subnet::DEFAULT),
            mtu: 1500,
            state_dir: PathBuf::from("/var/lib/longshore/network"),
            masquerade: true,
        }
    }
}

impl BridgeConfig {
    pub(super) fn ranges(&self) -> Ranges {
        Ranges {
            ipv4: self.ipv4,
            ipv6: self.ipv6,
        }
    }
}
