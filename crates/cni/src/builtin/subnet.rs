use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An IPv4 network; host bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Subnet {
    network: Ipv4Addr,
    prefix: u8,
}

/// An IPv6 network; host bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv6Subnet {
    network: Ipv6Addr,
    prefix: u8,
}

/// Why a text is not a subnet for pods.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    #[error("{0:?} is not ADDRESS/PREFIX")]
    Form(String),
    #[error("{text:?} has bits set beyond its prefix; its network is {network}")]
    HostBits { text: String, network: String },
    #[error("{0:?} has no room for a pod beside the bridge")]
    Small(String),
    #[error(
        "{0:?} has addresses in it that no pod can have: they are of loopback, links, groups or nobody"
    )]
    Special(String),
}

impl Ipv4Subnet {
    /// 10.88.0.0/16, where containers on a single machine usually live.
    pub const DEFAULT: Ipv4Subnet = Ipv4Subnet {
        network: Ipv4Addr::new(10, 88, 0, 0),
        prefix: 16,
    };

    pub fn network(self) -> Ipv4Addr {
        self.network
    }

    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The bridge's own address, the first.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() + 1)
    }

    pub(crate) fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(mask(self.prefix.into(), 32) as u32)
    }

    /// How many pods fit: all but the network, the bridge and the broadcast address.
    pub(crate) fn capacity(self) -> u64 {
        (1u64 << (32 - self.prefix)) - 3
    }

    /// The `index`th pod's address, from 0.
    pub(crate) fn pod(self, index: u64) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits().wrapping_add(index as u32 + 2))
    }

    pub(crate) fn index_of(self, address: Ipv4Addr) -> Option<u64> {
        let offset = u64::from(address.to_bits().checked_sub(self.network.to_bits())?);
        offset
            .checked_sub(2)
            .filter(|index| *index < self.capacity())
    }
}

impl Ipv6Subnet {
    /// A unique local network. It never leaves a node (pods are masqueraded), so that it is the same on every node harms nobody.
    pub const DEFAULT: Ipv6Subnet = Ipv6Subnet {
        network: Ipv6Addr::new(0xfd4c, 0x6f6e, 0x6773, 0x686f, 0, 0, 0, 0),
        prefix: 64,
    };

    pub fn network(self) -> Ipv6Addr {
        self.network
    }

    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The bridge's own address, the first.
    pub fn gateway(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.network.to_bits() + 1)
    }

    pub(crate) fn mask(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(mask(self.prefix.into(), 128))
    }

    /// How many pods fit; wide networks are used up to the size of the widest IPv4 one.
    pub(crate) fn capacity(self) -> u64 {
        (1u64 << (128 - self.prefix).min(32)) - 3
    }

    /// The `index`th pod's address, from 0.
    pub(crate) fn pod(self, index: u64) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.network.to_bits() + u128::from(index) + 2)
    }

    pub(crate) fn index_of(self, address: Ipv6Addr) -> Option<u64> {
        let offset = address.to_bits().checked_sub(self.network.to_bits())?;
        let index = u64::try_from(offset.checked_sub(2)?).ok()?;
        (index < self.capacity()).then_some(index)
    }
}

/// "This network", loopback, and what is above: groups, the reserved ones, broadcast.
const SPECIAL4: [(Ipv4Addr, u8); 3] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// Unspecified, loopback and mapped ones; of a link; groups.
const SPECIAL6: [(Ipv6Addr, u8); 3] = [
    (Ipv6Addr::UNSPECIFIED, 8),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

/// The first `prefix` of `bits` bits set.
fn mask(prefix: u32, bits: u32) -> u128 {
    let all = if bits == 128 {
        u128::MAX
    } else {
        (1 << bits) - 1
    };
    all & !(all.checked_shr(prefix).unwrap_or(0))
}

fn split(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    Some((address.parse().ok()?, prefix.parse().ok()?))
}

impl FromStr for Ipv4Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Ipv4Subnet, SubnetError> {
        let Some((IpAddr::V4(address), prefix @ 0..=32)) = split(text) else {
            return Err(SubnetError::Form(text.to_owned()));
        };
        if !(1..=30).contains(&prefix) {
            return Err(SubnetError::Small(text.to_owned()));
        }
        let network = address.to_bits() & mask(prefix.into(), 32) as u32;
        let subnet = Ipv4Subnet {
            network: Ipv4Addr::from_bits(network),
            prefix,
        };
        if subnet.network != address {
            return Err(SubnetError::HostBits {
                text: text.to_owned(),
                network: subnet.to_string(),
            });
        }
        let special = SPECIAL4.iter().any(|(special, of)| {
            let shared = mask((*of).min(prefix).into(), 32) as u32;
            (network ^ special.to_bits()) & shared == 0
        });
        match special {
            true => Err(SubnetError::Special(text.to_owned())),
            false => Ok(subnet),
        }
    }
}

