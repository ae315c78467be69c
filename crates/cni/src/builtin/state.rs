//! What is attached, being attached, being detached; who has which address and host port. Pure memory.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::watch;

use super::error::{AttachError, DetachError};
use super::journal::{NamespaceId, Record, Stage};
use super::pool::Pool;
use super::portmap::PortMapping;
use super::{Attachment, BridgeConfig, link};

/// The result of an operation in flight, for everybody who waits for it.
pub(super) type Outcome<T> = watch::Receiver<Option<T>>;
pub(super) type AttachOutcome = Outcome<Result<Attachment, AttachError>>;
pub(super) type DetachOutcome = Outcome<Result<(), DetachError>>;
/// Closed once the kernel has let go of a link, and what the link had is free.
pub(super) type Gone = watch::Receiver<()>;

#[derive(Debug)]
pub(super) struct State {
    boot_id: String,
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
    pub(super) fn new(config: &BridgeConfig, boot_id: String, records: Vec<Record>) -> State {
        let capacity = match config.ipv6 {
            // Both addresses of a pod have the same place in their subnets.
            Some(ipv6) => config.ipv4.capacity().min(ipv6.capacity()),
            None => config.ipv4.capacity(),
        };
        let mut state = State {
            boot_id,
            pool: Pool::new(capacity),
            entries: BTreeMap::new(),
            sequence: 0,
        };
        // In the order in which they were made, so that the pool goes on after the latest.
        for record in records {
            state.sequence = state.sequence.max(record.sequence);
            if let Some(index) = config.ipv4.index_of(record.ipv4) {
                state.pool.occupy(index);
            }
            let id = record.id.clone();
            let entry = Entry {
                record,
                operation: None,
            };
            state.entries.insert(id, entry);
        }
        state
    }

    pub(super) fn admit(
        &mut self,
        config: &BridgeConfig,
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
        let (ipv4, ipv6) = match &leftover {
            Some(record) => (record.ipv4, record.ipv6),
            None => {
                let Some(index) = self.pool.take() else {
                    // An address that comes free in a moment is one that can be had.
                    return match self.letting_go().next() {
                        Some(gone) => Ok(Admission::Later(gone)),
                        None => Err(AttachError::Exhausted {
                            subnet: config.ipv4.to_string(),
                        }),
                    };
                };
                let ipv6 = config.ipv6.map(|subnet| subnet.pod(index));
                (config.ipv4.pod(index), ipv6)
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
    pub(super) fn forget(&mut self, config: &BridgeConfig, id: &str) {
        if let Some(entry) = self.entries.remove(id)
            && let Some(index) = config.ipv4.index_of(entry.record.ipv4)
        {
            self.pool.give_back(index);
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
