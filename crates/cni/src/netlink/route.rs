//! rtnetlink (`rtnetlink(7)`): links, addresses and routes, as messages appended to a request.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::NetlinkError;
use super::message::{ACK, CREATE, DUMP, EXCL, REPLACE, Request, attribute, attributes, text};
use super::socket::Socket;

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const NEWADDR: u16 = 20;
const DELADDR: u16 = 21;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const GETROUTE: u16 = 26;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const VETH_INFO_PEER: u16 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u32 = 0x80;
/// No duplicate address detection: it would keep the address tentative for a second.
const IFA_F_NODAD: u32 = 2;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const TABLE_MAIN: u8 = 254;
const PROTOCOL_STATIC: u8 = 4;
const TYPE_UNICAST: u8 = 1;
const TYPE_LOCAL: u8 = 2;

const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 8;
/// An address that is good everywhere.
const SCOPE_UNIVERSE: u8 = 0;

/// `lo` is the first interface of every namespace.
pub(crate) const LOOPBACK: u32 = 1;

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[0] = AF_UNSPEC;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// Makes a bridge, or brings an existing one into this shape, up or down as it is. A link of another kind is `EOPNOTSUPP`.
pub(crate) fn bridge(request: &mut Request, name: &str, mac: [u8; 6], mtu: u32) {
    request
        .message(NEWLINK, CREATE | ACK, &link_header(0, 0, 0))
        .text(IFLA_IFNAME, name)
        // An address of its own: otherwise it takes that of a port, and changes when the port goes.
        .attribute(IFLA_ADDRESS, &mac)
        .u32(IFLA_MTU, mtu)
        .nest(IFLA_LINKINFO, |info| {
            // Only beside data, even none, does the kernel compare the kind with that of a link that is there.
            info.text(IFLA_INFO_KIND, "bridge")
                .nest(IFLA_INFO_DATA, |_| {});
        });
}

/// Both ends of a pod's link.
pub(crate) struct Veth<'a> {
    pub(crate) name: &'a str,
    pub(crate) bridge: u32,
    pub(crate) mtu: u32,
    /// The end in the pod.
    pub(crate) peer: &'a str,
    pub(crate) peer_mac: [u8; 6],
    pub(crate) netns: BorrowedFd<'a>,
}

/// Makes both ends, the peer in its namespace and down, the near end up and a port of the bridge. Two messages.
pub(crate) fn veth(request: &mut Request, veth: &Veth<'_>) {
    request
        .message(
            NEWLINK,
            CREATE | EXCL | ACK,
            &link_header(0, IFF_UP, IFF_UP),
        )
        .text(IFLA_IFNAME, veth.name)
        .u32(IFLA_MTU, veth.mtu)
        .u32(IFLA_MASTER, veth.bridge)
        .nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth");
            info.nest(IFLA_INFO_DATA, |data| {
                // Not up yet: the kernel tries that before the ends know each other (ENOTCONN).
                data.nest_after(VETH_INFO_PEER, &link_header(0, 0, 0), |peer| {
                    peer.text(IFLA_IFNAME, veth.peer)
                        .attribute(IFLA_ADDRESS, &veth.peer_mac)
                        .u32(IFLA_MTU, veth.mtu)
                        .attribute(IFLA_NET_NS_FD, &veth.netns.as_raw_fd().to_ne_bytes());
                });
            });
        });
    // A frame may leave by the port that it came in by: a pod that talks to its own host port. The port's attributes cannot be
    // given while it is made, but by name in the same send.
    request
        .message(NEWLINK, ACK, &link_header(0, 0, 0))
        .text(IFLA_IFNAME, veth.name)
        .nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_SLAVE_KIND, "bridge");
            info.nest(IFLA_INFO_SLAVE_DATA, |data| {
                data.attribute(IFLA_BRPORT_MODE, &[1]);
            });
        });
}

pub(crate) fn up(request: &mut Request, index: u32) {
    request.message(NEWLINK, ACK, &link_header(index, IFF_UP, IFF_UP));
}

pub(crate) fn delete(request: &mut Request, name: &str) {
    request
        .message(DELLINK, ACK, &link_header(0, 0, 0))
        .text(IFLA_IFNAME, name);
}

