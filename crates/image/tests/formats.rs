//! Layers and digests as others make them: chunked compression is read as what it is compatible with, and digests are of the
//! specification's algorithms.

#![allow(clippy::unwrap_used)] // Helpers are no tests to clippy.

mod support;

use std::io::Read;

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
    Layer::new().file("noise", 0o644, noise(500_000)).tar()
}

/// Layers that can be fetched in pieces, made by others (samples/README.md): with the media type's end, an annotation, and the archive.
fn chunked() -> [(&'static str, &'static str, &'static [u8], Vec<u8>); 2] {
    let gzip: &[u8] = include_bytes!("samples/estargz.tar.gz");
    let zstd: &[u8] = include_bytes!("samples/zstd-chunked.tar.zst");
    // They end as their formats say, or would be plain layers indeed.
    assert_eq!(&gzip[gzip.len() - 51 + 32..][..6], b"STARGZ");
    assert_eq!(&zstd[zstd.len() - 8..], b"GNUlInUx");
    let mut inflated = Vec::new();
    let mut members = flate2::read::MultiGzDecoder::new(gzip);
    members.read_to_end(&mut inflated).unwrap();
    let decoded = zstd::decode_all(zstd).unwrap();
    [
        (
            "+gzip",
            "containerd.io/snapshot/stargz/toc.digest",
            gzip,
            inflated,
        ),
        (
            "+zstd",
            "io.github.containers.zstd-chunked.manifest-checksum",
            zstd,
            decoded,
        ),
    ]
}

#[tokio::test]
async fn chunked_layers_of_others_are_plain_ones() {
    let registry = Registry::start().unwrap();
    for (suffix, annotation, bytes, tar) in chunked() {
        let store = Store::open().await;
        let annotations = json!({annotation: sha256(b"toc")});
        let layer = Blob::new(format!("{LAYER}{suffix}"), bytes);
        let reference = push(&registry, layer, &sha256(&tar), annotations.clone());
        let pulled = store.pull(&reference).await.unwrap();
        let mut files = Vec::new();
        for entry in tar::Archive::new(&*tar).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_str().unwrap().to_owned();
            if entry.header().entry_type().is_file() && !path.contains(".wh.") {
                let mut contents = Vec::new();
                entry.read_to_end(&mut contents).unwrap();
                assert_eq!(store.read(&pulled, &path), contents, "{suffix} {path}");
                files.push(path.trim_start_matches("./").to_owned());
            }
        }
        for file in ["bin/tool", "etc/words", "var/zeros", "var/empty"] {
            assert!(files.iter().any(|name| name == file), "{suffix} {files:?}");
        }
        let tool = store.stat(&pulled, "bin/tool");
        assert_eq!((tool.st_mode & 0o7777, tool.st_nlink), (0o4755, 2));
        let words = store.stat(&pulled, "etc/words");
        assert_eq!((words.st_uid, words.st_gid), (7, 8));
        let link = store.stat(&pulled, "bin/link").st_ino;
        assert_ne!(link, tool.st_ino, "{suffix}");
        store.images.remove(&reference).await.unwrap();
        store.settles_empty().await;

        // One that ends in the midst of a chunk.
        let cut = Blob::new(format!("{LAYER}{suffix}"), &bytes[..bytes.len() / 2]);
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
