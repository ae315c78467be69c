//! A message of a WebSocket session: its first byte chooses the subprotocol and how many channels there are.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use streaming::websocket::{Codec, codec::Message};

fuzz_target!(|input: &[u8]| {
    let Some((&kind, message)) = input.split_first() else {
        return;
    };
    let codec = Codec {
        base64: kind & 1 != 0,
        closes: kind & 2 != 0,
    };
    let channels = usize::from(kind >> 2);
    match codec.decode(&Bytes::copy_from_slice(message), channels) {
        Ok(Message::Data { channel, bytes }) => {
            assert!(usize::from(channel) < channels);
            assert!(bytes.len() < message.len());
            let again = Bytes::from(codec.encode(channel, &bytes));
            assert_eq!(codec.decode(&again, channels), Ok(Message::Data { channel, bytes }));
        }
        Ok(Message::End { channel }) => {
            assert!(codec.closes && usize::from(channel) < channels);
            assert_eq!(codec.encode_end(channel).unwrap(), message);
        }
        Err(_) => {}
    }
});
