//! nf_tables over nfnetlink: tables, chains, sets, elements and rules. Numbers are in network byte order.

use super::NetlinkError;
use super::message::{CREATE, DUMP, Request, attribute, text};
use super::socket::Socket;

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const GETCHAIN: u16 = 4;
const NEWRULE: u16 = 6;
const NEWSET: u16 = 9;
const NEWSETELEM: u16 = 12;
const DELSETELEM: u16 = 14;

/// A family of tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Unspecified = 0,
    /// IPv4 and IPv6 together.
    Inet = 1,
}

pub(crate) const IPV4: u8 = 2;
pub(crate) const IPV6: u8 = 10;

/// `nftables` numbers of data types, which only matter to who lists the table.
pub(crate) const TYPE_IPV4: u32 = 7;
pub(crate) const TYPE_IPV6: u32 = 8;
pub(crate) const TYPE_PROTOCOL: u32 = 12;
pub(crate) const TYPE_PORT: u32 = 13;

const ELEMENT: u16 = 1;

/// Requests that take effect together or not at all, in one table.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    request: Request,
    table: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    Prerouting = 0,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(table: &'a str) -> Batch<'a> {
        let mut request = Request::new();
        request.message(BATCH_BEGIN, 0, &[0, 0, 0, SUBSYSTEM as u8]);
        Batch { request, table }
    }

    /// Ends the batch and has it applied. Refusals are always told; one acknowledgement says that there was none.
    pub(crate) fn commit(mut self, socket: &mut Socket) -> Result<(), NetlinkError> {
        self.request.acknowledge();
        self.request
            .message(BATCH_END, 0, &[0, 0, 0, SUBSYSTEM as u8]);
        socket.run(&self.request)
    }

    fn message(&mut self, kind: u16, flags: u16) -> &mut Request {
        // `struct nfgenmsg`: family, version, resource.
        self.request
            .message(SUBSYSTEM << 8 | kind, flags, &[Family::Inet as u8, 0, 0, 0])
    }

    /// Makes the table anew, empty, whether it was there or not.
    pub(crate) fn replace_table(&mut self) {
        let table = self.table;
        self.message(NEWTABLE, CREATE).text(1, table);
        self.message(DELTABLE, 0).text(1, table);
        self.message(NEWTABLE, CREATE).text(1, table);
    }

    pub(crate) fn base_chain(&mut self, name: &str, kind: &str, hook: Hook, priority: i32) {
        let table = self.table;
        self.message(NEWCHAIN, CREATE)
            .text(1, table)
            .text(3, name)
            .nest(4, |nest| {
                nest.be32(1, hook as u32)
                    .attribute(2, &priority.to_be_bytes());
            })
            .be32(5, 1)
            .text(7, kind);
    }

    pub(crate) fn chain(&mut self, name: &str) {
        let table = self.table;
        self.message(NEWCHAIN, CREATE).text(1, table).text(3, name);
    }

    /// A map from concatenated values of `key` types to ones of `data` types. Lengths are in bytes.
    pub(crate) fn map(&mut self, name: &str, key: (&[u32], u32), data: (&[u32], u32)) {
        const FLAG_MAP: u32 = 8;
        let (table, id) = (self.table, self.request.messages());
        self.message(NEWSET, CREATE)
            .text(1, table)
            .text(2, name)
            .be32(3, FLAG_MAP)
            .be32(4, concatenated(key.0))
            .be32(5, key.1)
            .be32(6, concatenated(data.0))
            .be32(7, data.1)
            .be32(10, id);
    }

    /// Adds elements. One that is there with other data is `EEXIST`.
    pub(crate) fn add_elements(&mut self, map: &str, elements: &[Element]) {
        let table = self.table;
        // Attributes end at 64 KiB.
        for chunk in elements.chunks(MOST_ELEMENTS) {
            self.message(NEWSETELEM, CREATE)
                .text(1, table)
                .text(2, map)
                .nest(3, |list| {
                    for element in chunk {
                        list.nest(ELEMENT, |nest| element.write(nest));
                    }
                });
        }
    }

    /// Removes an element; `ENOENT` if there is none.
    pub(crate) fn delete_element(&mut self, map: &str, key: &[u8]) {
        let table = self.table;
        self.message(DELSETELEM, 0)
            .text(1, table)
            .text(2, map)
            .nest(3, |list| {
                list.nest(ELEMENT, |nest| write_data(nest, 1, key));
            });
    }

    pub(crate) fn rule(&mut self, chain: &str, expressions: &[Expression<'_>]) {
        const APPEND: u16 = 0x800;
        let table = self.table;
        self.message(NEWRULE, CREATE | APPEND)
            .text(1, table)
            .text(2, chain)
            .nest(4, |list| {
                for expression in expressions {
                    list.nest(ELEMENT, |element| expression.write(element));
                }
            });
    }
}

const MOST_ELEMENTS: usize = 200;

/// An element of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) key: Vec<u8>,
    pub(crate) data: Vec<u8>,
    /// For who lists the table; cut at 120 bytes.
    pub(crate) comment: String,
}

