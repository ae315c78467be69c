//! Bytes of a WebSocket connection, whole and in parts: both ways of reading them must come to the same.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use streaming::websocket::{
    Codec,
    codec::{Message, Messages},
    frame::{Decoder, Event, Side},
};

const LONGEST: u64 = 4096;
const CHANNELS: usize = 5;

#[derive(Debug, PartialEq)]
enum Read {
    Byte(u8, u8),
    End(u8),
    Ping(Vec<u8>),
    Close(Option<u16>),
    Broken(String),
}

fuzz_target!(|input: &[u8]| {
    let Some((&[kind, step], bytes)) = input.split_first_chunk() else {
        return;
    };
    let codec = Codec {
        base64: kind & 1 != 0,
        closes: kind & 2 != 0,
    };
    let side = if kind & 4 != 0 { Side::Client } else { Side::Server };
    let whole = read(side, codec, bytes.chunks(bytes.len().max(1)));
    let parts = read(side, codec, bytes.chunks(usize::from(step).max(1)));
    assert_eq!(whole, parts);
});

fn read<'a>(side: Side, codec: Codec, chunks: impl Iterator<Item = &'a [u8]>) -> Vec<Read> {
    let mut decoder = Decoder::new(side, LONGEST);
    let (mut messages, mut all) = (Messages::new(codec, CHANNELS), Vec::new());
    for chunk in chunks {
        let (mut chunk, mut at) = (chunk.to_vec(), 0);
        loop {
            let event = match decoder.decode(&mut chunk, &mut at) {
                Ok(None) => break,
                Ok(Some(event)) => event,
                Err(error) => {
                    all.push(Read::Broken(error.to_string()));
                    return all;
                }
            };
            match event {
                Event::Part { kind, bytes, end } => {
                    let part = Bytes::copy_from_slice(&chunk[bytes]);
                    match messages.read(kind, part, end) {
                        Ok(Some(Message::Data { channel, bytes })) => {
                            assert!(usize::from(channel) < CHANNELS);
                            all.extend(bytes.iter().map(|byte| Read::Byte(channel, *byte)));
                        }
                        Ok(Some(Message::End { channel })) => all.push(Read::End(channel)),
                        Ok(None) => {}
                        Err(error) => {
                            all.push(Read::Broken(error.to_string()));
                            return all;
                        }
                    }
                }
                Event::Ping(said) => all.push(Read::Ping(said)),
                Event::Pong => {}
                Event::Close(code) => all.push(Read::Close(code)),
            }
        }
    }
    all
}
