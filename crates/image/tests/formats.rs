//! Layers and digests as others make them: chunked compression is read as what it is compatible with, and digests are of the
//! specification's algorithms.

#![allow(clippy::unwrap_used)] // Helpers are no tests to clippy.

mod support;

use std::io::Write;

use longshore_image::PullErrorKind;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha384, Sha512};
use support::{Store, text};
use testkit::image::{Blob, Layer, noise, sha256};
use testkit::registry::Registry;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image of one layer under `app:v1`; its reference.
fn push(registry: &Registry, layer: Blob, diff_id: &str, annotations: Value) -> String {
    let architecture = testkit::image::ImageBuilder::new().build().architecture;
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    });
    let config = Blob::new(CONFIG, config.to_string());
    let mut descriptor = layer.descriptor();
    descriptor["annotations"] = annotations;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.descriptor(),
        "layers": [descriptor],
    });
    registry.push_blobs("app", [&config, &layer]);
    registry.push_manifest("app", "v1", &Blob::new(MANIFEST, manifest.to_string()))
}

fn tar() -> Vec<u8> {
    Layer::new()
        .file("stargz.index.json", 0o644, "{\"version\":1,\"entries\":[]}")
        .file(".prefetch.landmark", 0o644, [0xf])
        .file("noise", 0o644, noise(500_000))
        .file("zeros", 0o644, vec![0; 500_000])
        .tar()
}

/// A gzip member for each piece, and a last one that is empty and says where the table of contents is (stargz-snapshotter's estargz.md).
fn estargz(tar: &[u8]) -> Vec<u8> {
    let mut layer = Vec::new();
    for piece in tar.chunks(100_000) {
        let mut member = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        member.write_all(piece).unwrap();
        layer.extend(member.finish().unwrap());
    }
    let mut extra = b"SG\x16\0".to_vec();
    extra.extend(format!("{:016x}STARGZ", 0).bytes());
    let builder = flate2::GzBuilder::new().extra(extra);
    let footer = builder.write(Vec::new(), flate2::Compression::none());
    layer.extend(footer.finish().unwrap());
    layer
}

/// A frame for each piece, and skippable ones with the table of contents and its place (containers/storage, pkg/chunked).
fn zstd_chunked(tar: &[u8]) -> Vec<u8> {
    let skippable = |bytes: &[u8]| {
        let length = u32::try_from(bytes.len()).unwrap();
        [&0x184d_2a50_u32.to_le_bytes(), &length.to_le_bytes(), bytes].concat()
    };
    let mut layer = Vec::new();
    for piece in tar.chunks(100_000) {
        layer.extend(zstd::encode_all(piece, 3).unwrap());
    }
    layer.extend(skippable(
        &zstd::encode_all(&b"{\"version\":1}"[..], 3).unwrap(),
    ));
    layer.extend(skippable(&[&[0; 56], &b"GNUlInUx"[..]].concat()));
    layer
}

#[tokio::test]
async fn chunked_layers_are_read_as_plain_ones() {
    let registry = Registry::start().unwrap();
    let tar = tar();
    for (suffix, bytes, annotation) in [
        (
            "+gzip",
            estargz(&tar),
            "containerd.io/snapshot/stargz/toc.digest",
        ),
        (
            "+zstd",
            zstd_chunked(&tar),
            "io.github.containers.zstd-chunked.manifest-checksum",
        ),
    ] {
        let store = Store::open().await;
        let layer = Blob::new(format!("{LAYER}{suffix}"), bytes.clone());
        let annotations = json!({annotation: sha256(b"toc")});
        let reference = push(&registry, layer, &sha256(&tar), annotations.clone());
        let pulled = store.pull(&reference).await.unwrap();
        assert_eq!(store.read(&pulled, "noise"), noise(500_000), "{suffix}");
        assert_eq!(store.read(&pulled, "zeros"), vec![0; 500_000], "{suffix}");
        store.images.remove(&reference).await.unwrap();
        store.settles_empty().await;

        // One that ends in the midst of a piece.
        let cut = Blob::new(
            format!("{LAYER}{suffix}"),
            bytes[..bytes.len() / 2].to_vec(),
        );
        let reference = push(&registry, cut, &sha256(&tar), annotations);
        let refused = store.pull(&reference).await.unwrap_err();
        assert_eq!(
            refused.kind(),
            PullErrorKind::DataLoss,
            "{}",
            text(&refused)
        );
        store.settles_empty().await;
    }
}

#[tokio::test]
async fn sha512_is_as_good_as_sha256_and_sha384_is_refused_by_name() {
    let registry = Registry::start().unwrap();
    let tar = tar();
    let sha512 = format!("sha512:{}", hex::encode(Sha512::digest(&tar)));
    let layer = Blob {
        media_type: LAYER.to_owned(),
        digest: sha512.clone(),
        bytes: tar.clone().into(),
    };
    let reference = push(&registry, layer.clone(), &sha512, json!({}));
    let mut store = Store::open().await;
    let pulled = store.pull(&reference).await.unwrap();
    store = store.reopen().await;
    assert_eq!(store.read(&pulled, "noise"), noise(500_000));
    store.images.remove(&reference).await.unwrap();
    store.settles_empty().await;

    let wrong = Blob {
        bytes: Layer::new().file("other", 0o644, "").tar().into(),
        ..layer
    };
    let reference = push(&registry, wrong, &sha512, json!({}));
    let refused = store.pull(&reference).await.unwrap_err();
    assert_eq!(
        refused.kind(),
        PullErrorKind::DataLoss,
        "{}",
        text(&refused)
    );

    let sha384 = format!("sha384:{}", hex::encode(Sha384::digest(&tar)));
    let layer = Blob {
        media_type: LAYER.to_owned(),
        digest: sha384.clone(),
        bytes: tar.clone().into(),
    };
    let named = format!("{}@{sha384}", registry.reference("app", "v1"));
    // In a manifest it is that document's fault, in a reference the caller's.
    for (reference, kind) in [
        (
            push(&registry, layer, &sha256(&tar), json!({})),
            PullErrorKind::DataLoss,
        ),
        (named, PullErrorKind::InvalidArgument),
    ] {
        let refused = store.pull(&reference).await.unwrap_err();
        assert_eq!(refused.kind(), kind, "{}", text(&refused));
        assert!(text(&refused).contains("sha384"), "{}", text(&refused));
    }
    let plain = Blob::new(LAYER, tar);
    let reference = push(&registry, plain, &sha384, json!({}));
    let refused = store.pull(&reference).await.unwrap_err();
    assert!(text(&refused).contains("sha384"), "{}", text(&refused));
    store.settles_empty().await;
}
