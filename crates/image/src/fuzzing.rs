//! What the fuzz targets call: parsers of foreign bytes, and what must hold of whatever they make of them.

use std::collections::BTreeSet;
use std::io::{BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use crate::image::ParsedConfig;
use crate::load::fuzzing as load;
use crate::manifest::{DOCKER_LIST, DOCKER_MANIFEST, Document, OCI_INDEX, OCI_MANIFEST, Platform};
use crate::unpack::fuzzing as unpack;
use crate::{Digest, Reference};

/// A reference: all spellings of a name come to one, which is a spelling of itself.
pub fn reference(text: &str) {
    let Ok(reference) = Reference::parse(text) else {
        return;
    };
    let canonical = reference.canonical();
    let again = Reference::parse(&canonical);
    assert!(again.is_ok_and(|again| again.canonical() == canonical));
    assert!(!reference.path().is_empty() && !reference.path().contains(".."));
    assert!(canonical.is_ascii() && !canonical.contains(char::is_whitespace));
    assert!(canonical.starts_with(&reference.repository()));
}

/// A manifest or an index, by what a server calls it; and as a configuration.
pub fn documents(called: u8, bytes: &[u8]) {
    let types = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST, ""];
    let content_type = types[usize::from(called) % types.len()];
    match Document::parse(bytes, content_type) {
        Ok(Document::Index(entries)) => {
            if let Ok(chosen) = Platform::of_this_machine().choose(&entries) {
                assert!(entries.iter().any(|entry| entry.descriptor == *chosen));
            }
        }
        Ok(Document::Manifest(manifest)) => {
            let digests: BTreeSet<_> = (manifest.layers.iter())
                .chain([&manifest.config])
                .map(|descriptor| descriptor.digest.as_str())
                .collect();
            assert!(digests.iter().all(|digest| digest.starts_with("sha")));
        }
        Err(_) => {}
    }
    if let Ok(parsed) = ParsedConfig::parse(bytes) {
        assert!(parsed.config.volumes.is_sorted());
    }
}

/// An archive, whole and in parts: both ways of reading it must come to the same.
pub fn archive(step: u8, bytes: &[u8]) {
    let whole = unpack::members(bytes);
    let parts = unpack::members(BufReader::with_capacity(usize::from(step).max(1), bytes));
    assert_eq!(whole, parts);
}

/// An archive, extracted to `root`, an empty directory.
pub fn extract(root: OwnedFd, archive: impl Read) {
    unpack::extract(root, BufReader::new(archive));
}

/// An archive of images, looked through in `parent`, an empty directory, and called `name` where that is one.
pub fn load(parent: &Path, archive: &[u8], name: &str) {
    let name = (!name.is_empty()).then(|| name.to_owned());
    load::look_through(parent, archive, name);
}

/// The hexadecimal digits of some bytes' SHA-256.
pub fn sha256(bytes: &[u8]) -> String {
    Digest::of(bytes).hex().to_owned()
}

/// Makes the checksums of an archive's headers right: the fuzzer need not learn to add.
pub fn add_up(archive: &mut [u8]) {
    for block in archive.chunks_exact_mut(512) {
        // A header by its magic; in contents it does no harm.
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

/// Removes what [`extract`] has made, and the directory.
///
/// # Panics
/// It cannot be removed.
pub fn remove(path: &Path) {
    assert!(snapshot::remove_tree(path).is_ok(), "{}", path.display());
}
