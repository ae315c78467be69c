//! Memory for bytes on their way.

use std::collections::VecDeque;

use bytes::Bytes;

/// Chunks that are remembered: as many as an inbox holds where one end does not keep pace with the other.
const MOST: usize = 8;

/// Memory that is read into, passed on, and read into again once nobody holds it any more. An allocator would do the same, but tends to give hundreds
/// of KiB back to the kernel and take them again, for the next chunk: pages that come and go cost more than what is copied into them.
#[derive(Debug, Default)]
pub struct Chunks {
    lent: VecDeque<Bytes>,
}

impl Chunks {
    /// An empty chunk with room for `size` bytes at least.
    #[must_use]
    pub fn take(&mut self, size: usize) -> Vec<u8> {
        let free = self.lent.iter().position(Bytes::is_unique);
        if let Some(mut free) = free.and_then(|at| self.lent.remove(at)) {
            free.truncate(0);
            let chunk = Vec::from(free);
            // Of a stream that carries more than before, or less, it is let go.
            if (size..=size * 2).contains(&chunk.capacity()) {
                return chunk;
            }
        }
        Vec::with_capacity(size)
    }

    /// What the chunk has become. It is used again when the last clone and slice of it has been dropped.
    #[must_use]
    pub fn lend(&mut self, chunk: Vec<u8>) -> Bytes {
        let bytes = Bytes::from(chunk);
        if self.lent.len() == MOST {
            self.lent.pop_front();
        }
        self.lent.push_back(bytes.clone());
        bytes
    }

    /// A chunk that nothing was read into.
    pub fn give_back(&mut self, chunk: Vec<u8>) {
        self.lent.push_front(Bytes::from(chunk));
    }

    /// Whether anything is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lent.is_empty()
    }

    /// Lets go of what is remembered: nobody who waits holds memory.
    pub fn forget(&mut self) {
        self.lent = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_holds_is_used_again() {
        let mut chunks = Chunks::default();
        let mut chunk = chunks.take(1000);
        chunk.extend_from_slice(b"first");
        let address = chunk.as_ptr();
        let bytes = chunks.lend(chunk);
        let part = bytes.slice(2..);
        drop(bytes);
        let other = chunks.take(1000);
        assert_ne!(other.as_ptr(), address, "somebody has a part of it");
        assert_eq!(part, &b"rst"[..]);
        drop(part);
        let again = chunks.take(1000);
        assert_eq!((again.as_ptr(), again.len()), (address, 0));
        assert!(again.capacity() >= 1000);
    }

    /// A reader keeps the end of one until the next has come.
    #[test]
    fn one_that_is_kept_is_not_waited_for() {
        let mut chunks = Chunks::default();
        let lend = |chunks: &mut Chunks| {
            let mut chunk = chunks.take(1000);
            chunk.push(0);
            let address = chunk.as_ptr().addr();
            (chunks.lend(chunk), address)
        };
        let (kept, first) = lend(&mut chunks);
        let (given_back, second) = lend(&mut chunks);
        drop(given_back);
        let again = chunks.take(1000);
        assert_eq!(again.as_ptr().addr(), second);
        drop(kept);
        let again = chunks.take(1000);
        assert_eq!(again.as_ptr().addr(), first);
    }

    #[test]
    fn few_are_remembered_and_only_of_the_size_that_is_wanted() {
        let mut chunks = Chunks::default();
        let held: Vec<Bytes> = (0..10)
            .map(|_| {
                let chunk = chunks.take(1000);
                chunks.lend(chunk)
            })
            .collect();
        assert_eq!(chunks.lent.len(), MOST);
        drop(held);
        assert!(chunks.take(5000).capacity() >= 5000);
        assert!(chunks.take(10).capacity() < 1000);
        chunks.forget();
        assert!(chunks.is_empty());
    }
}