impl Element {
    fn write(&self, nest: &mut Request) {
        write_data(nest, 1, &self.key);
        write_data(nest, 2, &self.data);
        nest.attribute(6, &user_comment(&self.comment));
    }
}

fn write_data(nest: &mut Request, kind: u16, value: &[u8]) {
    nest.nest(kind, |data| {
        data.attribute(1, value);
    });
}

/// nft lists types of concatenations six bits each.
fn concatenated(types: &[u32]) -> u32 {
    types.iter().fold(0, |all, one| all << 6 | one)
}

/// A comment as nft keeps it in an element's user data.
fn user_comment(comment: &str) -> Vec<u8> {
    const KIND: u8 = 0;
    let mut end = comment.len().min(120);
    while !comment.is_char_boundary(end) {
        end -= 1;
    }
    let mut data = vec![KIND, end as u8 + 1];
    data.extend_from_slice(&comment.as_bytes()[..end]);
    data.push(0);
    data
}

/// A 32-bit register, from 0 to 15. Concatenated values lie in successive registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Register(pub(crate) u32);

impl Register {
    fn number(self) -> u32 {
        const FIRST: u32 = 8;
        FIRST + self.0
    }
}

/// What a rule is made of.
#[derive(Debug)]
pub(crate) enum Expression<'a> {
    Meta {
        key: Meta,
        into: Register,
    },
    /// Bytes of the network header.
    Network {
        offset: u32,
        length: u32,
        into: Register,
    },
    /// The port that a TCP or UDP packet goes to.
    DestinationPort {
        into: Register,
    },
    /// Whose the packet's destination (or source) address is, as a route type.
    DestinationType {
        into: Register,
    },
    ConntrackStatus {
        into: Register,
    },
    ConntrackState {
        into: Register,
    },
    /// Keeps the bits of the mask.
    Mask {
        register: Register,
        mask: &'a [u8],
    },
    Equal {
        register: Register,
        value: &'a [u8],
    },
    NotEqual {
        register: Register,
        value: &'a [u8],
    },
    /// Replaces the key that begins at `key` by its data, at `into`; the rule ends if there is none.
    Lookup {
        map: &'a str,
        key: Register,
        into: Register,
    },
    DestinationNat {
        family: u8,
        address: Register,
        port: Register,
    },
    Masquerade,
    Verdict(Verdict<'a>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meta {
    Input = 6,
    Output = 7,
    Family = 15,
    Protocol = 16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict<'a> {
    Accept,
    Drop,
    Jump(&'a str),
}

/// A route type: the address is one of the node's own.
pub(crate) const LOCAL: [u8; 4] = 2u32.to_ne_bytes();

/// Conntrack status: the destination was translated.
pub(crate) const STATUS_DESTINATION_NAT: [u8; 4] = 0x20u32.to_ne_bytes();

/// Conntrack state: established or related.
pub(crate) const STATE_KNOWN: [u8; 4] = 6u32.to_ne_bytes();

/// An interface name as registers hold it.
pub(crate) fn interface(name: &str) -> [u8; 16] {
    let mut value = [0; 16];
    let length = name.len().min(15);
    value[..length].copy_from_slice(&name.as_bytes()[..length]);
    value
}

impl Expression<'_> {
    fn write(&self, element: &mut Request) {
        match self {
            Expression::Meta { key, into } => named(element, "meta", |data| {
                data.be32(1, into.number()).be32(2, *key as u32);
            }),
            Expression::Network {
                offset,
                length,
                into,
            } => payload(element, 1, *offset, *length, *into),
            Expression::DestinationPort { into } => payload(element, 2, 2, 2, *into),
            Expression::DestinationType { into } => named(element, "fib", |data| {
                const ADDRESS_TYPE: u32 = 3;
                const OF_DESTINATION: u32 = 2;
                data.be32(1, into.number())
                    .be32(2, ADDRESS_TYPE)
                    .be32(3, OF_DESTINATION);
            }),
            Expression::ConntrackStatus { into } => conntrack(element, 2, *into),
            Expression::ConntrackState { into } => conntrack(element, 0, *into),
            Expression::Mask { register, mask } => named(element, "bitwise", |data| {
                data.be32(1, register.number())
                    .be32(2, register.number())
                    .be32(3, mask.len() as u32)
                    .nest(4, |nest| {
                        nest.attribute(1, mask);
                    })
                    .nest(5, |nest| {
                        nest.attribute(1, &vec![0; mask.len()]);
                    });
            }),
            Expression::Equal { register, value } => compare(element, 0, *register, value),
            Expression::NotEqual { register, value } => compare(element, 1, *register, value),
            Expression::Lookup { map, key, into } => named(element, "lookup", |data| {
                data.text(1, map)
                    .be32(2, key.number())
                    .be32(3, into.number());
            }),
            Expression::DestinationNat {
                family,
                address,
                port,
            } => named(element, "nat", |data| {
                const DESTINATION: u32 = 1;
                data.be32(1, DESTINATION)
                    .be32(2, u32::from(*family))
                    .be32(3, address.number())
                    .be32(5, port.number());
            }),
            Expression::Masquerade => named(element, "masq", |_| {}),
            Expression::Verdict(verdict) => named(element, "immediate", |data| {
                data.be32(1, 0).nest(2, |nest| {
                    nest.nest(2, |inside| verdict.write(inside));
                });
            }),
        }
    }
}

