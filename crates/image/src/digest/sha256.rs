use sha2::block_api::compress256;

const BLOCK_BYTES: usize = 64;

/// FIPS 180-4, 5.3.3.
const START: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// A SHA-256 in the making, which can go on together with another: that is what sha2's own has not. The rounds are sha2's.
pub(crate) struct Sha256 {
    state: [u32; 8],
    /// Hashed and waiting.
    bytes: u64,
    /// What waits for the rest of its block.
    block: [u8; BLOCK_BYTES],
}

impl Sha256 {
    pub(super) fn new() -> Self {
        Self {
            state: START,
            bytes: 0,
            block: [0; BLOCK_BYTES],
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        let blocks = self.begin(bytes);
        self.take(blocks);
    }

    /// Both at once: where the processor can, in two thirds of the time as far as the shorter one goes.
    pub(super) fn update_both([one, other]: [&mut Self; 2], [ours, others]: [&[u8]; 2]) {
        let (ours, others) = (one.begin(ours), other.begin(others));
        let both = ours.len().min(others.len());
        let states = [&mut one.state, &mut other.state];
        let done = match sys::compress_two_sha256(states, [ours, others]) {
            true => both,
            false => 0,
        };
        one.take(&ours[done..]);
        other.take(&others[done..]);
    }

    pub(super) fn finish(mut self) -> [u8; 32] {
        let bits = self.bytes.wrapping_mul(8);
        // A bit, then zeros as far as the last block's length field (5.1.1).
        let mut padding = [0; BLOCK_BYTES];
        padding[0] = 0x80;
        let waiting = self.waiting();
        let end = BLOCK_BYTES - size_of::<u64>();
        let length = match waiting < end {
            true => end - waiting,
            false => end + BLOCK_BYTES - waiting,
        };
        self.update(&padding[..length]);
        self.update(&bits.to_be_bytes());
        let mut digest = [0; 32];
        for (bytes, word) in digest.as_chunks_mut().0.iter_mut().zip(self.state) {
            *bytes = word.to_be_bytes();
        }
        digest
    }

    fn waiting(&self) -> usize {
        (self.bytes % BLOCK_BYTES as u64) as usize
    }

    /// Completes the block that waits, and keeps the last bytes back. The caller takes the whole blocks between them.
    fn begin<'a>(&mut self, mut bytes: &'a [u8]) -> &'a [[u8; BLOCK_BYTES]] {
        let waiting = self.waiting();
        self.bytes += bytes.len() as u64;
        if waiting > 0 {
            let (first, rest) = bytes.split_at(bytes.len().min(BLOCK_BYTES - waiting));
            self.block[waiting..][..first.len()].copy_from_slice(first);
            if waiting + first.len() < BLOCK_BYTES {
                return &[];
            }
            compress256(&mut self.state, &[self.block]);
            bytes = rest;
        }
        let (blocks, last) = bytes.as_chunks();
        self.block[..last.len()].copy_from_slice(last);
        blocks
    }

    fn take(&mut self, blocks: &[[u8; BLOCK_BYTES]]) {
        compress256(&mut self.state, blocks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right(bytes: &[u8]) -> [u8; 32] {
        sha2::Digest::finalize(<sha2::Sha256 as sha2::Digest>::new_with_prefix(bytes)).into()
    }

    /// Bytes without a period of a block.
    fn bytes(seed: u32, length: usize) -> Vec<u8> {
        (0..length as u32)
            .map(|index| (index.wrapping_mul(0x9e37_79b1) ^ seed).to_be_bytes()[1])
            .collect()
    }

    #[test]
    fn lengths_around_the_ends_of_blocks() {
        for length in 0..300 {
            let bytes = bytes(1, length);
            let mut whole = Sha256::new();
            whole.update(&bytes);
            assert_eq!(whole.finish(), right(&bytes), "{length}");
            for step in [1, 7, 63, 64, 65] {
                let mut pieces = Sha256::new();
                for piece in bytes.chunks(step) {
                    pieces.update(piece);
                }
                assert_eq!(pieces.finish(), right(&bytes), "{length} by {step}");
            }
        }
    }

    #[test]
    fn two_at_once_are_as_good_as_one_by_one() {
        let (first, second) = (bytes(2, 20_000), bytes(3, 9_000));
        let steps = [0, 1, 5, 55, 64, 128, 200, 1000, 4096];
        for (shift, start) in steps.into_iter().enumerate() {
            let (mut one, mut other) = (Sha256::new(), Sha256::new());
            one.update(&first[..start]);
            let (mut ours, mut others) = (&first[start..], &second[..]);
            for turn in 0.. {
                if ours.is_empty() && others.is_empty() {
                    break;
                }
                let length = |bytes: &[u8], turn: usize| bytes.len().min(steps[turn % steps.len()]);
                let (now, later) = ours.split_at(length(ours, turn + shift));
                let (now_other, later_other) = others.split_at(length(others, turn * 5));
                Sha256::update_both([&mut one, &mut other], [now, now_other]);
                (ours, others) = (later, later_other);
            }
            assert_eq!(one.finish(), right(&first), "from {start}");
            assert_eq!(other.finish(), right(&second), "from {start}");
        }
    }
}
