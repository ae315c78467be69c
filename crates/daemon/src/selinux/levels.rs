//! Pairs of categories that tell pods apart: a process of one may not touch the files of another, though their types are the same.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// `c0` to `c1023`, as policies for containers have them.
const CATEGORIES: u16 = 1024;

/// The lower category first.
type Pair = (u16, u16);

/// Which pairs are some pod's, and of how many: users may give two pods the same.
#[derive(Debug, Default, Clone)]
pub(super) struct Levels(Arc<Mutex<BTreeMap<Pair, usize>>>);

/// A pair that no other pod is given as long as this lives.
#[derive(Debug)]
pub(crate) struct HeldLevel {
    levels: Levels,
    pair: Pair,
}

impl Levels {
    /// A free pair, chosen at random: what a pod has left behind is not the next one's. `None`: there is none.
    pub(super) fn draw(&self) -> io::Result<Option<HeldLevel>> {
        let mut held = self.lock();
        let start = random_pair()?;
        let mut pair = start;
        while held.contains_key(&pair) {
            pair = after(pair);
            if pair == start {
                return Ok(None);
            }
        }
        held.insert(pair, 1);
        Ok(Some(HeldLevel {
            levels: self.clone(),
            pair,
        }))
    }

    /// Holds the pair of a level that somebody else has chosen. `None`: it has no pair of categories, so none can be taken by mistake.
    pub(super) fn hold(&self, level: &str) -> Option<HeldLevel> {
        let pair = pair_of(level)?;
        *self.lock().entry(pair).or_default() += 1;
        Some(HeldLevel {
            levels: self.clone(),
            pair,
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Pair, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HeldLevel {
    /// The level, of a sensitivity such as `s0`.
    pub(super) fn at(&self, sensitivity: &str) -> String {
        let (low, high) = self.pair;
        format!("{sensitivity}:c{low},c{high}")
    }
}

impl Drop for HeldLevel {
    fn drop(&mut self) {
        let mut held = self.levels.lock();
        if let Some(count) = held.get_mut(&self.pair) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.pair);
            }
        }
    }
}

/// Of `s0:c1,c2`.
fn pair_of(level: &str) -> Option<Pair> {
    let (_, categories) = level.split_once(':')?;
    let (one, other) = categories.split_once(',')?;
    let number = |text: &str| text.strip_prefix('c')?.parse::<u16>().ok();
    let (one, other) = (number(one)?, number(other)?);
    Some((one.min(other), one.max(other)))
}

fn random_pair() -> io::Result<Pair> {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())?;
    let number = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]) % CATEGORIES;
    let (one, other) = (number(0), number(2));
    let pair = (one.min(other), one.max(other));
    // One category alone is no pair.
    Ok(if one == other { after(pair) } else { pair })
}

/// The next pair, round and round.
fn after((low, high): Pair) -> Pair {
    match (high + 1 < CATEGORIES, low + 2 < CATEGORIES) {
        (true, _) => (low, high + 1),
        (false, true) => (low + 1, low + 2),
        (false, false) => (0, 1),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_pair_is_given_once_until_it_is_let_go() {
        let levels = Levels::default();
        let pairs = usize::from(CATEGORIES) * usize::from(CATEGORIES - 1) / 2;
        let mut pair = (0, 1);
        for _ in 0..pairs - 3 {
            levels.lock().insert(pair, 1);
            pair = after(pair);
        }
        let mut held: Vec<_> = (0..3).map(|_| levels.draw().unwrap().unwrap()).collect();
        let drawn: BTreeSet<_> = held.iter().map(|one| one.at("s0")).collect();
        let left = ["s0:c1021,c1022", "s0:c1021,c1023", "s0:c1022,c1023"];
        assert_eq!(drawn, left.map(str::to_owned).into());
        assert!(levels.draw().unwrap().is_none());
        let gone = held.pop().unwrap().at("s0");
        assert_eq!(levels.draw().unwrap().unwrap().at("s0"), gone);
    }

    #[test]
    fn what_a_user_gives_is_not_drawn_while_one_pod_has_it() {
        let levels = Levels::default();
        let (one, two) = (levels.hold("s0:c2,c1"), levels.hold("s0:c1,c2"));
        assert_eq!(levels.lock().get(&(1, 2)), Some(&2));
        drop(one);
        assert_eq!(levels.lock().get(&(1, 2)), Some(&1));
        drop(two);
        assert!(levels.lock().is_empty());
        for none in ["s0", "s0:c1", "s0-s0:c0.c1023", "s0:c1.c3", ""] {
            assert!(levels.hold(none).is_none(), "{none:?}");
        }
    }

    #[test]
    fn pairs_are_of_two_and_come_round() {
        for _ in 0..1000 {
            let (low, high) = random_pair().unwrap();
            assert!(low < high && high < CATEGORIES);
        }
        assert_eq!(after((0, 1)), (0, 2));
        assert_eq!(after((0, 1023)), (1, 2));
        assert_eq!(after((1022, 1023)), (0, 1));
    }
}
