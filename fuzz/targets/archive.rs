//! Bytes of a layer's archive, whole and in parts of as many bytes as the first says.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&step, bytes)) = input.split_first() else {
        return;
    };
    let mut bytes = bytes.to_vec();
    image::fuzzing::add_up(&mut bytes);
    image::fuzzing::archive(step, &bytes);
});
