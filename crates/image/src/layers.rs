//! One layer of a pull: found in its place, or fetched into it.

use std::sync::Arc;

use snapshot::LayerKey;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::manifest::Descriptor;
use crate::registry::{FetchError, Session};
use crate::shelf::Shelf;
use crate::unpack::{Below, Expected, LayerError, Unpacked, unpack};
use crate::{Digest, LayerStage, PullProgress, StoreError};

/// Pieces of a body between the network and the first thread.
const PIECES: usize = 8;

/// What each layer's task needs.
#[derive(Debug)]
pub(crate) struct LayerContext {
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) session: Arc<Session>,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) progress: watch::Sender<PullProgress>,
}

/// One layer of the image.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) index: usize,
    pub(crate) descriptor: Descriptor,
    pub(crate) diff_id: Digest,
    pub(crate) shared: LayerKey,
    pub(crate) chained: LayerKey,
}

#[derive(Debug)]
pub(crate) enum Placed {
    Here(LayerKey),
    NeedsBelow,
}

impl LayerContext {
    /// Unpacks a layer without looking at those below, unless it is known to need them.
    pub(crate) async fn place_alone(&self, layer: &Layer) -> Result<Placed, LayerError> {
        let lock = self.shelf.layer_lock(&layer.shared);
        let _alone = lock.lock().await;
        let bottom = layer.index == 0;
        {
            let catalogue = self.shelf.read();
            for key in [&layer.shared, &layer.chained] {
                if catalogue.layers.contains_key(key) {
                    self.report(layer, LayerStage::Complete);
                    return Ok(Placed::Here(key.clone()));
                }
            }
            if !bottom && catalogue.chained.contains(layer.diff_id.as_str()) {
                return Ok(Placed::NeedsBelow);
            }
        }
        let below = match bottom {
            true => Below::Nothing,
            false => Below::Unknown,
        };
        match self.fetch(layer, below).await? {
            Some(key) => Ok(Placed::Here(key)),
            None => {
                self.report(layer, LayerStage::Waiting);
                self.shelf.write().chained.insert(layer.diff_id.to_string());
                Ok(Placed::NeedsBelow)
            }
        }
    }

    /// Unpacks a layer on top of those below, which are in their places.
    pub(crate) async fn place_upon(
        &self,
        layer: &Layer,
        below: Vec<LayerKey>,
    ) -> Result<LayerKey, LayerError> {
        let lock = self.shelf.layer_lock(&layer.chained);
        let _alone = lock.lock().await;
        if self.shelf.read().layers.contains_key(&layer.chained) {
            self.report(layer, LayerStage::Complete);
            return Ok(layer.chained.clone());
        }
        let overlay = Arc::clone(&self.shelf.overlay);
        let view = tokio::task::spawn_blocking(move || overlay.view(&below))
            .await
            .map_err(|source| StoreError::Task {
                action: "mount the layers below",
                source,
            })?
            .map_err(LayerError::Below)?;
        // With a view there is an answer to everything.
        let key = self.fetch(layer, Below::View(view)).await?;
        key.ok_or(LayerError::Cut)
    }

    /// The key, or none where the layer needs those below. What turns out not to be the layer is asked of the next mirror.
    async fn fetch(&self, layer: &Layer, below: Below) -> Result<Option<LayerKey>, LayerError> {
        loop {
            let view = below
                .duplicate()
                .map_err(|source| LayerError::Thread { source })?;
            let fetched = self.fetch_once(layer, view).await;
            let digest = layer.descriptor.digest.as_str();
            match fetched {
                Err(error) if error.is_of_bytes() && self.session.distrust(digest) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(
                        digest,
                        error,
                        "what came is not the layer: asking the next host"
                    );
                }
                fetched => return fetched,
            }
        }
    }

    async fn fetch_once(
        &self,
        layer: &Layer,
        below: Below,
    ) -> Result<Option<LayerKey>, LayerError> {
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await.map_err(|_| LayerError::Cut)?;
        self.report(layer, LayerStage::Fetching);
        let upon = matches!(below, Below::View(_));
        let shelf = Arc::clone(&self.shelf);
        let ingest = self
            .shelf
            .blocking("make an ingest directory", move || shelf.ingest())
            .await?;
        let expected = Expected {
            digest: layer.descriptor.digest.clone(),
            size: layer.descriptor.size,
            diff_id: layer.diff_id.clone(),
            limit: self.shelf.config.max_layer_bytes,
        };
        let (sink, network) = mpsc::channel(PIECES);
        let digest = layer.descriptor.digest.as_str();
        let size = layer.descriptor.size;
        let (fetched, unpacked) = tokio::join!(
            self.session
                .blob(digest, size, sink, |bytes| self.count(layer, bytes)),
            unpack(expected, network, ingest, below),
        );
        let (ingest, depends, usage) = match (fetched, unpacked) {
            (_, Ok(Unpacked::NeedsBelow)) => return Ok(None),
            // The threads know only that nothing more came.
            (Err(FetchError::Registry(error)), _) => return Err(error.into()),
            (_, Err(error)) => return Err(error),
            (
                _,
                Ok(Unpacked::Whole {
                    ingest,
                    depends,
                    usage,
                }),
            ) => (ingest, depends, usage),
        };
        let key = match upon || depends {
            true => layer.chained.clone(),
            false => layer.shared.clone(),
        };
        if depends {
            self.shelf.write().chained.insert(layer.diff_id.to_string());
        }
        let shelf = Arc::clone(&self.shelf);
        let place = key.clone();
        self.shelf
            .blocking("put a layer into its place", move || {
                shelf.publish(ingest, &place, usage)
            })
            .await?;
        self.report(layer, LayerStage::Complete);
        Ok(Some(key))
    }

    fn report(&self, layer: &Layer, stage: LayerStage) {
        self.progress.send_modify(|progress| {
            if let Some(line) = progress.layers.get_mut(layer.index) {
                line.stage = stage;
                if stage == LayerStage::Complete {
                    line.fetched_bytes = line.total_bytes;
                }
            }
        });
    }

    fn count(&self, layer: &Layer, bytes: u64) {
        /// Often enough for a bar.
        const STEP: u64 = 256 << 10;
        self.progress.send_if_modified(|progress| {
            let Some(line) = progress.layers.get_mut(layer.index) else {
                return false;
            };
            let due = bytes >= line.fetched_bytes + STEP || bytes < line.fetched_bytes;
            if due || bytes == line.total_bytes {
                line.fetched_bytes = bytes;
                return true;
            }
            false
        });
    }
}
