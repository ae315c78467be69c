//! The rounds of SHA-256 for two streams by turns (FIPS 180-4, 6.2.2).
//!
//! Each of a processor's SHA instructions waits for the one before. Those of another stream need not: in the same time they hash half as much again.

/// Takes as many blocks of both streams as the shorter has, into the two states. False, with nothing done, where the processor has no such instructions.
pub fn compress_two_sha256(states: [&mut [u32; 8]; 2], blocks: [&[[u8; 64]]; 2]) -> bool {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("sha")
        && is_x86_feature_detected!("sse4.1")
        && is_x86_feature_detected!("ssse3")
    {
        // SAFETY: the processor has just been found to have the three sets of instructions.
        unsafe { x86::compress(states, blocks) };
        return true;
    }
    let _ = (states, blocks);
    false
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_set_epi32, _mm_set_epi64x,
        _mm_setzero_si128, _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32,
        _mm_shuffle_epi8, _mm_shuffle_epi32,
    };

    /// The standard's constants (4.2.2), as they are used: four turns of the sixteen words, four words at once.
    #[rustfmt::skip]
    const CONSTANTS: [[[u32; 4]; 4]; 4] = [
        [
            [0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5],
            [0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5],
            [0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3],
            [0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174],
        ],
        [
            [0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc],
            [0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da],
            [0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7],
            [0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967],
        ],
        [
            [0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13],
            [0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85],
            [0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3],
            [0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070],
        ],
        [
            [0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5],
            [0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3],
            [0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208],
            [0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2],
        ],
    ];

    #[derive(Clone, Copy)]
    struct Lane {
        /// The state's words a, b, e and f, from the highest, as the instructions want them.
        abef: __m128i,
        cdgh: __m128i,
        /// The last sixteen words of the message schedule.
        words: [__m128i; 4],
    }

    #[target_feature(enable = "sha,sse4.1,ssse3")]
    pub(super) fn compress([one, other]: [&mut [u32; 8]; 2], blocks: [&[[u8; 64]]; 2]) {
        let mut lanes = [lane(one), lane(other)];
        for (first, second) in blocks[0].iter().zip(blocks[1]) {
            let before = lanes;
            take(&mut lanes[0], first);
            take(&mut lanes[1], second);
            let [scheduling @ .., last] = &CONSTANTS;
            for turn in scheduling {
                for (word, constants) in turn.iter().enumerate() {
                    rounds(&mut lanes[0], word, constants);
                    rounds(&mut lanes[1], word, constants);
                    schedule(&mut lanes[0], word);
                    schedule(&mut lanes[1], word);
                }
            }
            for (word, constants) in last.iter().enumerate() {
                rounds(&mut lanes[0], word, constants);
                rounds(&mut lanes[1], word, constants);
            }
            for (lane, before) in lanes.iter_mut().zip(before) {
                lane.abef = _mm_add_epi32(lane.abef, before.abef);
                lane.cdgh = _mm_add_epi32(lane.cdgh, before.cdgh);
            }
        }
        *one = state(&lanes[0]);
        *other = state(&lanes[1]);
    }

    /// The block's words, most significant byte first.
    #[inline]
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    fn take(lane: &mut Lane, block: &[u8; 64]) {
        let order = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
        for (word, bytes) in lane.words.iter_mut().zip(block.as_chunks().0) {
            let four = u128::from_le_bytes(*bytes);
            *word = _mm_shuffle_epi8(_mm_set_epi64x((four >> 64) as i64, four as i64), order);
        }
    }

    /// Four rounds.
    #[inline]
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    fn rounds(lane: &mut Lane, word: usize, &[a, b, c, d]: &[u32; 4]) {
        let constants = _mm_set_epi32(d as i32, c as i32, b as i32, a as i32);
        let sum = _mm_add_epi32(lane.words[word], constants);
        lane.cdgh = _mm_sha256rnds2_epu32(lane.cdgh, lane.abef, sum);
        let upper = _mm_shuffle_epi32(sum, 0b1110);
        lane.abef = _mm_sha256rnds2_epu32(lane.abef, lane.cdgh, upper);
    }

    /// Puts the schedule's next four words in the place of the oldest, which have been used.
    #[inline]
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    fn schedule(lane: &mut Lane, word: usize) {
        let [oldest, next, late, latest] = [0, 1, 2, 3].map(|age| lane.words[(word + age) % 4]);
        let seventh = _mm_alignr_epi8(latest, late, 4);
        let sum = _mm_add_epi32(_mm_sha256msg1_epu32(oldest, next), seventh);
        lane.words[word] = _mm_sha256msg2_epu32(sum, latest);
    }

    #[inline]
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    fn lane(&state: &[u32; 8]) -> Lane {
        let [a, b, c, d, e, f, g, h] = state.map(|word| word as i32);
        Lane {
            abef: _mm_set_epi32(a, b, e, f),
            cdgh: _mm_set_epi32(c, d, g, h),
            words: [_mm_setzero_si128(); 4],
        }
    }

    #[inline]
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    fn state(lane: &Lane) -> [u32; 8] {
        let (abef, cdgh) = (lane.abef, lane.cdgh);
        [
            _mm_extract_epi32(abef, 3),
            _mm_extract_epi32(abef, 2),
            _mm_extract_epi32(cdgh, 3),
            _mm_extract_epi32(cdgh, 2),
            _mm_extract_epi32(abef, 1),
            _mm_extract_epi32(abef, 0),
            _mm_extract_epi32(cdgh, 1),
            _mm_extract_epi32(cdgh, 0),
        ]
        .map(|word| word as u32)
    }
}