impl Verdict<'_> {
    fn write(self, nest: &mut Request) {
        match self {
            Verdict::Drop => nest.be32(1, 0),
            Verdict::Accept => nest.be32(1, 1),
            Verdict::Jump(chain) => nest.attribute(1, &(-3i32).to_be_bytes()).text(2, chain),
        };
    }
}

fn named(element: &mut Request, name: &str, data: impl FnOnce(&mut Request)) {
    element.text(1, name).nest(2, data);
}

fn payload(element: &mut Request, base: u32, offset: u32, length: u32, into: Register) {
    named(element, "payload", |data| {
        data.be32(1, into.number())
            .be32(2, base)
            .be32(3, offset)
            .be32(4, length);
    });
}

fn conntrack(element: &mut Request, key: u32, into: Register) {
    named(element, "ct", |data| {
        data.be32(1, into.number()).be32(2, key);
    });
}

fn compare(element: &mut Request, operation: u32, register: Register, value: &[u8]) {
    named(element, "cmp", |data| {
        data.be32(1, register.number())
            .be32(2, operation)
            .nest(3, |nest| {
                nest.attribute(1, value);
            });
    });
}

/// A base chain of any table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BaseChain {
    pub(crate) family: u8,
    pub(crate) table: String,
    pub(crate) name: String,
    pub(crate) hook: u32,
    pub(crate) drops: bool,
}

/// Every base chain of every table.
pub(crate) fn base_chains(socket: &mut Socket) -> Result<Vec<BaseChain>, NetlinkError> {
    let mut request = Request::new();
    let header = [Family::Unspecified as u8, 0, 0, 0];
    request.message(SUBSYSTEM << 8 | GETCHAIN, DUMP, &header);
    let mut chains = Vec::new();
    socket.dump(&request, |body| chains.extend(base_chain(body)))?;
    Ok(chains)
}

/// `None` for a chain that is at no hook.
fn base_chain(body: &[u8]) -> Option<BaseChain> {
    let family = *body.first()?;
    let attributes = body.get(4..)?;
    let number = |value: &[u8]| Some(u32::from_be_bytes(value.get(..4)?.try_into().ok()?));
    let hook = attribute(attribute(attributes, 4)?, 1).and_then(number)?;
    Some(BaseChain {
        family,
        table: text(attribute(attributes, 1)?),
        name: text(attribute(attributes, 3)?),
        hook,
        drops: attribute(attributes, 5).and_then(number) == Some(0),
    })
}
