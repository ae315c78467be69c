//! What is attached, being attached, being detached; who has which address and host port. Pure memory.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use tokio::sync::watch;

use super::error::{AttachError, DetachError, RangeError};
use super::journal::{NamespaceId, Record, Stage};
use super::pool::Pool;
use super::portmap::PortMapping;
use super::ranges::{Chosen, Ranges};
use super::{Attachment, link};

/// The result of an operation in flight, for everybody who waits for it.
pub(super) type Outcome<T> = watch::Receiver<Option<T>>;
pub(super) type AttachOutcome = Outcome<Result<Attachment, AttachError>>;
pub(super) type DetachOutcome = Outcome<Result<(), DetachError>>;
/// Closed once the kernel has let go of a link, and what the link had is free.
pub(super) type Gone = watch::Receiver<()>;

#[derive(Debug)]
pub(super) struct State {
    boot_id: String,
    chosen: Chosen,
    pool: Pool,
    entries: BTreeMap<String, Entry>,
    sequence: u64,
}

#[derive(Debug)]
struct Entry {
    record: Record,
    operation: Option<Operation>,
}

#[derive(Debug, Clone)]
pub(super) enum Operation {
    Attach(AttachOutcome),
    Detach(DetachOutcome),
    /// Detached to the caller; the link, and so the address, may be there for some more milliseconds.
    LetGo(Gone),
}

/// What a call of attach leads to.
#[derive(Debug)]
pub(super) enum Admission {
    /// There is an attachment like this.
    Attached(Record),
    Joined(AttachOutcome),
    /// Wait until this is gone, then ask again.
    Later(Gone),
    Begun {
        record: Record,
        /// What a failed or killed attempt left, to be undone first.
        leftover: Option<Record>,
        sender: watch::Sender<Option<Result<Attachment, AttachError>>>,
        outcome: AttachOutcome,
    },
}

/// What a call of detach leads to.
#[derive(Debug)]
pub(super) enum Release {
    /// Or nothing that the caller would have to wait for.
    Unknown,
    /// Wait for this one, then ask again.
    Attaching(AttachOutcome),
    Joined(DetachOutcome),
    Begun {
        record: Record,
        sender: watch::Sender<Option<Result<(), DetachError>>>,
        outcome: DetachOutcome,
    },
}

impl State {
    pub(super) fn new(chosen: Chosen, boot_id: String, records: Vec<Record>) -> State {
        let mut state = State {
            boot_id,
            pool: Pool::new(chosen.current.capacity()),
            chosen,
            entries: BTreeMap::new(),
            sequence: 0,
        };
        for record in records {
            state.sequence = state.sequence.max(record.sequence);
            let id = record.id.clone();
            let entry = Entry {
                record,
                operation: None,
            };
            state.entries.insert(id, entry);
        }
        state.refill();
        state
    }

    /// Which places of the current ranges are taken, anew.
    fn refill(&mut self) {
        let ranges = self.chosen.current;
        let mut pool = Pool::new(ranges.capacity());
        for index in self.standing() {
            pool.occupy(index);
        }
        let mut records: Vec<&Record> = self.entries.values().map(|entry| &entry.record).collect();
        // In the order in which they were made, so that the pool goes on after the latest.
        records.sort_by_key(|record| record.sequence);
        for index in records
            .into_iter()
            .flat_map(|record| places(ranges, record))
        {
            pool.occupy(index);
        }
        self.pool = pool;
    }

    /// Places that the bridge has, whoever comes and goes.
    fn standing(&self) -> Vec<u64> {
        let chosen = &self.chosen;
        let earlier = chosen.earlier.iter().flat_map(|ranges| ranges.gateways());
        // A pod's MAC address is made from its IPv4 address, as the bridge's is.
        let own = std::iter::once(IpAddr::V4(chosen.configured.ipv4.gateway()));
        let addresses = earlier.map(|(address, _)| address).chain(own);
        addresses
            .filter_map(|address| chosen.current.index_of(address))
            .collect()
    }

    pub(super) fn ranges(&self) -> Ranges {
        self.chosen.current
    }

    /// The current ranges, and earlier ones that pods are still in.
    pub(super) fn ranges_in_use(&self) -> Vec<Ranges> {
        let mut ranges = vec![self.chosen.current];
        for entry in self.entries.values() {
            if !ranges.contains(&entry.record.ranges) {
                ranges.push(entry.record.ranges);
            }
        }
        ranges
    }

