//! Layers that have been replaced while containers were mounted on them.
//!
//! Overlayfs does not bear changes below it, and a mounted directory that is removed is empty. So a repaired layer gets a directory of its
//! own, which takes the name of the damaged one at once; that one moves here, where the containers that were made on it go on with it as
//! it is. It goes when the last of them does. A container that is made afterwards has the repaired one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use snapshot::{LayerKey, Usage};

use crate::StoreError;

#[derive(Debug, Clone)]
pub(crate) struct Retired {
    pub(crate) path: PathBuf,
    pub(crate) usage: Usage,
    /// Pins that were there when it was replaced.
    pub(crate) holders: BTreeSet<String>,
}

impl Retired {
    pub(crate) fn is_free(&self, pins: &BTreeMap<String, String>) -> bool {
        !self.holders.iter().any(|pin| pins.contains_key(pin))
    }
}

/// A new place for what is replaced in this boot; no mount outlives the boot.
pub(crate) fn place(directory: &Path, boot_id: &str, key: &LayerKey) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    directory.join(format!("{boot_id}.{key}.{}-{number}", std::process::id()))
}

/// What an earlier daemon has retired in this boot. Who is mounted on it is not recorded: all pins of images with the layer count.
pub(crate) fn found(
    directory: &Path,
    names: &[String],
    boot_id: &str,
    holders: impl Fn(&LayerKey) -> BTreeSet<String>,
) -> Result<Vec<Retired>, StoreError> {
    let mut found = Vec::new();
    for name in names {
        let mut parts = name.split('.');
        let of_this_boot = parts.next() == Some(boot_id);
        let key = parts.next().and_then(|key| LayerKey::parse(key).ok());
        let Some(key) = key.filter(|_| of_this_boot) else {
            continue;
        };
        let path = directory.join(name);
        let usage = snapshot::measure(&path)
            .map_err(|errno| StoreError::path("measure", &path)(errno.into()))?;
        found.push(Retired {
            holders: holders(&key),
            path,
            usage,
        });
    }
    Ok(found)
}
