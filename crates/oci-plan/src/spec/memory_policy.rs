//! `linux.memoryPolicy`.

use oci_spec::runtime::{
    LinuxMemoryPolicy, MemoryPolicyFlagType as Flag, MemoryPolicyModeType as Mode,
};

use super::{SpecError, invalid};
use crate::MemoryPolicy;

/// The most nodes that Linux can be built for.
const MOST_NODES: u32 = 1024;

pub(super) fn memory_policy(given: &LinuxMemoryPolicy) -> Result<MemoryPolicy, SpecError> {
    // linux/mempolicy.h
    let mode = match given.mode() {
        Mode::MpolDefault => 0,
        Mode::MpolPreferred => 1,
        Mode::MpolBind => 2,
        Mode::MpolInterleave => 3,
        Mode::MpolLocal => 4,
        Mode::MpolPreferredMany => 5,
        Mode::MpolWeightedInterleave => 6,
    };
    let flags = given.flags().iter().flatten().map(|flag| match flag {
        Flag::MpolFStaticNodes => 1 << 15,
        Flag::MpolFRelativeNodes => 1 << 14,
        Flag::MpolFNumaBalancing => 1 << 13,
    });
    Ok(MemoryPolicy {
        mode: flags.fold(mode, |all, flag: u32| all | flag),
        nodes: nodes(given.nodes().as_deref().unwrap_or_default())?,
    })
}

/// `0-3,7` as bits.
fn nodes(list: &str) -> Result<Vec<u64>, SpecError> {
    let mut bits: Vec<u64> = Vec::new();
    for part in list.split(',').filter(|_| !list.trim().is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| {
            text.trim()
                .parse::<u32>()
                .ok()
                .filter(|node| *node < MOST_NODES)
        };
        let range = number(first).zip(number(last));
        let Some((first, last)) = range.filter(|(first, last)| first <= last) else {
            let reason = "name nodes as in 0-3,7, each below 1024";
            return Err(invalid("linux.memoryPolicy.nodes", list, reason));
        };
        for node in first..=last {
            let (word, bit) = ((node / u64::BITS) as usize, node % u64::BITS);
            if bits.len() <= word {
                bits.resize(word + 1, 0);
            }
            bits[word] |= 1 << bit;
        }
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_bits() {
        assert_eq!(nodes("").unwrap(), [0_u64; 0]);
        assert_eq!(nodes("0-3,7").unwrap(), [0b1000_1111]);
        assert_eq!(nodes("64").unwrap(), [0, 1]);
        for wrong in ["x", "1024", "-1", "1-", ",", "3-1"] {
            let error = nodes(wrong).unwrap_err().to_string();
            assert!(error.contains("linux.memoryPolicy.nodes"), "{error}");
        }
    }
}
