use proptest::prelude::*;

use super::*;

const LONGEST: u64 = 100_000;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Read {
    Message(Kind, Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Close(Option<u16>),
}

/// Reads in chunks of `step` bytes, and puts messages together.
fn read(side: Side, bytes: &[u8], step: usize) -> Result<Vec<Read>, FrameError> {
    let (mut decoder, mut all, mut message) = (Decoder::new(side, LONGEST), Vec::new(), Vec::new());
    for chunk in bytes.chunks(step) {
        let (mut chunk, mut at) = (chunk.to_vec(), 0);
        while let Some(event) = decoder.decode(&mut chunk, &mut at)? {
            all.push(match event {
                Event::Part { kind, bytes, end } => {
                    message.extend_from_slice(&chunk[bytes]);
                    if !end {
                        continue;
                    }
                    Read::Message(kind, std::mem::take(&mut message))
                }
                Event::Ping(said) => Read::Ping(said),
                Event::Pong => Read::Pong,
                Event::Close(code) => Read::Close(code),
            });
        }
        assert_eq!(at, chunk.len());
    }
    Ok(all)
}

/// A frame as a client or a server sends it.
fn frame(opcode: u8, bytes: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let head = head(opcode, bytes.len(), key);
    let mut frame = head.as_bytes().to_vec();
    let mut bytes = bytes.to_vec();
    mask(&mut bytes, key.unwrap_or_default());
    frame.extend(bytes);
    frame
}

fn parts() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![0..10_usize, 120..130_usize, 65_530..65_540_usize];
    (length, any::<u8>()).prop_map(|(length, first)| {
        let byte = |at: usize| (at * 7) as u8 ^ first;
        (0..length).map(byte).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read_however_it_comes(
        messages in proptest::collection::vec(parts(), 1..4),
        key in proptest::option::of(any::<[u8; 4]>()),
        step in 1..70_000_usize,
    ) {
        let side = if key.is_some() { Side::Server } else { Side::Client };
        let (mut bytes, mut wanted) = (Vec::new(), Vec::new());
        for message in messages {
            bytes.extend(frame(BINARY, &message, key));
            bytes.extend(frame(PING, b"there?", key));
            wanted.extend([Read::Message(Kind::Binary, message), Read::Ping(b"there?".to_vec())]);
        }
        bytes.extend(frame(CLOSE, &[0x03, 0xe8, b'b', b'y', b'e'], key));
        wanted.push(Read::Close(Some(close::NORMAL)));
        prop_assert_eq!(read(side, &bytes, step).unwrap(), wanted);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), step in 1..40_usize) {
        for side in [Side::Client, Side::Server] {
            prop_assert_eq!(read(side, &bytes, step).ok(), read(side, &bytes, 1000).ok());
        }
    }

    #[test]
    fn masking_twice_is_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..50), key in any::<[u8; 4]>()) {
        let mut masked = bytes.clone();
        mask(&mut masked, key);
        let one_by_one: Vec<u8> = bytes.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        prop_assert_eq!(&masked, &one_by_one);
        mask(&mut masked, key);
        prop_assert_eq!(masked, bytes);
    }
}

/// RFC 6455, 5.7.
#[test]
fn the_examples_of_the_specification() {
    let hello = [Read::Message(Kind::Text, b"Hello".to_vec())];
    let whole = [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
    let masked = [
        0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
    ];
    let parts = [0x01, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f];
    for step in 1..12 {
        assert_eq!(read(Side::Client, &whole, step).unwrap(), hello);
        assert_eq!(read(Side::Server, &masked, step).unwrap(), hello);
        assert_eq!(read(Side::Client, &parts, step).unwrap(), hello);
    }
}

#[test]
fn control_frames_come_between_the_parts_of_a_message() {
    let bytes = [
        0x02, 1, b'a', 0x89, 1, b'?', 0x00, 0, 0x8a, 0, 0x80, 1, b'b',
    ];
    let wanted = [
        Read::Ping(b"?".to_vec()),
        Read::Pong,
        Read::Message(Kind::Binary, b"ab".to_vec()),
    ];
    for step in 1..14 {
        assert_eq!(read(Side::Client, &bytes, step).unwrap(), wanted);
    }
    let empty = [0x82, 0, 0x02, 0, 0x80, 0, 0x88, 0];
    let nothing = Read::Message(Kind::Binary, Vec::new());
    let wanted = [nothing.clone(), nothing, Read::Close(None)];
    assert_eq!(read(Side::Client, &empty, 1).unwrap(), wanted);
}

#[test]
fn what_is_no_frame_is_named() {
    for (bytes, error) in [
        (&[0xc2, 0x80][..], FrameError::Reserved),
        (&[0x83, 0x80], FrameError::Opcode(3)),
        (&[0x8b, 0x80], FrameError::Opcode(11)),
        (&[0x82, 0x01], FrameError::Unmasked),
        (&[0x09, 0x80], FrameError::Control),
        (&[0x89, 0xfe], FrameError::Control),
        (&[0x80, 0x80], FrameError::Continuation),
        (
            &[0x02, 0x80, 0, 0, 0, 0, 0x82, 0x80],
            FrameError::Interrupted,
        ),
        (&[0x88, 0x81, 0, 0, 0, 0, 3], FrameError::Close),
        (&[0x88, 0x82, 0, 0, 0, 0, 3, 0xed], FrameError::Close),
        (&[0x88, 0x83, 0, 0, 0, 0, 3, 0xe8, 0xff], FrameError::Close),
        (
            &[
                0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0,
            ],
            FrameError::TooLong(LONGEST),
        ),
    ] {
        for step in [1, 100] {
            assert_eq!(read(Side::Server, bytes, step), Err(error), "{bytes:02x?}");
        }
    }
    assert_eq!(
        read(Side::Client, &[0x82, 0x80], 9),
        Err(FrameError::Masked)
    );
    // In parts that are none of them too long.
    let mut long = frame(TEXT, &[b'x'; 60_000], Some([1, 2, 3, 4]));
    long[0] = TEXT;
    long.extend(frame(CONTINUATION, &[b'x'; 60_000], Some([1, 2, 3, 4])));
    let error = read(Side::Server, &long, 1000).unwrap_err();
    assert_eq!(
        (error, error.code()),
        (FrameError::TooLong(LONGEST), close::TOO_LONG)
    );
}