/// Adds an address; one that is there already is left.
pub(crate) fn address(request: &mut Request, index: u32, address: IpAddr, prefix: u8) {
    let family = family(address);
    let mut header = [family, prefix, 0, 0, 0, 0, 0, 0];
    header[4..].copy_from_slice(&index.to_ne_bytes());
    request.message(NEWADDR, CREATE | REPLACE | ACK, &header);
    match address {
        IpAddr::V4(v4) => {
            let host = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
            let broadcast = Ipv4Addr::from_bits(v4.to_bits() | host);
            request
                .attribute(IFA_LOCAL, &v4.octets())
                .attribute(IFA_ADDRESS, &v4.octets())
                .attribute(IFA_BROADCAST, &broadcast.octets());
        }
        IpAddr::V6(v6) => {
            request
                .attribute(IFA_LOCAL, &v6.octets())
                .attribute(IFA_ADDRESS, &v6.octets())
                .u32(IFA_FLAGS, IFA_F_NODAD);
        }
    }
}

pub(crate) fn remove_address(request: &mut Request, index: u32, address: IpAddr, prefix: u8) {
    let mut header = [family(address), prefix, 0, 0, 0, 0, 0, 0];
    header[4..].copy_from_slice(&index.to_ne_bytes());
    request.message(DELADDR, ACK, &header);
    match address {
        IpAddr::V4(v4) => request.attribute(IFA_LOCAL, &v4.octets()),
        IpAddr::V6(v6) => request.attribute(IFA_LOCAL, &v6.octets()),
    };
}

pub(crate) fn default_route(request: &mut Request, index: u32, gateway: IpAddr) {
    let header = [
        family(gateway),
        0,
        0,
        0,
        TABLE_MAIN,
        PROTOCOL_STATIC,
        0,
        TYPE_UNICAST,
        0,
        0,
        0,
        0,
    ];
    request.message(NEWROUTE, CREATE | REPLACE | ACK, &header);
    match gateway {
        IpAddr::V4(v4) => request.attribute(RTA_GATEWAY, &v4.octets()),
        IpAddr::V6(v6) => request.attribute(RTA_GATEWAY, &v6.octets()),
    };
    request.u32(RTA_OIF, index);
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

/// The index of a link; `ENODEV` if there is none of this name.
pub(crate) fn index_of(socket: &mut Socket, name: &str) -> Result<u32, NetlinkError> {
    let mut request = Request::new();
    request
        .message(GETLINK, 0, &link_header(0, 0, 0))
        .text(IFLA_IFNAME, name);
    let body = socket.get(&request)?;
    index(&body).ok_or(NetlinkError::Malformed)
}

/// Whether the namespace of a link's other end is alive. The kernel gives numbers to those that are, and takes the number away as the
/// first thing when one dies.
pub(crate) fn peer_lives(socket: &mut Socket, name: &str) -> Result<bool, NetlinkError> {
    let mut request = Request::new();
    request
        .message(GETLINK, 0, &link_header(0, 0, 0))
        .text(IFLA_IFNAME, name);
    let body = socket.get(&request)?;
    let number = attribute(body.get(16..).unwrap_or(&[]), IFLA_LINK_NETNSID);
    let number = number.and_then(|bytes| bytes.try_into().ok());
    Ok(number.map(i32::from_ne_bytes).is_some_and(|id| id >= 0))
}

/// Names of the links that are ports of a bridge.
pub(crate) fn ports(socket: &mut Socket, bridge: u32) -> Result<Vec<String>, NetlinkError> {
    let mut request = Request::new();
    request
        .message(GETLINK, DUMP, &link_header(0, 0, 0))
        .u32(IFLA_MASTER, bridge);
    let mut names = Vec::new();
    socket.dump(&request, |body| {
        // Kernels before 4.6 do not filter.
        let attributes = body.get(16..).unwrap_or(&[]);
        let master = attribute(attributes, IFLA_MASTER);
        if master == Some(bridge.to_ne_bytes().as_slice()) {
            names.extend(attribute(attributes, IFLA_IFNAME).map(text));
        }
    })?;
    Ok(names)
}

/// Where the node sends what is for a destination.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) destination: IpAddr,
    pub(crate) prefix: u8,
    /// `None`: more than one.
    pub(crate) link: Option<u32>,
}

/// The routes of the family of `of`, in all tables: to other machines and to the node's own addresses. Default routes are none.
pub(crate) fn routes(socket: &mut Socket, of: IpAddr) -> Result<Vec<Route>, NetlinkError> {
    let mut request = Request::new();
    let header = [family(of), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    request.message(GETROUTE, DUMP, &header);
    let mut routes = Vec::new();
    socket.dump(&request, |body| {
        let Some((header, attributes)) = body.split_at_checked(12) else {
            return;
        };
        let (prefix, kind) = (header[1], header[7]);
        // Of the others none leads anywhere, or is there without one of these.
        if header[0] != family(of) || !matches!(kind, TYPE_UNICAST | TYPE_LOCAL) {
            return;
        }
        let destination = attribute(attributes, RTA_DST);
        let destination = match of {
            IpAddr::V4(_) => destination
                .and_then(|bytes| <[u8; 4]>::try_from(bytes).ok())
                .map(IpAddr::from),
            IpAddr::V6(_) => destination
                .and_then(|bytes| <[u8; 16]>::try_from(bytes).ok())
                .map(IpAddr::from),
        };
        routes.extend(destination.map(|destination| {
            Route {
                destination,
                prefix,
                link: attribute(attributes, RTA_OIF)
                    .and_then(|bytes| bytes.try_into().ok())
                    .map(u32::from_ne_bytes),
            }
        }));
    })?;
    Ok(routes)
}

/// A link, as far as it matters to who moves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// What somebody calls it; empty if nobody does.
    pub(crate) alias: String,
    pub(crate) up: bool,
    pub(crate) loopback: bool,
}