impl FromStr for Ipv6Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Ipv6Subnet, SubnetError> {
        let Some((IpAddr::V6(address), prefix @ 0..=128)) = split(text) else {
            return Err(SubnetError::Form(text.to_owned()));
        };
        if !(1..=126).contains(&prefix) {
            return Err(SubnetError::Small(text.to_owned()));
        }
        let network = address.to_bits() & mask(prefix.into(), 128);
        let subnet = Ipv6Subnet {
            network: Ipv6Addr::from_bits(network),
            prefix,
        };
        if subnet.network != address {
            return Err(SubnetError::HostBits {
                text: text.to_owned(),
                network: subnet.to_string(),
            });
        }
        let special = SPECIAL6.iter().any(|(special, of)| {
            let shared = mask((*of).min(prefix).into(), 128);
            (network ^ special.to_bits()) & shared == 0
        });
        match special {
            true => Err(SubnetError::Special(text.to_owned())),
            false => Ok(subnet),
        }
    }
}

macro_rules! texts {
    ($subnet:ty) => {
        impl TryFrom<String> for $subnet {
            type Error = SubnetError;

            fn try_from(text: String) -> Result<$subnet, SubnetError> {
                text.parse()
            }
        }

        impl From<$subnet> for String {
            fn from(subnet: $subnet) -> String {
                subnet.to_string()
            }
        }
    };
}

texts!(Ipv4Subnet);
texts!(Ipv6Subnet);

impl fmt::Display for Ipv4Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl fmt::Display for Ipv6Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_are_parsed_strictly() {
        let subnet: Ipv4Subnet = "10.1.0.0/29".parse().unwrap();
        assert_eq!(subnet.gateway(), Ipv4Addr::new(10, 1, 0, 1));
        assert_eq!(subnet.capacity(), 5);
        assert_eq!(subnet.pod(0), Ipv4Addr::new(10, 1, 0, 2));
        assert_eq!(subnet.pod(4), Ipv4Addr::new(10, 1, 0, 6));
        assert_eq!(subnet.index_of(Ipv4Addr::new(10, 1, 0, 6)), Some(4));
        assert_eq!(subnet.index_of(Ipv4Addr::new(10, 1, 0, 7)), None);
        assert_eq!(subnet.index_of(Ipv4Addr::new(10, 1, 0, 1)), None);
        assert_eq!(subnet.mask(), Ipv4Addr::new(255, 255, 255, 248));
        for text in ["", "10.1.0.0", "10.1.0.0/33", "fd00::/64", "10.1.0.0/x"] {
            assert!(matches!(
                text.parse::<Ipv4Subnet>(),
                Err(SubnetError::Form(_))
            ));
        }
        assert!("10.1.0.1/29".parse::<Ipv4Subnet>().is_err());
        assert!("10.1.0.0/31".parse::<Ipv4Subnet>().is_err());
        for text in ["127.0.0.0/24", "64.0.0.0/2", "0.0.0.0/1", "224.1.0.0/16"] {
            let parsed = text.parse::<Ipv4Subnet>();
            assert!(matches!(parsed, Err(SubnetError::Special(_))), "{text}");
        }
        for text in ["::/64", "fe80::/64", "ff02::/112", "8000::/1"] {
            let parsed = text.parse::<Ipv6Subnet>();
            assert!(matches!(parsed, Err(SubnetError::Special(_))), "{text}");
        }
        let subnet: Ipv6Subnet = "fd00::/64".parse().unwrap();
        assert_eq!(subnet.pod(0).to_string(), "fd00::2");
        assert_eq!(subnet.index_of(subnet.pod(7)), Some(7));
        assert_eq!(subnet.index_of(subnet.gateway()), None);
        assert_eq!(subnet.index_of("fd00:1::2".parse().unwrap()), None);
        assert!("fd00::1/64".parse::<Ipv6Subnet>().is_err());
        assert_eq!(
            Ipv4Subnet::DEFAULT.to_string().parse(),
            Ok(Ipv4Subnet::DEFAULT)
        );
        assert_eq!(
            Ipv6Subnet::DEFAULT.to_string().parse(),
            Ok(Ipv6Subnet::DEFAULT)
        );
    }
}
