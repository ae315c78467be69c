//! Our nf_tables table, `inet longshore`: host ports and masquerade.
//!
//! ```text
//! map ports4, ports6          protocol . port → pod address . pod port           any address of the node
//! map addressed4, addressed6  address . protocol . port → pod address . pod port
//!
//! chain guard       prerouting, raw        what comes from pods for 127.0.0.0/8 is dropped
//! chain prerouting  prerouting, dstnat     to an address of the node's: jump ports
//! chain output      output, dstnat         likewise, for the node's own processes; ::1 excepted
//! chain ports                              four lookups
//! chain postrouting postrouting, srcnat    masquerade
//! chain forward     forward, filter        accept to and from pods
//! ```
//!
//! A host port is an element, whatever their number: adding one touches no rule.
//!
//! *Why each masquerade:* from pods to other networks, because nobody there has a route back. From a pod through a host port to
//! a pod (itself, too), because the reply would otherwise go straight back over the bridge, untranslated. From 127.0.0.1, because a
//! pod cannot reply to that; `route_localnet` on the bridge lets such packets be routed at all, and would let pods reach services
//! on the node's loopback, were it not for the guard.
//!
//! *IPv6 has no `route_localnet`:* a packet from `::1` does leave over the bridge, masqueraded, but the pod's answer, translated back to `::1`, has no
//! route: loopback addresses are looked up by interface. A local route of `::1` by the bridge would mend that, were it not for
//! `bridge-nf-call-ip6tables`: with it the answer is translated inside the bridge, and dropped as an intruder from outside the loopback
//! after it. So host ports cannot be reached at `[::1]`; what is sent there is left alone and meets the node's own services.

use super::journal::Record;
use super::{BridgeConfig, Ranges, elements};
use crate::netlink::nftables::{
    Batch, Element, Expression, Hook, IPV4, IPV6, LOCAL, Meta, Register, STATE_KNOWN,
    STATUS_DESTINATION_NAT, TYPE_IPV4, TYPE_IPV6, TYPE_PORT, TYPE_PROTOCOL, Verdict, interface,
};
use crate::netlink::{NetlinkError, Socket};

pub(super) const TABLE: &str = "longshore";

/// Makes the table anew with exactly these attachments' host ports, in one step that no packet sees.
pub(super) fn replace(
    socket: &mut Socket,
    config: &BridgeConfig,
    ranges: &[Ranges],
    records: &[Record],
) -> Result<(), NetlinkError> {
    let mut batch = Batch::new(TABLE);
    batch.replace_table();
    batch.map("ports4", PORTS, TARGET4);
    batch.map(
        "addressed4",
        (&[TYPE_IPV4, TYPE_PROTOCOL, TYPE_PORT], 12),
        TARGET4,
    );
    batch.map("ports6", PORTS, TARGET6);
    batch.map(
        "addressed6",
        (&[TYPE_IPV6, TYPE_PROTOCOL, TYPE_PORT], 24),
        TARGET6,
    );
    batch.base_chain("guard", "filter", Hook::Prerouting, -300);
    batch.base_chain("prerouting", "nat", Hook::Prerouting, -100);
    batch.base_chain("output", "nat", Hook::Output, -100);
    batch.base_chain("postrouting", "nat", Hook::Postrouting, 100);
    batch.base_chain("forward", "filter", Hook::Forward, 0);
    batch.chain("ports");
    let bridge = interface(&config.name);
    guard(&mut batch, &bridge);
    ports(&mut batch);
    masquerade(&mut batch, config, ranges, &bridge);
    forward(&mut batch, &bridge);
    add_to(&mut batch, records);
    batch.commit(socket)
}

pub(super) fn add(socket: &mut Socket, record: &Record) -> Result<(), NetlinkError> {
    if elements::of(record).is_empty() {
        return Ok(());
    }
    let mut batch = Batch::new(TABLE);
    add_to(&mut batch, std::slice::from_ref(record));
    batch.commit(socket)
}

