//! A manifest, an index or a configuration; the first byte chooses what the server calls it.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Some((&called, bytes)) = input.split_first() {
        image::fuzzing::documents(called, bytes);
    }
});