    /// The next pod is in these. Returns what is to be recorded, or nothing if they are the current ones.
    pub(super) fn use_ranges(&mut self, ranges: Ranges) -> Result<Option<Chosen>, RangeError> {
        if ranges == self.chosen.current {
            return Ok(None);
        }
        let range = |address: IpAddr| match (address, ranges.ipv6) {
            (IpAddr::V6(_), Some(ipv6)) => ipv6.to_string(),
            (IpAddr::V6(_) | IpAddr::V4(_), _) => ranges.ipv4.to_string(),
        };
        for (gateway, _) in ranges.gateways() {
            let holds = |(_, entry): &(&String, &Entry)| entry.record.ips().contains(&gateway);
            if let Some((holder, _)) = self.entries.iter().find(holds) {
                return Err(RangeError::GatewayTaken {
                    range: range(gateway),
                    address: gateway,
                    holder: holder.clone(),
                });
            }
        }
        // An interface has an IPv6 address once, with one prefix.
        let shared = self.ranges_in_use().into_iter().find_map(|used| {
            let (used, new) = (used.ipv6?, ranges.ipv6?);
            (used != new && used.gateway() == new.gateway()).then_some((new, used))
        });
        let bridged = !self.entries.is_empty();
        if let (Some((new, used)), true) = (shared, bridged) {
            return Err(RangeError::GatewayShared {
                range: new.to_string(),
                other: used.to_string(),
            });
        }
        let before = std::mem::replace(&mut self.chosen.current, ranges);
        self.chosen.earlier.retain(|earlier| *earlier != ranges);
        self.chosen.earlier.push(before);
        self.refill();
        Ok(Some(self.chosen.clone()))
    }

    /// Earlier ranges that no pod is in any more.
    pub(super) fn unused(&self) -> Vec<Ranges> {
        let used = self.ranges_in_use();
        let earlier = self.chosen.earlier.iter().copied();
        earlier.filter(|ranges| !used.contains(ranges)).collect()
    }

    /// These are off the bridge. Returns what is to be recorded.
    pub(super) fn retire(&mut self, ranges: &[Ranges]) -> Chosen {
        self.chosen
            .earlier
            .retain(|earlier| !ranges.contains(earlier));
        for (gateway, _) in ranges.iter().flat_map(|ranges| ranges.gateways()) {
            self.give_back(self.chosen.current.index_of(gateway));
        }
        self.chosen.clone()
    }

    /// Frees places that nothing else is in: since the ranges may have moved, a record can be in two.
    fn give_back(&mut self, indices: impl IntoIterator<Item = u64>) {
        let ranges = self.chosen.current;
        let entries = self.entries.values();
        let mut held: BTreeSet<u64> = entries
            .flat_map(|entry| places(ranges, &entry.record))
            .collect();
        held.extend(self.standing());
        for index in indices {
            if !held.contains(&index) {
                self.pool.give_back(index);
            }
        }
    }

    pub(super) fn admit(
        &mut self,
        id: &str,
        netns: NamespaceId,
        ports: &[PortMapping],
    ) -> Result<Admission, AttachError> {
        let same = |record: &Record| record.netns == netns && record.ports == ports;
        let different = || AttachError::Different { id: id.to_owned() };
        let mut leftover = None;
        if let Some(entry) = self.entries.get(id) {
            match (&entry.operation, entry.record.stage) {
                (Some(Operation::Attach(outcome)), _) if same(&entry.record) => {
                    return Ok(Admission::Joined(outcome.clone()));
                }
                (None, Stage::Attached) if same(&entry.record) => {
                    return Ok(Admission::Attached(entry.record.clone()));
                }
                (Some(Operation::Attach(_)), _) | (None, Stage::Attached) => {
                    return Err(different());
                }
                (Some(Operation::Detach(_)), _) => {
                    return Err(AttachError::Detaching { id: id.to_owned() });
                }
                (Some(Operation::LetGo(gone)), _) => {
                    return match gone.has_changed() {
                        Ok(_) => Ok(Admission::Later(gone.clone())),
                        // Nobody sees it off any more; the next start does.
                        Err(_) => Err(AttachError::Detaching { id: id.to_owned() }),
                    };
                }
                (None, Stage::Attaching | Stage::Detaching) => {
                    leftover = Some(entry.record.clone());
                }
            }
        }
        self.check_ports(id, ports)?;
        let current = self.chosen.current;
        let (ipv4, ipv6, ranges) = match &leftover {
            Some(record) => (record.ipv4, record.ipv6, record.ranges),
            None => {
                let Some(index) = self.pool.take() else {
                    // An address that comes free in a moment is one that can be had.
                    return match self.letting_go().next() {
                        Some(gone) => Ok(Admission::Later(gone)),
                        None => Err(AttachError::Exhausted {
                            subnet: current.ipv4.to_string(),
                        }),
                    };
                };
                let ipv6 = current.ipv6.map(|subnet| subnet.pod(index));
                (current.ipv4.pod(index), ipv6, current)
            }
        };
        self.sequence += 1;
        let record = Record {
            id: id.to_owned(),
            boot_id: self.boot_id.clone(),
            sequence: self.sequence,
            stage: Stage::Attaching,
            link: self.link_name(id),
            ipv4,
            ipv6,
            ranges,
            ports: ports.to_vec(),
            netns,
        };
        let (sender, outcome) = watch::channel(None);
        let entry = Entry {
            record: record.clone(),
            operation: Some(Operation::Attach(outcome.clone())),
        };
        self.entries.insert(id.to_owned(), entry);
        Ok(Admission::Begun {
            record,
            leftover,
            sender,
            outcome,
        })
    }

