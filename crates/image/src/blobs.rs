//! Compressed layers that are kept: all with `keep_blobs`, otherwise those that no registry could give again.
//!
//! A blob is wanted as long as an image keeps it, or somebody reads or makes it; what is not wanted is removed with the next
//! sweep, and at the start.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use snapshot::{Overlay, Usage};

use crate::StoreError;
use crate::catalogue::Catalogue;
use crate::shelf::Shelf;
use crate::store::{BlobRecord, ImageRecord};

/// Where they are, each by its digest.
pub(crate) fn directory(overlay: &Overlay) -> PathBuf {
    overlay.root().join("blobs")
}

/// `sha256:…` is `sha256-…`.
pub(crate) fn file_name(digest: &str) -> String {
    digest.replacen(':', "-", 1)
}

impl Shelf {
    /// Where the compressed form of a layer is, if it is kept.
    pub(crate) fn blob_path(&self, digest: &str) -> PathBuf {
        directory(&self.overlay).join(file_name(digest))
    }

    /// Moves a verified blob to its place. The caller has reserved it. Blocks.
    pub(crate) fn keep_blob(&self, path: &Path, digest: &str) -> Result<(), StoreError> {
        let place = self.blob_path(digest);
        fs::rename(path, &place).map_err(StoreError::path("rename a blob to", &place))?;
        let stat = fs::symlink_metadata(&place).map_err(StoreError::path("look at", &place))?;
        self.write().blobs.insert(file_name(digest), usage(&stat));
        Ok(())
    }

    /// Keeps a verified file of an archive, in which several layers and images may share it. The caller has reserved it. What comes from no
    /// registry cannot be had again, and is on the disk when this returns. Blocks.
    pub(crate) fn keep_file(&self, path: &Path, digest: &str) -> Result<(), StoreError> {
        File::open(path)
            .and_then(|file| file.sync_all())
            .map_err(StoreError::path("sync", path))?;
        let link = path.with_extension("kept");
        match fs::hard_link(path, &link) {
            // Renaming it to the place where it was already has left it here.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(StoreError::path("link", &link)(error))
            }
            _ => self.keep_blob(&link, digest),
        }
    }

    /// Keeps blobs, here already or not yet, from being swept.
    pub(crate) fn reserve_blobs(self: &Arc<Self>, blobs: &[BlobRecord]) -> BlobReservation {
        let names: Vec<String> = blobs.iter().map(|blob| file_name(&blob.digest)).collect();
        let mut catalogue = self.write();
        for name in &names {
            *catalogue.reserved_blobs.entry(name.clone()).or_default() += 1;
        }
        drop(catalogue);
        BlobReservation {
            shelf: Arc::clone(self),
            names,
        }
    }
}

/// See [`Shelf::reserve_blobs`].
#[derive(Debug)]
pub(crate) struct BlobReservation {
    shelf: Arc<Shelf>,
    names: Vec<String>,
}

impl Drop for BlobReservation {
    fn drop(&mut self) {
        let mut catalogue = self.shelf.write();
        for name in &self.names {
            if let Some(count) = catalogue.reserved_blobs.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    catalogue.reserved_blobs.remove(name);
                }
            }
        }
        drop(catalogue);
        self.shelf.sweep_behind();
    }
}

impl Catalogue {
    /// Takes what is there into account.
    pub(crate) fn find_blobs(&mut self, overlay: &Overlay) -> Result<(), StoreError> {
        let directory = directory(overlay);
        let failed = || StoreError::path("read", &directory);
        for entry in fs::read_dir(&directory).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            if let Ok(name) = entry.file_name().into_string() {
                let stat = entry.metadata().map_err(failed())?;
                self.blobs.insert(name, usage(&stat));
            }
        }
        Ok(())
    }

    /// The names of what no image has and nobody has reserved, which are taken out.
    pub(crate) fn take_garbage_blobs(&mut self) -> Vec<String> {
        let named: BTreeSet<String> = (self.entries())
            .flat_map(|entry| entry.record.kept_blobs())
            .collect();
        let wanted = |name: &String| named.contains(name) || self.reserved_blobs.contains_key(name);
        let garbage: Vec<String> = self
            .blobs
            .keys()
            .filter(|name| !wanted(name))
            .cloned()
            .collect();
        for name in &garbage {
            self.blobs.remove(name);
        }
        garbage
    }
}

impl ImageRecord {
    /// The names of the blobs that are kept for the image, as far as they are here.
    pub(crate) fn kept_blobs(&self) -> BTreeSet<String> {
        let blobs = self.blobs.iter().filter(|_| self.keeps_blobs);
        blobs.map(|blob| file_name(&blob.digest)).collect()
    }
}

fn usage(stat: &fs::Metadata) -> Usage {
    Usage {
        bytes: stat.blocks() * 512,
        inodes: 1,
    }
}
