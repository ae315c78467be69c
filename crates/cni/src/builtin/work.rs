//! The work itself, on threads of their own: netlink blocks, and a thread that enters a pod's namespace should not come back.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tokio::sync::watch;

use super::conditions::Condition;
use super::error::{AttachError, DetachError, RangeError, StepError};
use super::journal::{Journal, Record, Stage};
use super::node::{self, Prepared, Sockets, netlink};
use super::ranges::{self, Ranges};
use super::state::State;
use super::{Attachment, BridgeConfig, flows, link, rules};
use crate::causes::with_causes;

/// How old the knowledge of others' forward chains may be when a pod is attached.
const FORWARD_AGE: Duration = Duration::from_secs(10);

/// How long after a failed preparation the next one is tried unasked.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// The longest between two tries to see a link off.
const LAST_PAUSE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Work {
    pub(super) config: BridgeConfig,
    /// Whether the kernel has it.
    pub(super) ipv6: bool,
    /// The node's network namespace.
    pub(super) namespace: OwnedFd,
    pub(super) journal: Journal,
    pub(super) state: Mutex<State>,
    /// The bridge, once it was made. Held while the table is changed, so that a change and a replacement of the whole take turns.
    pub(super) prepared: Mutex<Option<Prepared>>,
    pub(super) conditions: Mutex<Vec<Condition>>,
    pub(super) forward: Mutex<Forward>,
    pub(super) trouble: Mutex<Trouble>,
    #[cfg(test)]
    pub(super) failpoint: Mutex<Option<super::failpoint::Failpoint>>,
}

/// What is known of chains that drop forwarded packets.
#[derive(Debug, Default)]
pub(super) struct Forward {
    pub(super) drops: Vec<Condition>,
    seen: Option<Instant>,
}

/// Whether the node could be prepared for pods when that was last tried.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// Why not.
    pub(super) reason: Option<String>,
    tried: Option<Instant>,
    /// A try in the background is under way.
    trying: bool,
}

impl Trouble {
    /// Whether it is time to look whether it has passed; if so, somebody has to.
    pub(super) fn begin_try(&mut self) -> bool {
        let rested = self.tried.is_none_or(|tried| tried.elapsed() > TRY_AGAIN);
        let due = self.reason.is_some() && rested && !self.trying;
        self.trying |= due;
        due
    }
}

/// An attach that failed.
struct Failure {
    error: AttachError,
    /// Whether something is left to undo.
    left: bool,
}

