use proptest::prelude::*;

use super::*;

const LIMIT: usize = 16 * 1024;

fn headers() -> impl Strategy<Value = Headers> {
    proptest::collection::btree_map("[a-z-]{1,10}", "[ -~]{0,30}", 0..5)
        .prop_map(|map| map.into_iter().collect())
}

fn frame() -> impl Strategy<Value = Frame> {
    let id = 1..1_u32 << 31;
    prop_oneof![
        (id.clone(), any::<bool>(), headers()).prop_map(|(stream, end, headers)| {
            Frame::SynStream {
                stream,
                end,
                headers,
            }
        }),
        (id.clone(), any::<bool>(), headers()).prop_map(|(stream, end, headers)| Frame::SynReply {
            stream,
            end,
            headers
        }),
        (id.clone(), any::<bool>(), headers()).prop_map(|(stream, end, headers)| Frame::Headers {
            stream,
            end,
            headers
        }),
        (id.clone(), any::<u32>()).prop_map(|(stream, status)| Frame::RstStream { stream, status }),
        proptest::option::of(0..1_u32 << 31)
            .prop_map(|initial_window| Frame::Settings { initial_window }),
        any::<u32>().prop_map(Frame::Ping),
        (0..1_u32 << 31, any::<u32>()).prop_map(|(last, status)| Frame::GoAway { last, status }),
        (0..1_u32 << 31, 0..1_u32 << 31)
            .prop_map(|(stream, delta)| Frame::WindowUpdate { stream, delta }),
        (10..1000_u16).prop_map(Frame::Unknown),
    ]
}

/// A frame of either kind.
#[derive(Debug, Clone)]
enum Sent {
    Control(Frame),
    Data(u32, Vec<u8>, bool),
}

fn sent() -> impl Strategy<Value = Sent> {
    let bytes = proptest::collection::vec(any::<u8>(), 0..50);
    prop_oneof![
        frame().prop_map(Sent::Control),
        (1..1_u32 << 31, bytes, any::<bool>())
            .prop_map(|(stream, bytes, end)| Sent::Data(stream, bytes, end)),
    ]
}

proptest! {
    /// However the bytes are cut up on their way, what was sent arrives.
    #[test]
    fn what_was_sent_arrives(all in proptest::collection::vec(sent(), 0..12), cut in 1..80_usize) {
        let (mut encoder, mut wire) = (Encoder::default(), Vec::new());
        for one in &all {
            match one {
                Sent::Control(frame) => encoder.control(frame, &mut wire),
                Sent::Data(stream, bytes, end) => {
                    wire.extend_from_slice(&data_head(*stream, bytes.len(), *end));
                    wire.extend_from_slice(bytes);
                }
            }
        }
        let mut decoder = Decoder::new(LIMIT);
        let (mut controls, mut data) = (Vec::new(), Vec::new());
        for mut part in wire.chunks(cut) {
            while let Some(event) = decoder.decode(&mut part).unwrap() {
                match event {
                    Event::Control(frame) => controls.push(frame),
                    Event::Data { stream, bytes, end } => {
                        data.extend(bytes.iter().map(|byte| (stream, Some(*byte))));
                        data.extend(end.then_some((stream, None)));
                    }
                }
            }
        }
        let mut expected = (Vec::new(), Vec::new());
        for one in all {
            match one {
                Sent::Control(frame) => expected.0.push(frame),
                Sent::Data(stream, bytes, end) => {
                    expected.1.extend(bytes.iter().map(|byte| (stream, Some(*byte))));
                    expected.1.extend(end.then_some((stream, None)));
                }
            }
        }
        prop_assert_eq!((controls, data), expected);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut decoder = Decoder::new(LIMIT);
        let mut rest = &bytes[..];
        while let Ok(Some(_)) = decoder.decode(&mut rest) {}
    }
}

fn decode(bytes: &[u8]) -> Result<Option<Event<'_>>, FrameError> {
    Decoder::new(LIMIT).decode(&mut &bytes[..])
}

#[test]
fn broken_frames_are_named() {
    for (bytes, error) in [
        (&[0x80, 2, 0, 1, 0, 0, 0, 0][..], FrameError::Version(2)),
        (&[0, 0, 0, 0, 0, 0, 0, 1, 9], FrameError::StreamZero),
        (
            &[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff],
            FrameError::TooLong {
                length: 0x00ff_ffff,
                most: LIMIT + 16,
            },
        ),
        (&[0x80, 3, 0, 6, 0, 0, 0, 2, 1, 2], FrameError::Truncated(6)),
        (
            &[0x80, 3, 0, 4, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff],
            FrameError::Truncated(4),
        ),
        (
            &[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1],
            FrameError::StreamZero,
        ),
    ] {
        assert_eq!(decode(bytes), Err(error));
    }
}

#[test]
fn types_of_the_future_are_passed_over() {
    let bytes = [0x80, 3, 0, 99, 0, 0, 0, 2, 1, 2];
    assert_eq!(decode(&bytes), Ok(Some(Event::Control(Frame::Unknown(99)))));
}
