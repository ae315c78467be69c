/// Chance that is the same for the same seed (Marsaglia's xorshift64*): it makes orders, and keeps no secrets.
#[derive(Debug, Clone)]
pub(crate) struct Order(u64);

impl Order {
    pub(crate) fn new(seed: u64) -> Self {
        // Zero would stay zero; and neighbouring seeds should not begin alike.
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`; 0 where that is 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        match bound {
            0 => 0,
            bound => (number % bound as u64) as usize,
        }
    }

    /// The numbers below `count`, in some order (Fisher and Yates).
    pub(crate) fn shuffled(&mut self, count: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            all.swap(last, self.below(last + 1));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_comes_and_a_seed_repeats_them() {
        let orders = |seed| {
            let mut order = Order::new(seed);
            (0..100).map(|_| order.shuffled(3)).collect::<Vec<_>>()
        };
        let mut seen = orders(4);
        assert_eq!(seen, orders(4));
        assert_ne!(seen, orders(5));
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 6);
    }
}
