//! A layer from its compressed bytes to its directory.

use super::*;

async fn pipeline(compressed: &[u8], tar: &[u8], parent: &Path) -> Result<Unpacked, LayerError> {
    let expected = Expected {
        digest: Digest::of(compressed),
        size: compressed.len() as u64,
        diff_id: Digest::of(tar),
        limit: 1 << 30,
        keep: None,
    };
    let (sink, network) = tokio::sync::mpsc::channel(2);
    let pieces: Vec<_> = compressed
        .chunks(3000)
        .map(bytes::Bytes::copy_from_slice)
        .collect();
    tokio::spawn(async move {
        for piece in pieces {
            if sink.send(piece).await.is_err() {
                return;
            }
        }
    });
    let ingest = Ingest::new(parent, &Failpoints::default()).unwrap();
    unpack(expected, network, ingest, Below::Unknown).await
}

#[tokio::test]
async fn every_compression_and_every_damage() {
    use std::io::Write;
    let parent = tempfile::tempdir().unwrap();
    let mut layer = Layer::new();
    for index in 0..50 {
        layer = layer.file(
            &format!("file-{index}"),
            0o644,
            format!("{index}").repeat(3000),
        );
    }
    let mut tar = layer.tar();
    // What follows the end of the archive is part of the diffID.
    tar.extend_from_slice(&[0; 5000]);
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let half = tar.len() / 2;
    let members = [gzip(&tar[..half]), gzip(&tar[half..])].concat();
    let skippable = [
        &[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4][..],
        &zstd(&tar),
    ]
    .concat();
    for compressed in [gzip(&tar), zstd(&tar), tar.clone(), members, skippable] {
        match pipeline(&compressed, &tar, parent.path()).await.unwrap() {
            Unpacked::Whole {
                ingest,
                depends,
                usage,
            } => {
                assert!(!depends);
                // The index is one more.
                assert_eq!(usage.inodes, 52);
                assert_eq!(
                    fs::read_to_string(ingest.path().join("file-7")).unwrap(),
                    "7".repeat(3000)
                );
            }
            Unpacked::NeedsBelow => panic!(),
        }
    }
    let garbage = [gzip(&tar), b"garbage".to_vec()].concat();
    let cut = gzip(&tar)[..1000].to_vec();
    let cut_zstd = zstd(&tar)[..200].to_vec();
    for damaged in [
        garbage,
        cut,
        cut_zstd,
        tar[..600].to_vec(),
        vec![0x1f, 0x8b],
        Vec::new(),
        b"no archive at all".to_vec(),
    ] {
        let error = pipeline(&damaged, &tar, parent.path()).await.unwrap_err();
        assert_eq!(error.kind(), crate::PullErrorKind::DataLoss, "{error:?}");
    }
    let error = pipeline(&gzip(&tar), b"other", parent.path())
        .await
        .unwrap_err();
    assert!(matches!(error, LayerError::DiffId { .. }), "{error:?}");
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
}
