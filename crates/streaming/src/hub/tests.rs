use std::time::Duration;

use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const BOUNDS: Bounds = Bounds {
    stream: 128 * 1024,
    overrun: 256 * 1024,
    connection: 1 << 20,
    streams: 4,
    newcomers: false,
};

/// Takes all that there is to send, and says how many bytes of data were in it.
fn send_all(hub: &Hub) -> usize {
    let sent = std::iter::from_fn(|| hub.next_outgoing()).map(|outgoing| match outgoing {
        Outgoing::Data { payload, .. } => payload.len(),
        _ => 0,
    });
    sent.sum()
}

fn write(half: &mut WriteHalf, bytes: usize) {
    let written = half.write_all(&vec![0; bytes]).now_or_never();
    written.expect("there is room").expect("nothing is lost");
}

#[test]
fn what_was_sent_before_the_first_grant_counts() {
    let hub = Hub::new(BOUNDS, 1);
    let mut half = hub.write_half(hub.open(Vec::new()).unwrap());
    write(&mut half, 1000);
    assert_eq!(send_all(&hub), 1000);
    assert!(hub.receive_grant(0, i32::MAX as u32 - 64 * 1024));
    assert!(hub.receive_grant(0, 1000));
    assert!(!hub.receive_grant(0, 1));
}

#[test]
fn a_window_bounds_what_is_sent_and_a_grant_frees_the_rest() {
    let hub = Hub::new(BOUNDS, 1);
    let id = hub.open(Vec::new()).unwrap();
    let mut half = hub.write_half(id);
    write(&mut half, 100_000);
    assert_eq!(send_all(&hub), 64 * 1024);
    assert!(hub.receive_grant(id, 10));
    assert_eq!(send_all(&hub), 10);
    // A peer that turns out to know no windows gets all of it.
    let hub = Hub::new(BOUNDS, 1);
    let mut half = hub.write_half(hub.open(Vec::new()).unwrap());
    write(&mut half, 100_000);
    hub.presume_heedless();
    assert_eq!(send_all(&hub), 100_000);
}

#[test]
fn streams_are_bounded_and_make_room_when_they_end() {
    let hub = Hub::new(BOUNDS, 2);
    for id in [1, 3, 5, 7] {
        assert!(hub.admit(id));
    }
    assert!(!hub.admit(9));
    hub.receive_reset(3);
    assert!(hub.admit(9));
}

