//! Bytes in the order in which they came, in pieces: what is large is passed on as it is, what is small is gathered.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use tokio::io::ReadBuf;

/// Bytes that are gathered in one piece at most.
const PIECE: usize = super::FRAME;

/// From this size on a piece of foreign memory is kept as it is. A smaller one would hold more memory than it is worth.
const LARGE: usize = PIECE / 2;

#[derive(Debug, Default)]
pub(super) struct Pieces {
    whole: VecDeque<Bytes>,
    /// What is still gathered, behind the others.
    last: BytesMut,
    len: usize,
}

impl Pieces {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends bytes, without copying those of a large piece.
    pub(super) fn push(&mut self, piece: Bytes) {
        if piece.len() < LARGE {
            return self.extend(&piece);
        }
        self.len += piece.len();
        self.seal();
        self.whole.push_back(piece);
    }

    /// Appends a copy.
    pub(super) fn extend(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len();
        while !bytes.is_empty() {
            if self.last.len() == PIECE {
                self.seal();
            }
            let (now, later) = bytes.split_at(bytes.len().min(PIECE - self.last.len()));
            if now.len() >= LARGE {
                // More of the like will come: growing step by step would copy it again and again.
                self.last.reserve(PIECE - self.last.len());
            }
            self.last.extend_from_slice(now);
            bytes = later;
        }
    }

    fn seal(&mut self) {
        if !self.last.is_empty() {
            let last = std::mem::take(&mut self.last);
            self.whole.push_back(last.freeze());
        }
    }

    /// Takes off the first bytes: those of a piece, and `most` at most. Taken whole, a piece takes its memory along: an idle stream holds none.
    pub(super) fn take(&mut self, most: usize) -> Bytes {
        let taken = match self.whole.front_mut() {
            Some(first) if first.len() > most => first.split_to(most),
            Some(_) => self.whole.pop_front().unwrap_or_default(),
            None if self.last.len() > most => self.last.split_to(most).freeze(),
            None => std::mem::take(&mut self.last).freeze(),
        };
        self.len -= taken.len();
        if self.len == 0 {
            self.whole = VecDeque::new();
        }
        taken
    }

    /// Moves up to `most` bytes, as they are; how many they were.
    pub(super) fn move_to(&mut self, most: usize, target: &mut VecDeque<Bytes>) -> usize {
        let mut moved = 0;
        while !self.is_empty() && moved < most {
            let piece = self.take(most - moved);
            moved += piece.len();
            target.push_back(piece);
        }
        moved
    }

    /// Moves as much as fits; how much it was.
    pub(super) fn read(&mut self, target: &mut ReadBuf<'_>) -> usize {
        let before = self.len;
        while !self.is_empty() && target.remaining() > 0 {
            target.put_slice(&self.take(target.remaining()));
        }
        before - self.len
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn all_comes_out_in_order(
            steps in proptest::collection::vec((any::<bool>(), 0..3 * PIECE, 1..3 * PIECE), 1..20)
        ) {
            let (mut pieces, mut expected, mut seen) = (Pieces::default(), Vec::new(), Vec::new());
            for (at, (shared, length, most)) in steps.into_iter().enumerate() {
                let bytes: Vec<u8> = (0..length).map(|byte| (byte * 7 + at) as u8).collect();
                expected.extend_from_slice(&bytes);
                match shared {
                    true => pieces.push(bytes.into()),
                    false => pieces.extend(&bytes),
                }
                let taken = pieces.take(most);
                prop_assert!(taken.len() <= most);
                prop_assert_eq!(taken.is_empty(), seen.len() == expected.len());
                seen.extend_from_slice(&taken);
                prop_assert_eq!(pieces.len(), expected.len() - seen.len());
            }
            let mut rest = vec![0; pieces.len() + 1];
            let mut target = ReadBuf::new(&mut rest);
            prop_assert_eq!(pieces.read(&mut target), expected.len() - seen.len());
            seen.extend_from_slice(target.filled());
            prop_assert!(pieces.is_empty() && seen == expected);
        }
    }
}
