use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use snapshot::{Overlay, Usage};
use tokio::sync::watch;

use crate::{
    Auth, FindError, Image, ImagesConfig, PinError, PullError, PullProgress, RemoveError,
    StoreError,
};

/// The images of one root. Cheap to clone; all clones are one store.
#[derive(Debug, Clone)]
pub struct Images {}

/// What to pull.
#[derive(Debug, Clone, Default)]
pub struct PullRequest {
    /// As people write it.
    pub reference: String,
    /// None: anonymously.
    pub auth: Option<Auth>,
    /// Kept up to date while the pull goes on, also one that is joined.
    pub progress: Option<watch::Sender<PullProgress>>,
}

impl Images {
    /// Opens the store, sweeps what an interrupted pull has left, and drops what a power cut has damaged.
    pub async fn open(_config: ImagesConfig, _overlay: Arc<Overlay>) -> Result<Self, StoreError> {
        Ok(Self {})
    }

    /// All images, by id. From memory.
    pub fn list(&self) -> Vec<Arc<Image>> {
        Vec::new()
    }

    /// An image by tag, digest, id, or unambiguous prefix of its id. From memory.
    pub fn find(&self, _name_or_id: &str) -> Result<Option<Arc<Image>>, FindError> {
        Ok(None)
    }

    /// The image's configuration, byte for byte, from disk; `None` for an unknown id. Blocks for a read from the page cache.
    pub fn config_json(&self, _image_id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }

    /// Fetches an image, or finds that it is here already.
    ///
    /// Pulls of one reference with the same credentials join: all get the same result. Dropping the future abandons nothing at once:
    /// the pull goes on for a while (`Timeouts::abandon`), for a retry to join.
    pub async fn pull(&self, request: PullRequest) -> Result<Arc<Image>, PullError> {
        std::future::pending::<()>().await;
        Err(PullError {
            reference: request.reference,
            cause: Arc::new(crate::PullCause::Abandoned),
        })
    }

    /// Removes an image with all its names. Succeeds if there is none. Layers that containers use stay until the last is unpinned.
    pub async fn remove(&self, _name_or_id: &str) -> Result<(), RemoveError> {
        Ok(())
    }

    /// Keeps an image's layers for a container until [`Images::unpin`]. Outlives the daemon (one symbolic link), not the
    /// machine. Repeating it changes nothing.
    pub fn pin(&self, _container_id: &str, _image_id: &str) -> Result<(), PinError> {
        Ok(())
    }

    /// Undoes [`Images::pin`]; layers that nobody needs any more go in the background. Succeeds if there is no pin.
    pub fn unpin(&self, _container_id: &str) -> Result<(), PinError> {
        Ok(())
    }

    /// Which container uses which image (by id), also one that has been removed since.
    pub fn pins(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// The image that a container has pinned, also one that has been removed since.
    pub fn pinned_by(&self, _container_id: &str) -> Option<Arc<Image>> {
        None
    }

    /// Unpins what no live container needs.
    pub fn reconcile(&self, _live: &BTreeSet<String>) -> Result<(), PinError> {
        Ok(())
    }

    /// What all layers take on disk, to the inode. From memory.
    pub fn usage(&self) -> Usage {
        Usage::default()
    }
}