#[tokio::test]
async fn what_came_before_a_reset_is_read_before_it() {
    let hub = Hub::new(BOUNDS, 2);
    assert!(hub.admit(1));
    let mut half = hub.read_half(1);
    hub.receive(1, Bytes::from_static(b"last words")).unwrap();
    hub.receive_reset(1);
    let mut text = Vec::new();
    let error = half.read_to_end(&mut text).await.unwrap_err();
    assert_eq!(text, b"last words");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn an_inbox_over_its_bound_blocks_until_it_is_reset() {
    let hub = Hub::new(BOUNDS, 2);
    for id in [1, 3, 5] {
        assert!(hub.admit(id));
    }
    hub.presume_heedless();
    hub.receive(1, vec![0; BOUNDS.overrun + 1].into()).unwrap();
    assert!(hub.is_blocked());
    assert!(hub.relieve(Duration::from_secs(60), 7).is_some());
    assert!(hub.is_blocked());
    hub.relieve(Duration::ZERO, 7);
    assert!(!hub.is_blocked());
    assert!(matches!(hub.next_outgoing(), Some(Outgoing::Reset(1, 7))));
}

#[test]
fn one_who_comes_behind_what_nobody_reads_is_seen() {
    let bounds = Bounds {
        newcomers: true,
        ..BOUNDS
    };
    let hub = Hub::new(bounds, 2);
    assert!(hub.admit(1));
    assert!(hub.admit(3));
    hub.presume_heedless();
    hub.receive(3, vec![0; BOUNDS.overrun + 1].into()).unwrap();
    assert!(!hub.is_blocked());
    assert!(hub.admit(5));
    assert!(hub.is_blocked());
    hub.receive_reset(5);
    assert!(!hub.is_blocked());
    // And where too much is unread for that, nobody knows who waits.
    hub.receive(3, vec![0; BOUNDS.connection].into()).unwrap();
    assert!(hub.is_blocked());
    hub.relieve(Duration::ZERO, 7);
    assert!(!hub.is_blocked());
}

#[test]
fn where_all_have_a_little_too_much_the_one_with_most_goes() {
    let bounds = Bounds {
        connection: 900_000,
        ..BOUNDS
    };
    let hub = Hub::new(bounds, 2);
    hub.presume_heedless();
    for (id, bytes) in [(1, 220_000), (3, 230_000), (5, 240_000), (7, 229_000)] {
        assert!(!hub.is_blocked());
        assert!(hub.admit(id));
        hub.receive(id, vec![0; bytes].into()).unwrap();
    }
    assert!(hub.is_blocked());
    hub.relieve(Duration::ZERO, 7);
    assert!(!hub.is_blocked());
    assert!(matches!(hub.next_outgoing(), Some(Outgoing::Reset(5, 7))));
    assert!(hub.next_outgoing().is_none());
}

#[tokio::test]
async fn a_window_grows_for_a_reader_that_keeps_up() {
    let hub = Hub::new(BOUNDS, 2);
    assert!(hub.admit(1));
    hub.receive_initial_window(1 << 20);
    let mut half = hub.read_half(1);
    let granted = || {
        let outgoing = std::iter::from_fn(|| hub.next_outgoing());
        outgoing
            .map(|outgoing| match outgoing {
                Outgoing::Grant(1, delta) => delta as usize,
                other => panic!("{other:?}"),
            })
            .sum::<usize>()
    };
    let mut bytes = vec![0; BOUNDS.stream];
    // Half of the window is unread: it is as wide as before.
    hub.receive(1, vec![0; BOUNDS.stream].into()).unwrap();
    half.read_exact(&mut bytes[..BOUNDS.stream / 2])
        .await
        .unwrap();
    assert_eq!(granted(), BOUNDS.stream / 2);
    // All of it is read: twice as wide, and no wider than an inbox may be.
    half.read_exact(&mut bytes[..BOUNDS.stream / 2])
        .await
        .unwrap();
    assert_eq!(granted(), BOUNDS.stream / 2 + BOUNDS.stream);
    for _ in 0..4 {
        hub.receive(1, vec![0; BOUNDS.stream].into()).unwrap();
        half.read_exact(&mut bytes).await.unwrap();
        assert_eq!(granted(), BOUNDS.stream);
    }
    hub.receive(1, vec![0; BOUNDS.overrun].into()).unwrap();
    assert!(hub.receive(1, Bytes::from_static(b"x")).is_err());
}

/// Where a grant is due is a matter of sizes alone.
#[tokio::test]
async fn a_window_grows_half_way_through_what_came_last() {
    let hub = Hub::new(BOUNDS, 2);
    assert!(hub.admit(1));
    hub.receive_initial_window(1 << 20);
    let mut half = hub.read_half(1);
    let mut bytes = vec![0; BOUNDS.stream / 4];
    hub.receive(1, vec![0; BOUNDS.stream / 4].into()).unwrap();
    half.read_exact(&mut bytes).await.unwrap();
    assert!(hub.next_outgoing().is_none());
    hub.receive(1, vec![0; BOUNDS.stream / 2].into()).unwrap();
    half.read_exact(&mut bytes).await.unwrap();
    let granted = BOUNDS.stream / 2 + BOUNDS.stream;
    assert!(
        matches!(hub.next_outgoing(), Some(Outgoing::Grant(1, delta)) if delta as usize == granted)
    );
}
