use std::path::Path;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{Found, LoadRequest, images, layers_of, verify};
use crate::Reference;
use crate::image::ParsedConfig;
use crate::spool::Spool;

/// An archive's files may have so many bytes together.
const LIMIT: u64 = 1 << 20;

/// Not a power of two, so that headers lie across pieces.
const PIECE_BYTES: usize = 4093;

/// All that is done with an archive before a layer of it is unpacked. `parent` is an empty directory, and stays one.
pub(crate) fn look_through(parent: &Path, archive: &[u8], name: Option<String>) {
    let pieces = archive.chunks(PIECE_BYTES);
    let (sender, chunks) = mpsc::channel(pieces.len().max(1));
    for piece in pieces {
        let sent = sender.try_send(Bytes::copy_from_slice(piece));
        assert!(sent.is_ok(), "there is room for every piece");
    }
    drop(sender);
    let spool = Spool::new(parent);
    if let Ok(mut spool) = spool
        && spool.fill(chunks, LIMIT).is_ok()
        && let Ok(found) = images(&spool, &LoadRequest { name, root: None })
    {
        for image in &found {
            holds(&spool, image);
        }
    }
    let left = parent.read_dir().map(Iterator::count);
    assert!(left.is_ok_and(|left| left == 0), "something is left");
}

fn holds(spool: &Spool, image: &Found) {
    let manifest = &image.manifest;
    assert!(manifest.layers.len() <= snapshot::MAX_LAYERS);
    assert!(manifest.config.digest.matches(&image.config_json));
    let last = image.digests.last();
    assert!(last.is_some_and(|digest| digest.matches(&image.manifest_bytes)));
    for name in &image.names {
        let canonical = name.canonical();
        let again = Reference::parse(&canonical);
        assert!(again.is_ok_and(|again| again.canonical() == canonical));
    }
    if verify(spool, &manifest.layers).is_ok() {
        for layer in &manifest.layers {
            let file = spool.blob(layer.digest.as_str());
            let bytes = file.and_then(|file| std::fs::read(&file.path).ok());
            assert!(bytes.is_some_and(|bytes| layer.digest.matches(&bytes)));
        }
    }
    if let Ok(parsed) = ParsedConfig::parse(&image.config_json)
        && let Ok((layers, _)) = layers_of(image, &parsed)
    {
        assert_eq!(layers.len(), manifest.layers.len());
    }
}
