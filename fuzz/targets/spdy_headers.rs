//! A block of SPDY headers, inflated already: stored in a zlib stream as it is, so that the fuzzer need not learn to compress. What is
//! read must be written and read again as the same, and be within its bounds.

#![no_main]

use libfuzzer_sys::fuzz_target;
use streaming::spdy::frame::{Decoder, Encoder, Event, Frame};

const HEADERS: usize = 4096;

fuzz_target!(|block: &[u8]| {
    let Ok(length) = u16::try_from(block.len()) else {
        return;
    };
    // HEADERS, stream 1; zlib with SPDY's dictionary; one stored block, and an empty one.
    let mut body = vec![0, 0, 0, 1, 0x78, 0x20, 0xe3, 0xc6, 0xa7, 0xc2, 0];
    body.extend_from_slice(&length.to_le_bytes());
    body.extend_from_slice(&(!length).to_le_bytes());
    body.extend_from_slice(block);
    body.extend_from_slice(&[0, 0, 0, 0xff, 0xff]);
    let [_, size @ ..] = u32::try_from(body.len()).unwrap().to_be_bytes();
    let mut bytes = vec![0x80, 3, 0, 8, 0];
    bytes.extend_from_slice(&size);
    bytes.extend_from_slice(&body);
    let Some(frame) = decode(&bytes) else {
        return;
    };
    let Frame::Headers { headers, .. } = &frame else {
        panic!("{frame:?}");
    };
    let size: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    assert!(size <= HEADERS);
    let mut again = Vec::new();
    Encoder::default().control(&frame, &mut again);
    assert_eq!(decode(&again), Some(frame));
});

fn decode(bytes: &[u8]) -> Option<Frame> {
    match Decoder::new(HEADERS).decode(&mut &bytes[..]) {
        Ok(Some(Event::Control(frame))) => Some(frame),
        Ok(_) => panic!("a whole frame is one"),
        Err(_) => None,
    }
}
