//! Bytes of a SPDY connection, whole and in parts: both ways of reading them must come to the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use streaming::spdy::frame::{Decoder, Event, Frame};

const HEADERS: usize = 4096;

#[derive(Debug, PartialEq)]
enum Read {
    Control(Frame),
    Byte(u32, u8),
    End(u32),
    Broken(String),
}

fuzz_target!(|input: &[u8]| {
    let Some((&step, bytes)) = input.split_first() else {
        return;
    };
    let whole = read(bytes.chunks(bytes.len().max(1)));
    let parts = read(bytes.chunks(usize::from(step).max(1)));
    assert_eq!(whole, parts);
});

fn read<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Vec<Read> {
    let (mut decoder, mut all) = (Decoder::new(HEADERS), Vec::new());
    for mut chunk in chunks {
        loop {
            match decoder.decode(&mut chunk) {
                Ok(None) => break,
                Ok(Some(Event::Control(frame))) => all.push(Read::Control(frame)),
                Ok(Some(Event::Data { stream, bytes, end })) => {
                    all.extend(bytes.iter().map(|byte| Read::Byte(stream, *byte)));
                    all.extend(end.then_some(Read::End(stream)));
                }
                Err(error) => {
                    all.push(Read::Broken(error.to_string()));
                    return all;
                }
            }
        }
    }
    all
}