    fn check_ports(&self, id: &str, ports: &[PortMapping]) -> Result<(), AttachError> {
        for (holder, entry) in &self.entries {
            let taken = |port: &&PortMapping| {
                // Host ports go before the link does.
                let held: &[PortMapping] = match entry.operation {
                    Some(Operation::LetGo(_)) => &[],
                    Some(Operation::Attach(_) | Operation::Detach(_)) | None => &entry.record.ports,
                };
                holder != id && held.iter().any(|held| held.conflicts(port))
            };
            if let Some(port) = ports.iter().find(taken) {
                return Err(AttachError::PortTaken {
                    protocol: port.protocol,
                    port: port.host_port,
                    host_ip: port.host_ip,
                    holder: holder.clone(),
                });
            }
        }
        Ok(())
    }

    fn link_name(&self, id: &str) -> String {
        let taken = |name: &String| {
            let other =
                |(holder, entry): (&String, &Entry)| holder != id && entry.record.link == *name;
            self.entries.iter().any(other)
        };
        let mut names = (0..).map(|attempt| link::name_for(id, attempt));
        // An unending iterator finds one.
        names.find(|name| !taken(name)).unwrap_or_default()
    }

    pub(super) fn release(&mut self, id: &str) -> Release {
        let Some(entry) = self.entries.get_mut(id) else {
            return Release::Unknown;
        };
        match &entry.operation {
            Some(Operation::Attach(outcome)) => return Release::Attaching(outcome.clone()),
            Some(Operation::Detach(outcome)) => return Release::Joined(outcome.clone()),
            Some(Operation::LetGo(_)) => return Release::Unknown,
            None => {}
        }
        let (sender, outcome) = watch::channel(None);
        entry.record.stage = Stage::Detaching;
        entry.operation = Some(Operation::Detach(outcome.clone()));
        Release::Begun {
            record: entry.record.clone(),
            sender,
            outcome,
        }
    }

    /// An operation is over and the record stays, at this stage.
    pub(super) fn settle(&mut self, id: &str, stage: Stage) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.record.stage = stage;
            entry.operation = None;
        }
    }

    /// Its detach is answered, its link not yet gone. What is returned is dropped when it is.
    pub(super) fn let_go(&mut self, id: &str) -> watch::Sender<()> {
        let (sender, gone) = watch::channel(());
        if let Some(entry) = self.entries.get_mut(id) {
            entry.operation = Some(Operation::LetGo(gone));
        }
        sender
    }

    /// What is about to be free.
    pub(super) fn letting_go(&self) -> impl Iterator<Item = Gone> {
        let entries = self.entries.values();
        entries.filter_map(|entry| match &entry.operation {
            Some(Operation::LetGo(gone)) if gone.has_changed().is_ok() => Some(gone.clone()),
            Some(_) | None => None,
        })
    }

    /// Nothing of it is left: its address and ports are free.
    pub(super) fn forget(&mut self, id: &str) {
        if let Some(entry) = self.entries.remove(id) {
            let places: Vec<u64> = places(self.chosen.current, &entry.record).collect();
            self.give_back(places);
        }
    }

    pub(super) fn attached(&self, id: &str) -> Option<&Record> {
        let record = &self.entries.get(id)?.record;
        (record.stage == Stage::Attached).then_some(record)
    }

    /// Those that should not be there: neither in `live`, nor on a way back that was cut short.
    pub(super) fn leftovers(&self, live: &BTreeSet<String>) -> Vec<String> {
        let entries = self.entries.iter();
        entries
            .filter(|(id, entry)| !live.contains(*id) || entry.record.stage == Stage::Detaching)
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// Whose host ports should be in the table, links on the bridge.
    pub(super) fn records(&self) -> Vec<Record> {
        let entries = self.entries.values();
        entries
            .map(|entry| entry.record.clone())
            .filter(|record| record.stage != Stage::Detaching)
            .collect()
    }

    pub(super) fn links(&self) -> Vec<String> {
        let entries = self.entries.values();
        entries.map(|entry| entry.record.link.clone()).collect()
    }
}

/// The places of the ranges that an attachment keeps from others: those of its addresses and of its gateways.
fn places(ranges: Ranges, record: &Record) -> impl Iterator<Item = u64> {
    let gateways = record.ranges.gateways().map(|(address, _)| address);
    let addresses = record.ips().into_iter().chain(gateways);
    addresses.filter_map(move |address| ranges.index_of(address))
}