fn add_to(batch: &mut Batch<'_>, records: &[Record]) {
    let elements: Vec<(&str, Element)> = records.iter().flat_map(elements::of).collect();
    for map in elements::MAPS {
        let of_map: Vec<Element> = elements
            .iter()
            .filter(|(name, _)| *name == map)
            .map(|(_, element)| element.clone())
            .collect();
        batch.add_elements(map, &of_map);
    }
}

/// Removes each element by itself where one is missing: a batch is all or nothing.
pub(super) fn remove(socket: &mut Socket, record: &Record) -> Result<(), NetlinkError> {
    let elements = elements::of(record);
    if elements.is_empty() {
        return Ok(());
    }
    let mut batch = Batch::new(TABLE);
    for (map, element) in &elements {
        batch.delete_element(map, &element.key);
    }
    match batch.commit(socket) {
        Err(error) if is_missing(&error) => {}
        other => return other,
    }
    for (map, element) in &elements {
        let mut batch = Batch::new(TABLE);
        batch.delete_element(map, &element.key);
        match batch.commit(socket) {
            Err(error) if is_missing(&error) => {}
            other => other?,
        }
    }
    Ok(())
}

fn is_missing(error: &NetlinkError) -> bool {
    error.errno() == Some(rustix::io::Errno::NOENT)
}

const PORTS: (&[u32], u32) = (&[TYPE_PROTOCOL, TYPE_PORT], 8);
const TARGET4: (&[u32], u32) = (&[TYPE_IPV4, TYPE_PORT], 8);
const TARGET6: (&[u32], u32) = (&[TYPE_IPV6, TYPE_PORT], 20);

/// Where in the network header an address is.
struct Addresses {
    family: u8,
    source: u32,
    destination: u32,
    length: u32,
}

const ADDRESSES4: Addresses = Addresses {
    family: IPV4,
    source: 12,
    destination: 16,
    length: 4,
};

const ADDRESSES6: Addresses = Addresses {
    family: IPV6,
    source: 8,
    destination: 24,
    length: 16,
};

const FIRST: Register = Register(0);

fn guard(batch: &mut Batch<'_>, bridge: &[u8]) {
    batch.rule(
        "guard",
        &[
            load(Meta::Input),
            equal(bridge),
            load(Meta::Family),
            equal(&[IPV4]),
            destination(&ADDRESSES4, FIRST),
            Expression::Mask {
                register: FIRST,
                mask: &[255, 0, 0, 0],
            },
            equal(&[127, 0, 0, 0]),
            Expression::Verdict(Verdict::Drop),
        ],
    );
}

