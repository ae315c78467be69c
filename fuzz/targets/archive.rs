//! Bytes of a layer's archive, whole and in parts of as many bytes as the first says. Checksums are made right first: the fuzzer need not
//! learn to add.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&step, bytes)) = input.split_first() else {
        return;
    };
    let mut bytes = bytes.to_vec();
    for block in bytes.chunks_exact_mut(512) {
        // A header by its magic; in contents it does no harm.
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    image::fuzzing::archive(step, &bytes);
});
