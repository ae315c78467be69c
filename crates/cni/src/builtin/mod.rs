//! The built-in bridge network.
//!
//! ```text
//!   pod                         node                              outside
//!   eth0 ── veth pair ── port ─ longshore0 ─ routing, nf_tables ─ other interfaces
//!   10.88.0.5/16                10.88.0.1/16                      (masqueraded)
//! ```
//!
//! An attachment's life; what is in brackets is on disk before the step begins:
//!
//! ```text
//!   (nothing) ─ reserve ─▶ [attaching] ─ link, addresses, host ports ─▶ [attached]
//!       ▲                       │ failure                                   │ detach
//!       │                       ▼                                           ▼
//!       └── addresses free ◀─ file removed ◀── link gone ◀── host ports removed ── [detaching]
//!                                                     (answered)
//! ```
//!
//! The kernel takes a link apart when it gets to it, so nobody waits for that but an attach that finds no other address free.
//!
//! A record holds the addresses and host ports of its attachment, so the records *are* the allocator's state: an address is taken
//! as long as a record names it. Records carry the boot's id; one of an earlier boot names nothing that still exists and is dropped.
//!
//! Everything happens in the network namespace in which [`Bridge::open`] was called.

mod conditions;
mod config;
mod elements;
mod error;
#[cfg(test)]
mod failpoint;
mod flows;
mod journal;
mod link;
mod node;
mod pool;
mod portmap;
mod ranges;
mod rules;
mod state;
mod subnet;
#[cfg(test)]
mod undo_tests;
mod work;

pub use conditions::Condition;
pub use config::BridgeConfig;
pub use error::{AttachError, DetachError, OpenError, RangeError, StepError};
pub use portmap::{PortMapping, Protocol};
pub use ranges::Ranges;
pub use subnet::{Ipv4Subnet, Ipv6Subnet, SubnetError};

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

pub(crate) use journal::is_valid_id;
use journal::{Journal, NamespaceId};
use ranges::Chosen;
use state::{Admission, Outcome, Release, State};
use work::{Forward, Trouble, Work, lock};

/// How long a caller waits. The kernel can make one wait for the lock of all network configuration, not for ever.
const BOUND: Duration = Duration::from_secs(30);

/// The built-in network of one node. Cheap to clone. Needs a tokio runtime with time.
#[derive(Debug, Clone)]
pub struct Bridge {
    work: Arc<Work>,
}

/// A pod's place in the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// In the pod: `eth0`.
    pub interface: String,
    /// IPv4 first.
    pub ips: Vec<IpAddr>,
    pub mac: [u8; 6],
    /// One for each address family of `ips`.
    pub gateways: Vec<IpAddr>,
}

