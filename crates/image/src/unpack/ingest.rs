use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::CWD;
use rustix::io::Errno;

use crate::StoreError;
use crate::failpoint::Failpoints;

/// A directory in which a layer is made; gone when dropped, unless [`Ingest::publish`] has moved it into its place.
#[derive(Debug)]
pub(crate) struct Ingest {
    path: PathBuf,
    published: bool,
    failpoints: Failpoints,
}

impl Ingest {
    /// A new empty directory in `parent`, which nobody else can enter.
    pub(crate) fn new(parent: &Path, failpoints: &Failpoints) -> Result<Self, StoreError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("{}-{number}", std::process::id()));
        // The layer's root: an archive that describes it changes this mode.
        fs::DirBuilder::new()
            .mode(0o755)
            .create(&path)
            .map_err(StoreError::path("make", &path))?;
        // The process's umask may have taken bits away.
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .map_err(StoreError::path("set the mode of", &path))?;
        failpoints.reach("ingest-made")?;
        Ok(Self {
            path,
            published: false,
            failpoints: failpoints.clone(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the layer's index is written, beside it.
    pub(crate) fn index_path(&self) -> PathBuf {
        self.path.with_extension("index")
    }

    /// Where the layer's compressed form is written if it is to be kept.
    pub(crate) fn blob_path(&self) -> PathBuf {
        self.path.with_extension("blob")
    }

    /// Renames the directory to `target`, and its index to `index` before. If the target exists already, it is another pull's work on the same
    /// layer, and as good. The caller holds the right to place layers.
    pub(crate) fn publish(mut self, target: &Path, index: &Path) -> Result<(), StoreError> {
        if target.exists() {
            return Ok(());
        }
        fs::rename(self.index_path(), index)
            .map_err(StoreError::path("rename an index to", index))?;
        self.failpoints.reach("index-placed")?;
        match fs::rename(&self.path, target) {
            Ok(()) => {
                self.published = true;
                Ok(())
            }
            Err(error) => Err(StoreError::path("rename a layer to", target)(error)),
        }
    }

    /// Takes the place of a layer that is there, at once for whoever looks. The caller holds the right to place layers. What was at
    /// `target` is at `retired` afterwards; nothing is there if there was nothing.
    pub(crate) fn replace(
        mut self,
        target: &Path,
        index: &Path,
        retired: &Path,
    ) -> Result<(), StoreError> {
        fs::rename(self.index_path(), index)
            .map_err(StoreError::path("rename an index to", index))?;
        fs::rename(&self.path, retired).map_err(StoreError::path("rename a layer to", retired))?;
        self.published = true;
        let exchange = rustix::fs::RenameFlags::EXCHANGE;
        let exchanged = match rustix::fs::renameat_with(CWD, retired, CWD, target, exchange) {
            // There is nothing to be exchanged.
            Err(Errno::NOENT) => rustix::fs::renameat(CWD, retired, CWD, target),
            result => result,
        };
        exchanged.map_err(|errno| StoreError::path("put a layer at", target)(errno.into()))
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if self.published || self.failpoints.crashed() {
            return;
        }
        // None, where it was not come to.
        for path in [self.index_path(), self.blob_path()] {
            let _ = fs::remove_file(path);
        }
        if let Err(errno) = snapshot::remove_tree(&self.path) {
            tracing::warn!(path = %self.path.display(), %errno, "cannot remove an unfinished layer; the next start will");
        }
    }
}
