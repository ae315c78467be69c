use std::collections::BTreeSet;

/// Which of a subnet's places are taken. The next one given is the one after the last, so an address rests before it is used again.
#[derive(Debug)]
pub(super) struct Pool {
    capacity: u64,
    taken: BTreeSet<u64>,
    next: u64,
}

impl Pool {
    pub(super) fn new(capacity: u64) -> Pool {
        Pool {
            capacity,
            taken: BTreeSet::new(),
            next: 0,
        }
    }

    /// `None`: all are taken.
    pub(super) fn take(&mut self) -> Option<u64> {
        let free = (self.next..self.capacity)
            .chain(0..self.next)
            .find(|index| !self.taken.contains(index))?;
        self.occupy(free);
        Some(free)
    }

    /// Takes a particular place.
    pub(super) fn occupy(&mut self, index: u64) {
        self.taken.insert(index);
        self.next = (index + 1) % self.capacity;
    }

    pub(super) fn give_back(&mut self, index: u64) {
        self.taken.remove(&index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_rests_before_it_is_given_again() {
        let mut pool = Pool::new(3);
        assert_eq!((pool.take(), pool.take()), (Some(0), Some(1)));
        pool.give_back(0);
        assert_eq!(pool.take(), Some(2));
        assert_eq!(pool.take(), Some(0));
        assert_eq!(pool.take(), None);
        pool.give_back(1);
        pool.give_back(1);
        assert_eq!(pool.take(), Some(1));
    }
}
