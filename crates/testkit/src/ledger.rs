//! What there is in a sandbox, and what is there more or less than before.
//!
//! A ledger counts processes, mounts, cgroups of every hierarchy, links, addresses, nf_tables rules and elements, and files. A test takes
//! one, does its work, undoes it, and asks whether things have settled to what they were.

mod take;

use std::{collections::BTreeMap, fmt, thread, time::Duration, time::Instant};

use crate::sandbox::Sandbox;

/// How long things may take to be gone, on an emulated processor that others use as well.
pub const SETTLES_WITHIN: Duration = Duration::from_secs(60);

/// A picture of a sandbox: how often each thing is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// By kind and description, such as `mount` and `tmpfs tmpfs on /run`.
    things: BTreeMap<(&'static str, String), u32>,
}

impl Ledger {
    /// Looks around.
    ///
    /// # Errors
    /// The sandbox cannot be looked into, or `ip` or `nft` fails.
    pub fn take(sandbox: &Sandbox) -> anyhow::Result<Self> {
        take::take(sandbox)
    }

    /// Looks around until nothing has changed for a moment: what goes after an answer, such as a removed container's files, is not there to
    /// be missed for ever after.
    ///
    /// # Errors
    /// As [`Ledger::take`].
    pub fn take_settled(sandbox: &Sandbox) -> anyhow::Result<Self> {
        let end = Instant::now() + SETTLES_WITHIN;
        let mut last = Self::take(sandbox)?;
        loop {
            thread::sleep(Duration::from_millis(300));
            let now = Self::take(sandbox)?;
            if now == last || Instant::now() >= end {
                return Ok(now);
            }
            last = now;
        }
    }

    /// What is there now and was not before, and the other way round.
    #[must_use]
    pub fn difference(&self, now: &Self) -> Difference {
        let count = |ledger: &Self, thing| ledger.things.get(thing).copied().unwrap_or(0);
        let mut changes = Vec::new();
        let things = self.things.keys().chain(now.things.keys());
        for thing in things.collect::<std::collections::BTreeSet<_>>() {
            let (was, is) = (count(self, thing), count(now, thing));
            if was != is {
                changes.push(Change {
                    kind: thing.0,
                    thing: thing.1.clone(),
                    was,
                    is,
                });
            }
        }
        Difference { changes }
    }

    /// Waits until the sandbox is again as in this ledger, at most `limit`. `Err` is what still differs then.
    ///
    /// # Errors
    /// As [`Ledger::take`].
    pub fn settles(
        &self,
        sandbox: &Sandbox,
        limit: Duration,
    ) -> anyhow::Result<Result<(), Difference>> {
        let end = Instant::now() + limit;
        loop {
            let difference = self.difference(&Self::take(sandbox)?);
            if difference.is_empty() {
                return Ok(Ok(()));
            }
            if Instant::now() >= end {
                return Ok(Err(difference));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// How many things of a kind there are: `process`, `mount`, `cgroup`, `link`, `address`, `nftables`, `file`.
    #[must_use]
    pub fn count(&self, kind: &str) -> u32 {
        let of_kind = self.things.iter().filter(|((name, _), _)| *name == kind);
        of_kind.map(|(_, count)| *count).sum()
    }

    pub(crate) fn add(&mut self, kind: &'static str, thing: impl Into<String>) {
        *self.things.entry((kind, thing.into())).or_default() += 1;
    }
}

/// What two ledgers do not share. Displays one thing a line, `+` for new ones and `-` for missing ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    changes: Vec<Change>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    kind: &'static str,
    thing: String,
    was: u32,
    is: u32,
}

impl Difference {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Takes out what is expected, by kind and description; says whether there was any.
    pub fn take_out(&mut self, expected: impl Fn(&str, &str) -> bool) -> bool {
        let all = self.changes.len();
        self.changes
            .retain(|change| !expected(change.kind, &change.thing));
        self.changes.len() < all
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for change in &self.changes {
            let sign = if change.is > change.was { '+' } else { '-' };
            write!(f, "{sign} {}: {}", change.kind, change.thing)?;
            match change.is.abs_diff(change.was) {
                1 => writeln!(f)?,
                times => writeln!(f, " ({times} times)")?,
            }
        }
        Ok(())
    }
}
