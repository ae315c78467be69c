//! The name of an image, as people write it.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| image::fuzzing::reference(text));