impl Link {
    fn parse(body: &[u8]) -> Option<Self> {
        let (header, attributes) = body.split_at_checked(16)?;
        let flags = u32::from_ne_bytes(header.get(8..12)?.try_into().ok()?);
        Some(Self {
            index: index(header)?,
            name: text(attribute(attributes, IFLA_IFNAME)?),
            alias: attribute(attributes, IFLA_IFALIAS)
                .map(text)
                .unwrap_or_default(),
            up: flags & IFF_UP != 0,
            loopback: flags & IFF_LOOPBACK != 0,
        })
    }
}

/// All links of the namespace.
pub(crate) fn links(socket: &mut Socket) -> Result<Vec<Link>, NetlinkError> {
    let mut request = Request::new();
    request.message(GETLINK, DUMP, &link_header(0, 0, 0));
    let mut links = Vec::new();
    socket.dump(&request, |body| links.extend(Link::parse(body)))?;
    Ok(links)
}

/// Moves a link to another namespace, under this name, which may be a template such as `eth%d`, and this alias. It is down there, and has no
/// addresses.
pub(crate) fn hand_over(
    request: &mut Request,
    index: u32,
    netns: BorrowedFd<'_>,
    name: &str,
    alias: &str,
) {
    request
        .message(NEWLINK, ACK, &link_header(index, 0, 0))
        .attribute(IFLA_NET_NS_FD, &netns.as_raw_fd().to_ne_bytes())
        .text(IFLA_IFNAME, name)
        // Without its NUL byte: none at all takes an alias away.
        .attribute(IFLA_IFALIAS, alias.as_bytes());
}

/// Gives a link another alias.
pub(crate) fn rename(request: &mut Request, index: u32, alias: &str) {
    request
        .message(NEWLINK, ACK, &link_header(index, 0, 0))
        .attribute(IFLA_IFALIAS, alias.as_bytes());
}

/// An address as the kernel tells of it, to be given again.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    family: u8,
    prefix: u8,
    /// As they are.
    attributes: Vec<(u16, Vec<u8>)>,
}

/// The addresses of a link that somebody has given it for good, and that are good everywhere.
pub(crate) fn addresses(socket: &mut Socket, link: u32) -> Result<Vec<Address>, NetlinkError> {
    let mut request = Request::new();
    let mut header = [0; 8];
    header[4..].copy_from_slice(&link.to_ne_bytes());
    request.message(GETADDR, DUMP, &header);
    let mut addresses = Vec::new();
    socket.dump(&request, |body| {
        let Some((header, given)) = body.split_at_checked(8) else {
            return;
        };
        let flags = attribute(given, IFA_FLAGS).and_then(|bytes| bytes.try_into().ok());
        let flags = flags.map_or(u32::from(header[2]), u32::from_ne_bytes);
        let its = header[4..] == link.to_ne_bytes();
        if its && flags & IFA_F_PERMANENT != 0 && header[3] == SCOPE_UNIVERSE {
            let kept = attributes(given)
                .filter(|(kind, _)| [IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST].contains(kind));
            addresses.push(Address {
                family: header[0],
                prefix: header[1],
                attributes: kept.map(|(kind, value)| (kind, value.to_vec())).collect(),
            });
        }
    })?;
    Ok(addresses)
}

/// Gives a link an address that it had elsewhere.
pub(crate) fn restore_address(request: &mut Request, link: u32, address: &Address) {
    let mut header = [
        address.family,
        address.prefix,
        0,
        SCOPE_UNIVERSE,
        0,
        0,
        0,
        0,
    ];
    header[4..].copy_from_slice(&link.to_ne_bytes());
    request.message(NEWADDR, CREATE | REPLACE | ACK, &header);
    for (kind, value) in &address.attributes {
        request.attribute(*kind, value);
    }
    if address.family == AF_INET6 {
        request.u32(IFA_FLAGS, IFA_F_NODAD);
    }
}

fn index(body: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?))
}
