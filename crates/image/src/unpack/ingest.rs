use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

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
        Ok(Self {
            path,
            published: false,
            failpoints: failpoints.clone(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Renames the directory to `target`. If that exists already, it is another pull's work on the same layer, and as good.
    pub(crate) fn publish(mut self, target: &Path) -> Result<(), StoreError> {
        match fs::rename(&self.path, target) {
            Ok(()) => {
                self.published = true;
                Ok(())
            }
            Err(error) if is_occupied(&error) => Ok(()),
            Err(error) => Err(StoreError::path("rename a layer to", target)(error)),
        }
    }
}

fn is_occupied(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty
    )
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if self.published || self.failpoints.crashed() {
            return;
        }
        if let Err(errno) = snapshot::remove_tree(&self.path) {
            tracing::warn!(path = %self.path.display(), %errno, "cannot remove an unfinished layer; the next start will");
        }
    }
}