fn ports(batch: &mut Batch<'_>) {
    batch.rule(
        "output",
        &[
            load(Meta::Family),
            equal(&[IPV6]),
            destination(&ADDRESSES6, FIRST),
            equal(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
            Expression::Verdict(Verdict::Accept),
        ],
    );
    for chain in ["prerouting", "output"] {
        batch.rule(
            chain,
            &[
                Expression::DestinationType { into: FIRST },
                equal(&LOCAL),
                Expression::Verdict(Verdict::Jump("ports")),
            ],
        );
    }
    for (addresses, any, addressed) in [
        (&ADDRESSES4, "ports4", "addressed4"),
        (&ADDRESSES6, "ports6", "addressed6"),
    ] {
        let words = addresses.length / 4;
        lookup(batch, addresses, addressed, Some(words));
        lookup(batch, addresses, any, None);
    }
}

/// A rule that looks up where a packet should go. `address`: with the packet's destination, of that many words, in the key.
fn lookup(batch: &mut Batch<'_>, addresses: &Addresses, map: &str, address: Option<u32>) {
    let at = address.unwrap_or(0);
    let mut rule = vec![
        load(Meta::Family),
        equal(std::slice::from_ref(&addresses.family)),
    ];
    if address.is_some() {
        rule.push(destination(addresses, FIRST));
    }
    rule.extend([
        Expression::Meta {
            key: Meta::Protocol,
            into: Register(at),
        },
        Expression::DestinationPort {
            into: Register(at + 1),
        },
        Expression::Lookup {
            map,
            key: FIRST,
            into: FIRST,
        },
        Expression::DestinationNat {
            family: addresses.family,
            address: FIRST,
            port: Register(addresses.length / 4),
        },
    ]);
    batch.rule("ports", &rule);
}

fn masquerade(batch: &mut Batch<'_>, config: &BridgeConfig, ranges: &[Ranges], bridge: &[u8]) {
    for Ranges { ipv4, ipv6 } in ranges {
        let (network4, mask4) = (ipv4.network().octets(), ipv4.mask().octets());
        subnet(batch, config, bridge, &ADDRESSES4, &network4, &mask4);
        if let Some(ipv6) = ipv6 {
            let (network6, mask6) = (ipv6.network().octets(), ipv6.mask().octets());
            subnet(batch, config, bridge, &ADDRESSES6, &network6, &mask6);
        }
    }
    batch.rule(
        "postrouting",
        &[
            load(Meta::Output),
            equal(bridge),
            load(Meta::Family),
            equal(&[IPV4]),
            source(&ADDRESSES4),
            Expression::Mask {
                register: FIRST,
                mask: &[255, 0, 0, 0],
            },
            equal(&[127, 0, 0, 0]),
            Expression::Masquerade,
        ],
    );
}

/// The rules for packets from pods' addresses.
fn subnet(
    batch: &mut Batch<'_>,
    config: &BridgeConfig,
    bridge: &[u8],
    addresses: &Addresses,
    network: &[u8],
    mask: &[u8],
) {
    let from_pods = || {
        [
            load(Meta::Family),
            equal(std::slice::from_ref(&addresses.family)),
            source(addresses),
            Expression::Mask {
                register: FIRST,
                mask,
            },
            equal(network),
            load(Meta::Output),
        ]
    };
    if config.masquerade {
        let mut rule = Vec::from(from_pods());
        rule.extend([
            Expression::NotEqual {
                register: FIRST,
                value: bridge,
            },
            Expression::Masquerade,
        ]);
        batch.rule("postrouting", &rule);
    }
    let mut rule = Vec::from(from_pods());
    rule.push(equal(bridge));
    rule.extend(translated());
    rule.push(Expression::Masquerade);
    batch.rule("postrouting", &rule);
}

fn forward(batch: &mut Batch<'_>, bridge: &[u8]) {
    let accept = Expression::Verdict(Verdict::Accept);
    batch.rule("forward", &[load(Meta::Input), equal(bridge), accept]);
    let known = [
        Expression::ConntrackState { into: FIRST },
        masked(&STATE_KNOWN),
        not_zero(),
    ];
    for condition in [known, translated()] {
        let mut rule = vec![load(Meta::Output), equal(bridge)];
        rule.extend(condition);
        rule.push(Expression::Verdict(Verdict::Accept));
        batch.rule("forward", &rule);
    }
}

/// Of a connection that came through a host port.
fn translated<'a>() -> [Expression<'a>; 3] {
    [
        Expression::ConntrackStatus { into: FIRST },
        masked(&STATUS_DESTINATION_NAT),
        not_zero(),
    ]
}

fn load<'a>(key: Meta) -> Expression<'a> {
    Expression::Meta { key, into: FIRST }
}

fn equal(value: &[u8]) -> Expression<'_> {
    Expression::Equal {
        register: FIRST,
        value,
    }
}

fn masked(mask: &[u8]) -> Expression<'_> {
    Expression::Mask {
        register: FIRST,
        mask,
    }
}

fn not_zero<'a>() -> Expression<'a> {
    Expression::NotEqual {
        register: FIRST,
        value: &[0; 4],
    }
}

fn source<'a>(addresses: &Addresses) -> Expression<'a> {
    Expression::Network {
        offset: addresses.source,
        length: addresses.length,
        into: FIRST,
    }
}

fn destination<'a>(addresses: &Addresses, into: Register) -> Expression<'a> {
    Expression::Network {
        offset: addresses.destination,
        length: addresses.length,
        into,
    }
}