/// Where attach can fail, in order. Tests stop it after each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Recorded,
    Prepared,
    Linked,
    Configured,
    Mapped,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these guard is changed in single steps, so a panic elsewhere leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Work {
    /// Runs an admitted attach to its end and settles the state. The thread may end up in the pod's namespace.
    pub(super) fn attach(
        &self,
        record: &Record,
        leftover: Option<&Record>,
        netns: OwnedFd,
    ) -> Result<Attachment, AttachError> {
        let id = &record.id;
        let begun = self.begin(record, leftover);
        let result = begun.and_then(|sockets| self.attach_begun(sockets, record, netns));
        match result {
            Ok(()) => {
                lock(&self.state).settle(id, Stage::Attached);
                Ok(attachment(record))
            }
            Err(failure) => {
                // What is left keeps its address and ports until it is gone.
                match failure.left {
                    true => lock(&self.state).settle(id, Stage::Detaching),
                    false => self.forget(id),
                }
                Err(failure.error)
            }
        }
    }

    /// Up to the point where the attachment is on record and nothing more.
    fn begin(&self, record: &Record, leftover: Option<&Record>) -> Result<Sockets, Failure> {
        let failed = |source| Failure {
            error: self.step_error(record, source, None),
            left: leftover.is_some(),
        };
        let mut sockets = self.sockets().map_err(|error| {
            self.tried(Some(&error));
            failed(error)
        })?;
        if let Some(leftover) = leftover {
            self.undo(&mut sockets, leftover).map_err(failed)?;
        }
        self.journal.write(record).map_err(|error| Failure {
            error: AttachError::Record(error),
            left: leftover.is_some(),
        })?;
        Ok(sockets)
    }

    fn attach_begun(
        &self,
        mut sockets: Sockets,
        record: &Record,
        netns: OwnedFd,
    ) -> Result<(), Failure> {
        let attached = self.steps(&mut sockets, record, &netns);
        // The pod's own descriptor is the caller's business; ours must not keep a namespace alive.
        drop(netns);
        let written = attached.and_then(|()| {
            let mut attached = record.clone();
            attached.stage = Stage::Attached;
            self.journal.write(&attached).map_err(StepError::Record)
        });
        let Err(source) = written else {
            return Ok(());
        };
        #[cfg(test)]
        if let StepError::Failpoint(super::failpoint::KILLED) = source {
            let error = self.step_error(record, source, None);
            return Err(Failure { error, left: true });
        }
        let undone = self.undo(&mut sockets, record);
        let undone = undone.map_err(|source| self.detach_error(record, source));
        let removed = undone.and_then(|()| Ok(self.journal.remove(&record.id)?));
        Err(Failure {
            left: removed.is_err(),
            error: self.step_error(record, source, removed.err().map(Box::new)),
        })
    }

    fn step_error(
        &self,
        record: &Record,
        source: StepError,
        cleanup: Option<Box<DetachError>>,
    ) -> AttachError {
        AttachError::Step {
            id: record.id.clone(),
            bridge: self.config.name.clone(),
            source,
            cleanup,
        }
    }

    /// The story of an attach: node, link, addresses, host ports.
    fn steps(
        &self,
        sockets: &mut Sockets,
        record: &Record,
        netns: &OwnedFd,
    ) -> Result<(), StepError> {
        self.reached(Step::Recorded)?;
        match self.try_steps(sockets, record, netns) {
            // Somebody removed the bridge (EINVAL, for a link's master) or the table since we made it: once more from the start.
            Err(StepError::Netlink { source, .. })
                if matches!(
                    source.errno(),
                    Some(Errno::NODEV | Errno::NOENT | Errno::INVAL)
                ) =>
            {
                *lock(&self.prepared) = None;
                link::enter(self.namespace.as_fd(), "node's")?;
                link::delete(sockets, &record.link)?;
                self.try_steps(sockets, record, netns)
            }
            other => other,
        }
    }

    fn try_steps(
        &self,
        sockets: &mut Sockets,
        record: &Record,
        netns: &OwnedFd,
    ) -> Result<(), StepError> {
        let prepared = self.prepare(sockets)?;
        self.reached(Step::Prepared)?;
        link::make(sockets, &self.config, prepared, record, netns.as_fd())?;
        self.reached(Step::Linked)?;
        link::configure(record, netns.as_fd())?;
        self.reached(Step::Configured)?;
        let _turn = lock(&self.prepared);
        rules::add(&mut sockets.netfilter, record).map_err(netlink("map host ports"))?;
        flows::forget_others(&mut sockets.netfilter, record);
        self.reached(Step::Mapped)
    }

    fn prepare(&self, sockets: &mut Sockets) -> Result<Prepared, StepError> {
        let mut prepared = lock(&self.prepared);
        if let Some(prepared) = *prepared {
            // The trouble was in getting here.
            self.tried(None);
            return Ok(prepared);
        }
        let (records, ranges) = self.in_use();
        let mut changed = Vec::new();
        let made = node::prepare(sockets, &self.config, &ranges, &records, &mut changed);
        lock(&self.conditions).append(&mut changed);
        self.tried(made.as_ref().err());
        let made = made?;
        *prepared = Some(made);
        drop(prepared);
        self.look_at_forward(sockets);
        Ok(made)
    }

    /// Remembers how preparing the node went.
    pub(super) fn tried(&self, failure: Option<&StepError>) {
        let reason = failure.map(|error| with_causes(error));
        let mut trouble = lock(&self.trouble);
        if reason != trouble.reason {
            match &reason {
                Some(reason) => tracing::error!(reason, "the node cannot be prepared for pods"),
                None => tracing::info!("the node could be prepared for pods again"),
            }
        }
        trouble.reason = reason;
        trouble.tried = Some(Instant::now());
    }

    /// Looks whether the trouble has passed.
    pub(super) fn try_again(&self) {
        match self.sockets() {
            // What can be done about a failure is remembering it.
            Ok(mut sockets) => drop(self.prepare(&mut sockets)),
            Err(error) => self.tried(Some(&error)),
        }
        self.tried_again();
    }

    pub(super) fn tried_again(&self) {
        lock(&self.trouble).trying = false;
    }

    /// After an attach has been answered.
    pub(super) fn look_again(&self) {
        let old = lock(&self.forward)
            .seen
            .is_none_or(|seen| seen.elapsed() > FORWARD_AGE);
        if old && let Ok(mut sockets) = self.sockets() {
            self.look_at_forward(&mut sockets);
        }
    }

    fn look_at_forward(&self, sockets: &mut Sockets) {
        match node::forward_drops(sockets) {
            Ok(drops) => {
                let mut forward = lock(&self.forward);
                for condition in drops.iter().filter(|drop| !forward.drops.contains(drop)) {
                    tracing::warn!(%condition, "pods may be cut off");
                }
                *forward = Forward {
                    drops,
                    seen: Some(Instant::now()),
                };
            }
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "forward chains are not known"
            ),
        }
    }

    /// Undoes whatever of an attach was done, at once.
    fn undo(&self, sockets: &mut Sockets, record: &Record) -> Result<(), StepError> {
        let unmapped = self.unmap(sockets, record);
        let unlinked = link::delete(sockets, &record.link);
        unmapped.and(unlinked)
    }

    fn unmap(&self, sockets: &mut Sockets, record: &Record) -> Result<(), StepError> {
        let _turn = lock(&self.prepared);
        rules::remove(&mut sockets.netfilter, record).map_err(netlink("remove host ports"))?;
        flows::forget_own(&mut sockets.netfilter, record);
        Ok(())
    }

    /// Runs an admitted detach as far as its caller waits for it, and settles the state. What is returned is to be dropped after
    /// [`Work::let_go`].
    pub(super) fn detach(&self, record: &Record) -> Result<watch::Sender<()>, DetachError> {
        let result = self.detach_recorded(record);
        let mut state = lock(&self.state);
        match result {
            Ok(()) => Ok(state.let_go(&record.id)),
            Err(error) => {
                state.settle(&record.id, Stage::Detaching);
                Err(error)
            }
        }
    }

    fn detach_recorded(&self, record: &Record) -> Result<(), DetachError> {
        // Undoing must work on a full disk, and an old record leads here again.
        if let Err(error) = self.journal.write(record) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "detaching all the same"
            );
        }
        let mut sockets = self
            .sockets()
            .map_err(|source| self.detach_error(record, source))?;
        self.unmap(&mut sockets, record)
            .map_err(|source| self.detach_error(record, source))
    }

    /// Sees the link off, however long that takes, and frees the address: only then has the kernel forgotten it.
    pub(super) fn let_go(&self, record: &Record) {
        let mut pause = Duration::from_secs(1);
        while let Err(error) = self.try_let_go(record) {
            tracing::warn!(
                id = record.id,
                error = &error as &dyn std::error::Error,
                "an address is not free yet; trying again"
            );
            std::thread::sleep(pause);
            pause = (pause * 2).min(LAST_PAUSE);
        }
        self.forget(&record.id);
    }

    fn try_let_go(&self, record: &Record) -> Result<(), DetachError> {
        let failed = |source| self.detach_error(record, source);
        let mut sockets = self.sockets().map_err(failed)?;
        link::let_go(&mut sockets, &record.link).map_err(failed)?;
        Ok(self.journal.remove(&record.id)?)
    }

    fn detach_error(&self, record: &Record, source: StepError) -> DetachError {
        DetachError::Step {
            id: record.id.clone(),
            bridge: self.config.name.clone(),
            source,
        }
    }

    /// Removes links and host ports that no record explains.
    pub(super) fn sweep(&self) -> Result<(), DetachError> {
        self.sweep_steps().map_err(|source| DetachError::Sweep {
            bridge: self.config.name.clone(),
            source,
        })
    }

    fn sweep_steps(&self) -> Result<(), StepError> {
        let mut sockets = self.sockets()?;
        if let Some(bridge) = node::find_bridge(&mut sockets, &self.config)? {
            let ports = crate::netlink::route::ports(&mut sockets.route, bridge)
                .map_err(netlink("list the bridge's ports"))?;
            // Listed before the records are looked at: a link made since then is not in the list.
            let known = lock(&self.state).links();
            for port in ports {
                if port.starts_with(link::PREFIX) && !known.contains(&port) {
                    link::delete(&mut sockets, &port)?;
                }
            }
        }
        if lock(&self.state).records().is_empty() {
            self.empty_table(&mut sockets)?;
        } else {
            *lock(&self.prepared) = None;
            self.prepare(&mut sockets)?;
        }
        self.retire(&mut sockets, &lock(&self.prepared))?;
        self.look_at_forward(&mut sockets);
        Ok(())
    }

    /// See [`super::Bridge::use_ranges`]. The turn that changes of the table take keeps pods from being linked meanwhile.
    pub(super) fn use_ranges(&self, ranges: Ranges, check: bool) -> Result<(), RangeError> {
        let mut sockets = self.sockets().map_err(RangeError::Step)?;
        let mut prepared = lock(&self.prepared);
        let before = lock(&self.state).ranges();
        if check && ranges != before {
            let bridge = node::find_bridge(&mut sockets, &self.config).map_err(RangeError::Step)?;
            ranges::check_routes(&mut sockets, bridge, ranges)?;
        }
        let Some(chosen) = lock(&self.state).use_ranges(ranges)? else {
            return Ok(());
        };
        if let Err(error) = chosen.save(&self.journal) {
            lock(&self.state).use_ranges(before)?;
            return Err(error.into());
        }
        tracing::info!(ipv4 = %ranges.ipv4, ipv6 = ?ranges.ipv6, "the ranges of pods have changed");
        let made = prepared.take().is_some();
        self.retire(&mut sockets, &prepared)
            .map_err(RangeError::Step)?;
        drop(prepared);
        // Where there is no bridge yet, the first pod makes it.
        match made {
            true => self.prepare(&mut sockets).map(|_| ()),
            false => Ok(()),
        }
        .map_err(RangeError::Step)
    }

    /// Nothing of an attachment is left. The lock keeps an address that comes free from a pod until the bridge has lost it.
    fn forget(&self, id: &str) {
        let turn = lock(&self.prepared);
        lock(&self.state).forget(id);
        let unused = !lock(&self.state).unused().is_empty();
        if !unused {
            return;
        }
        let retired = self
            .sockets()
            .and_then(|mut sockets| self.retire(&mut sockets, &turn));
        if let Err(error) = retired {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the bridge keeps an address of an earlier range"
            );
        }
    }

    /// Takes the gateways of earlier ranges that no pod is in off the bridge.
    fn retire(
        &self,
        sockets: &mut Sockets,
        _turn: &MutexGuard<'_, Option<Prepared>>,
    ) -> Result<(), StepError> {
        let (unused, used) = {
            let state = lock(&self.state);
            (state.unused(), state.ranges_in_use())
        };
        if unused.is_empty() {
            return Ok(());
        }
        if let Some(bridge) = node::find_bridge(sockets, &self.config)? {
            let kept: Vec<_> = used.iter().flat_map(|ranges| ranges.gateways()).collect();
            let gone = unused.iter().flat_map(|ranges| ranges.gateways());
            let gone = gone.filter(|gateway| !kept.contains(gateway));
            ranges::take_off(sockets, bridge, gone)?;
        }
        let chosen = lock(&self.state).retire(&unused);
        chosen.save(&self.journal).map_err(StepError::Record)
    }

    fn in_use(&self) -> (Vec<Record>, Vec<Ranges>) {
        let state = lock(&self.state);
        (state.records(), state.ranges_in_use())
    }

    /// Leaves a machine that never had a pod without a table.
    fn empty_table(&self, sockets: &mut Sockets) -> Result<(), StepError> {
        let _turn = lock(&self.prepared);
        let chains = crate::netlink::nftables::base_chains(&mut sockets.netfilter)
            .map_err(netlink("list the nf_tables chains"))?;
        if chains.iter().any(|chain| chain.table == rules::TABLE) {
            let (records, ranges) = self.in_use();
            rules::replace(&mut sockets.netfilter, &self.config, &ranges, &records)
                .map_err(netlink("empty nf_tables table inet longshore"))?;
        }
        Ok(())
    }

    fn sockets(&self) -> Result<Sockets, StepError> {
        link::enter(self.namespace.as_fd(), "node's")?;
        Sockets::open()
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "tests stop here")]
    fn reached(&self, _step: Step) -> Result<(), StepError> {
        Ok(())
    }

    #[cfg(test)]
    fn reached(&self, step: Step) -> Result<(), StepError> {
        match &*lock(&self.failpoint) {
            Some(failpoint) if failpoint.after == step => failpoint.fail(),
            Some(_) | None => Ok(()),
        }
    }
}

/// What a record tells the pod's owner.
pub(super) fn attachment(record: &Record) -> Attachment {
    let gateways = record.ranges.gateways().map(|(address, _)| address);
    Attachment {
        interface: link::INTERFACE.to_owned(),
        ips: record.ips(),
        mac: record.mac(),
        gateways: gateways.collect(),
    }
}