impl Bridge {
    /// Loads the records. The kernel is not touched before the first attach or collect.
    pub async fn open(config: BridgeConfig) -> Result<Bridge, OpenError> {
        let name = &config.name;
        if !(1..=15).contains(&name.len()) || name.contains(['/', ' ', '\0', ':']) {
            return Err(OpenError::Name(name.clone()));
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        // A thread may be in another namespace than its process.
        let namespace = rustix::fs::open("/proc/thread-self/ns/net", flags, Mode::empty())
            .map_err(OpenError::Namespace)?;
        let (journal, records) = Journal::open(&config.state_dir)?;
        let mut conditions = Vec::new();
        let mut chosen = Chosen::load(&journal, config.ranges());
        let ipv6 = node::has_ipv6();
        if !ipv6 && chosen.current.ipv6.take().is_some() {
            conditions.push(Condition::Ipv6Unavailable);
        }
        let state = State::new(chosen, journal.records.boot_id().to_owned(), records);
        let work = Work {
            config,
            ipv6,
            namespace,
            journal,
            state: Mutex::new(state),
            prepared: Mutex::new(None),
            conditions: Mutex::new(conditions),
            forward: Mutex::new(Forward::default()),
            trouble: Mutex::new(Trouble::default()),
            #[cfg(test)]
            failpoint: Mutex::new(None),
        };
        Ok(Bridge {
            work: Arc::new(work),
        })
    }

    /// Connects the network namespace to the bridge. On failure everything is undone. The work goes on when the caller is dropped;
    /// a call with the same id, namespace and ports joins it, or gets the attachment that there is.
    ///
    /// The descriptor is closed before the result is told.
    pub async fn attach(
        &self,
        id: &str,
        netns: OwnedFd,
        ports: &[PortMapping],
    ) -> Result<Attachment, AttachError> {
        if !journal::is_valid_id(id) {
            return Err(AttachError::InvalidId { id: id.to_owned() });
        }
        let failed = |source| AttachError::Step {
            id: id.to_owned(),
            bridge: self.work.config.name.clone(),
            source,
            cleanup: None,
        };
        portmap::check(ports, self.ranges().ipv6.is_some())?;
        let namespace = identify(&netns).map_err(failed)?;
        let patience = tokio::time::Instant::now() + BOUND;
        let outcome = loop {
            let admission = lock(&self.work.state).admit(id, namespace, ports)?;
            match admission {
                Admission::Attached(record) => return Ok(work::attachment(&record)),
                Admission::Joined(outcome) => break outcome,
                Admission::Later(mut gone) => {
                    let gone = gone.wait_for(|()| false);
                    if tokio::time::timeout_at(patience, gone).await.is_err() {
                        return Err(AttachError::Held {
                            id: id.to_owned(),
                            waited: BOUND,
                        });
                    }
                }
                Admission::Begun {
                    record,
                    leftover,
                    sender,
                    outcome,
                } => {
                    let work = Arc::clone(&self.work);
                    let thread = move || {
                        let result = work.attach(&record, leftover.as_ref(), netns);
                        sender.send_replace(Some(result));
                        work.look_again();
                    };
                    if let Err(error) = spawn("net-attach", thread) {
                        lock(&self.work.state).forget(id);
                        return Err(failed(error));
                    }
                    break outcome;
                }
            }
        };
        match wait(outcome).await {
            Ok(result) => result,
            Err(Unanswered::Lost) => Err(failed(StepError::Lost)),
            Err(Unanswered::Late) => Err(AttachError::Stuck {
                id: id.to_owned(),
                waited: BOUND,
            }),
        }
    }

    /// Undoes an attach; an unknown id is fine. An attach of the same id that is in flight is waited for.
    ///
    /// Returns when the host ports are gone and the record says so. The address is free again once the link is gone, too: let go of the
    /// namespace first, then the kernel reaps the link by itself; where the namespace lives on, it goes by name a tenth of a second
    /// later. [`Bridge::settled`] waits for that.
    ///
    /// The work goes on when the caller is dropped; a second call joins it.
    pub async fn detach(&self, id: &str) -> Result<(), DetachError> {
        loop {
            let release = lock(&self.work.state).release(id);
            let outcome = match release {
                Release::Unknown => return Ok(()),
                Release::Attaching(outcome) => {
                    if let Err(unanswered) = wait(outcome).await {
                        return Err(self.unanswered(id, unanswered));
                    }
                    continue;
                }
                Release::Joined(outcome) => outcome,
                Release::Begun {
                    record,
                    sender,
                    outcome,
                } => {
                    let work = Arc::clone(&self.work);
                    let stage = record.stage;
                    let thread = move || match work.detach(&record) {
                        Ok(gone) => {
                            sender.send_replace(Some(Ok(())));
                            work.let_go(&record);
                            drop(gone);
                        }
                        Err(error) => drop(sender.send_replace(Some(Err(error)))),
                    };
                    if let Err(source) = spawn("net-detach", thread) {
                        lock(&self.work.state).settle(id, stage);
                        return Err(self.failed(id, source));
                    }
                    outcome
                }
            };
            return match wait(outcome).await {
                Ok(result) => result,
                Err(unanswered) => Err(self.unanswered(id, unanswered)),
            };
        }
    }

    /// Waits until every link that was let go is gone and its address free.
    pub async fn settled(&self) {
        let letting_go: Vec<_> = lock(&self.work.state).letting_go().collect();
        for mut gone in letting_go {
            // An error says that the other end is gone: that is it.
            let _gone = gone.wait_for(|()| false).await;
        }
    }

    /// At start: detaches what is not `live` and what was on its way back already, and removes links and host ports that no record explains. Host ports of those that are live
    /// are there again afterwards, whatever happened to the table. Returns the ids detached.
    ///
    /// One that is live but was only half attached waits for its attach to be repeated. One that cannot be detached does not keep the others; the first failure is returned at the end.
    pub async fn collect(&self, live: &BTreeSet<String>) -> Result<Vec<String>, DetachError> {
        let mut detaching = tokio::task::JoinSet::new();
        for id in lock(&self.work.state).leftovers(live) {
            let bridge = self.clone();
            detaching.spawn(async move {
                let result = bridge.detach(&id).await;
                (id, result)
            });
        }
        let (mut collected, mut first) = (Vec::new(), Ok(()));
        while let Some(joined) = detaching.join_next().await {
            match joined {
                Ok((id, Ok(()))) => collected.push(id),
                Ok((_, Err(error))) => first = first.and(Err(error)),
                Err(_) => first = first.and(Err(self.failed("", StepError::Lost))),
            }
        }
        collected.sort_unstable();
        let (sender, outcome) = tokio::sync::watch::channel(None);
        let work = Arc::clone(&self.work);
        let thread = move || {
            sender.send_replace(Some(work.sweep()));
        };
        spawn("net-sweep", thread).map_err(|source| self.failed("", source))?;
        let swept = match wait(outcome).await {
            Ok(result) => result,
            Err(unanswered) => Err(self.unanswered("", unanswered)),
        };
        first.and(swept).map(|()| collected)
    }

    /// The ranges that the next pod is in. From memory.
    pub fn ranges(&self) -> Ranges {
        lock(&self.work.state).ranges()
    }

    /// Whether the kernel has IPv6 where the bridge is.
    pub fn has_ipv6(&self) -> bool {
        self.work.ipv6
    }

    /// From the next pod on, addresses are from these ranges. Those that run keep their addresses and gateways. The choice is durable, and
    /// lasts until another, or until the configured ranges change. `check`: refuse ranges with something in them that the node reaches
    /// another way.
    ///
    /// The work goes on when the caller is dropped.
    pub async fn use_ranges(&self, ranges: Ranges, check: bool) -> Result<(), RangeError> {
        if let (Some(range), false) = (ranges.ipv6, self.work.ipv6) {
            return Err(RangeError::NoIpv6 {
                range: range.to_string(),
            });
        }
        let (sender, outcome) = tokio::sync::watch::channel(None);
        let work = Arc::clone(&self.work);
        let thread = move || {
            sender.send_replace(Some(work.use_ranges(ranges, check)));
        };
        spawn("net-ranges", thread).map_err(RangeError::Step)?;
        match wait(outcome).await {
            Ok(result) => result,
            Err(Unanswered::Lost) => Err(RangeError::Step(StepError::Lost)),
            Err(Unanswered::Late) => Err(RangeError::Stuck { waited: BOUND }),
        }
    }

    /// From memory; `None` unless attached.
    pub fn attachment(&self, id: &str) -> Option<Attachment> {
        let state = lock(&self.work.state);
        let record = state.attached(id)?;
        Some(work::attachment(record))
    }

    /// What an operator should know, from memory. Others' forward chains are looked at by collect, by the first attach, and after an
    /// attach if that was ten seconds ago.
    pub fn conditions(&self) -> Vec<Condition> {
        let mut conditions = lock(&self.work.conditions).clone();
        conditions.extend(lock(&self.work.forward).drops.iter().cloned());
        conditions
    }

    /// Why no pod can be attached: the bridge or the table could not be made when an attach, or a collect, last needed them. From memory.
    ///
    /// While there is trouble, asking has the preparation tried again in the background, every few seconds at most: a kubelet sends no pod
    /// to a node without a network, so no attach would ever find that it has passed.
    pub fn trouble(&self) -> Option<String> {
        let mut trouble = lock(&self.work.trouble);
        let reason = trouble.reason.clone();
        let due = trouble.begin_try();
        drop(trouble);
        if due {
            let work = Arc::clone(&self.work);
            if spawn("net-prepare", move || work.try_again()).is_err() {
                self.work.tried_again();
            }
        }
        reason
    }

    fn failed(&self, id: &str, source: StepError) -> DetachError {
        DetachError::Step {
            id: id.to_owned(),
            bridge: self.work.config.name.clone(),
            source,
        }
    }

    fn unanswered(&self, id: &str, unanswered: Unanswered) -> DetachError {
        match unanswered {
            Unanswered::Lost => self.failed(id, StepError::Lost),
            Unanswered::Late => DetachError::Stuck {
                id: id.to_owned(),
                waited: BOUND,
            },
        }
    }
}

/// Why a thread's result is not known.
enum Unanswered {
    /// It panicked.
    Lost,
    Late,
}

async fn wait<T: Clone>(mut outcome: Outcome<T>) -> Result<T, Unanswered> {
    let answered = outcome.wait_for(Option::is_some);
    match tokio::time::timeout(BOUND, answered).await {
        Ok(Ok(result)) => result.clone().ok_or(Unanswered::Lost),
        Ok(Err(_)) => Err(Unanswered::Lost),
        Err(_) => Err(Unanswered::Late),
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), StepError> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    match thread.spawn(work) {
        Ok(_) => Ok(()),
        Err(error) => Err(StepError::Thread(Arc::new(error))),
    }
}

fn identify(netns: &OwnedFd) -> Result<NamespaceId, StepError> {
    let stat = rustix::fs::fstat(netns).map_err(|source| StepError::Enter {
        whose: "pod's",
        source,
    })?;
    Ok(NamespaceId {
        device: stat.st_dev,
        inode: stat.st_ino,
    })
}
