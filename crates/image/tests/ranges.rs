//! Large layers come in several requests at once, where the server has ranges.

#![allow(clippy::unwrap_used)] // Helpers are no tests to clippy.

mod support;

use std::ops::Range;

use longshore_image::PullErrorKind;
use support::{Store, text};
use testkit::image::{Compression, Image, ImageBuilder, Layer, noise};
use testkit::registry::{Fault, Registry, Rule};

const RANGE: u64 = 64 << 10;

fn large() -> Image {
    let layer = Layer::new().file("noise", 0o644, noise(1 << 20));
    ImageBuilder::new()
        .layer(layer.compression(Compression::None))
        .build()
}

async fn store() -> Store {
    Store::open_with(|config| config.range_bytes = RANGE).await
}

/// What was asked for of the layer, in the order of the requests; all of it where no range was named.
fn asked(registry: &Registry, image: &Image) -> Vec<Option<Range<u64>>> {
    let requests = registry.requests().into_iter();
    let requests = requests.filter(|request| request.path.contains(&*image.layers[0].digest));
    requests
        .map(|request| {
            let range = request.range?;
            let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
            Some(first.parse().unwrap()..last.parse::<u64>().map_or(u64::MAX, |last| last + 1))
        })
        .collect()
}

#[tokio::test]
async fn ranges_cover_the_layer_once() {
    let registry = Registry::start().unwrap();
    let built = large();
    registry.push("app", "v1", &built);
    let store = store().await;
    let pulled = store.pull(&registry.reference("app", "v1")).await.unwrap();
    assert_eq!(store.read(&pulled, "noise"), noise(1 << 20));
    let mut ranges: Vec<_> = asked(&registry, &built).into_iter().flatten().collect();
    ranges.sort_by_key(|range| range.start);
    let size = built.layers[0].bytes.len() as u64;
    let starts = (0..size).step_by(RANGE as usize);
    let expected: Vec<_> = starts
        .map(|start| start..(start + RANGE).min(size))
        .collect();
    assert_eq!(ranges, expected);
    store.images.remove(&pulled.id).await.unwrap();

    // Three of them at once: no more is in memory than one for each and what may be beside.
    let layers = [3, 5, 7].map(|seed| {
        let bytes: Vec<u8> = noise(1 << 20).iter().map(|byte| byte ^ seed).collect();
        Layer::new()
            .file("noise", 0o644, bytes)
            .compression(Compression::None)
    });
    let several = layers
        .into_iter()
        .fold(ImageBuilder::new(), ImageBuilder::layer);
    registry.push("several", "v1", &several.build());
    let pulled = store
        .pull(&registry.reference("several", "v1"))
        .await
        .unwrap();
    let last: Vec<u8> = noise(1 << 20).iter().map(|byte| byte ^ 7).collect();
    assert_eq!(store.read(&pulled, "noise"), last);
}

#[tokio::test]
async fn several_are_asked_for_before_the_first_is_answered_in_full() {
    let registry = Registry::start().unwrap();
    let built = large();
    registry.push("app", "v1", &built);
    let blob = &*built.layers[0].digest;
    // The first stalls in its middle; the others do not wait for it, and none of them is handed over before it.
    registry.inject(Rule::new(blob, Fault::Stall(1000)).times(1));
    let store = store().await;
    let pulled = store.pull(&registry.reference("app", "v1")).await.unwrap();
    assert_eq!(store.read(&pulled, "noise"), noise(1 << 20));
    let asked = asked(&registry, &built);
    let mut first: Vec<u64> = (asked[..4].iter())
        .map(|range| range.clone().unwrap().start)
        .collect();
    first.sort_unstable();
    assert_eq!(first, [0, RANGE, 2 * RANGE, 3 * RANGE]);
    assert_eq!(asked[4], Some(0..RANGE), "{asked:?}");
}

#[tokio::test]
async fn servers_without_ranges_or_with_others_are_read_from_the_beginning() {
    let built = large();
    let blob = &*built.layers[0].digest;
    for (rule, whole) in [
        (Rule::new(blob, Fault::NoRanges), 0),
        (Rule::new(blob, Fault::OtherRange), 1),
        // After some were right.
        (Rule::new(blob, Fault::NoRanges).after(5), 1),
        (Rule::new(blob, Fault::OtherRange).after(5), 1),
    ] {
        let registry = Registry::start().unwrap();
        registry.push("app", "v1", &built);
        registry.inject(rule.clone());
        let store = store().await;
        let pulled = store.pull(&registry.reference("app", "v1")).await;
        let pulled = pulled.unwrap_or_else(|error| panic!("{rule:?}: {}", text(&error)));
        assert_eq!(store.read(&pulled, "noise"), noise(1 << 20));
        let asked = asked(&registry, &built);
        let found = asked.iter().filter(|range| range.is_none()).count();
        assert_eq!(found, whole, "{rule:?}: {asked:?}");
    }
}

#[tokio::test]
async fn a_range_that_fails_is_asked_for_again_and_wrong_bytes_are_found() {
    let registry = Registry::start().unwrap();
    let built = large();
    registry.push("app", "v1", &built);
    let blob = &*built.layers[0].digest;
    for fault in [Fault::Status(500), Fault::Status(429), Fault::Truncate(100)] {
        registry.heal();
        registry.inject(Rule::new(blob, fault.clone()).after(5).times(1));
        let store = store().await;
        let pulled = store.pull(&registry.reference("app", "v1")).await;
        let pulled = pulled.unwrap_or_else(|error| panic!("{fault:?}: {}", text(&error)));
        assert_eq!(store.read(&pulled, "noise"), noise(1 << 20));
    }
    registry.heal();
    registry.inject(Rule::new(blob, Fault::Corrupt).after(5).times(1));
    let store = store().await;
    let refused = store
        .pull(&registry.reference("app", "v1"))
        .await
        .unwrap_err();
    assert_eq!(
        refused.kind(),
        PullErrorKind::DataLoss,
        "{}",
        text(&refused)
    );
    registry.heal();
    registry.inject(Rule::new(blob, Fault::Status(404)).after(5));
    let refused = store
        .pull(&registry.reference("app", "v1"))
        .await
        .unwrap_err();
    assert_eq!(
        refused.kind(),
        PullErrorKind::NotFound,
        "{}",
        text(&refused)
    );
    store.settles_empty().await;
}
