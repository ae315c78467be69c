//! The kernel's table of connections (ctnetlink).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::NetlinkError;
use super::message::{ACK, DUMP, Request, attribute};
use super::socket::Socket;

const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;

const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ADDRESSES: u16 = 1;
const PROTOCOL: u16 = 2;

/// A connection as its first packet had it, and where replies come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flow {
    family: u8,
    pub(crate) protocol: u8,
    pub(crate) destination_port: u16,
    /// The destination after translation.
    pub(crate) server: IpAddr,
    /// What names it to the kernel.
    original: Vec<u8>,
}

/// The connections of one family (`AF_INET` or `AF_INET6`) that `wanted` picks.
pub(crate) fn flows(
    socket: &mut Socket,
    family: u8,
    wanted: impl Fn(&Flow) -> bool,
) -> Result<Vec<Flow>, NetlinkError> {
    let mut request = Request::new();
    request.message(SUBSYSTEM << 8 | GET, DUMP, &[family, 0, 0, 0]);
    let mut flows = Vec::new();
    socket.dump(&request, |body| {
        flows.extend(parse(body).filter(|flow| wanted(flow)));
    })?;
    Ok(flows)
}

/// Makes the kernel forget a connection; `ENOENT` if it has already.
pub(crate) fn delete(socket: &mut Socket, flow: &Flow) -> Result<(), NetlinkError> {
    let mut request = Request::new();
    request
        .message(SUBSYSTEM << 8 | DELETE, ACK, &[flow.family, 0, 0, 0])
        .nest_after(ORIGINAL, &flow.original, |_| {});
    socket.run(&request)
}

fn parse(body: &[u8]) -> Option<Flow> {
    let family = *body.first()?;
    let attributes = body.get(4..)?;
    let original = attribute(attributes, ORIGINAL)?;
    let protocol = attribute(original, PROTOCOL)?;
    let replies = attribute(attribute(attributes, REPLY)?, ADDRESSES)?;
    let server = match (attribute(replies, 1), attribute(replies, 3)) {
        (Some(v4), _) => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(v4).ok()?)),
        (None, Some(v6)) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(v6).ok()?)),
        (None, None) => return None,
    };
    Some(Flow {
        family,
        protocol: *attribute(protocol, 1)?.first()?,
        destination_port: u16::from_be_bytes(attribute(protocol, 3)?.try_into().ok()?),
        server,
        original: original.to_vec(),
    })
}
