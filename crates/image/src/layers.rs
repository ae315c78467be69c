//! One layer of a pull: found in its place, or fetched into it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use snapshot::{LayerKey, LayerKeyError, Usage};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::digest::chain_id;
use crate::manifest::Descriptor;
use crate::registry::FetchError;
use crate::shelf::Shelf;
use crate::source::Source;
use crate::unpack::{Below, Expected, Ingest, LayerError, Unpacked, unpack};
use crate::{Digest, LayerStage, PullProgress, StoreError};

/// Pieces of a body between the network and the first thread.
const PIECES: usize = 8;

/// What each layer's task needs.
#[derive(Debug)]
pub(crate) struct LayerContext {
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) source: Source,
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
enum Placed {
    Here(LayerKey),
    NeedsBelow,
}

impl Layer {
    /// The layer that lies upon those of the chain `below`, and the chain that ends with it.
    pub(crate) fn new(
        index: usize,
        descriptor: Descriptor,
        diff_id: Digest,
        below: Option<&Digest>,
    ) -> Result<(Self, Digest), LayerKeyError> {
        let (shared, chained, chain) = layer_keys(&diff_id, below)?;
        let layer = Self {
            index,
            descriptor,
            shared,
            chained,
            diff_id,
        };
        Ok((layer, chain))
    }
}

/// What a layer may be called on disk, on its own and upon those of the chain `below`; and the chain that ends with it.
pub(crate) fn layer_keys(
    diff_id: &Digest,
    below: Option<&Digest>,
) -> Result<(LayerKey, LayerKey, Digest), LayerKeyError> {
    let chain = chain_id(below, diff_id);
    let hex = |digest: &Digest| match digest.as_str().starts_with("sha256:") {
        true => digest.hex().to_owned(),
        // Directories are named by SHA-256 whatever the digest.
        false => Digest::of(digest.as_str().as_bytes()).hex().to_owned(),
    };
    let shared = LayerKey::of_diff_id(&hex(diff_id))?;
    let chained = LayerKey::of_chain_id(&hex(&chain))?;
    Ok((shared, chained, chain))
}

/// A layer in its ingest directory, whole and verified.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) ingest: Ingest,
    /// Whether its meaning depends on the layers below.
    depends: bool,
    pub(crate) usage: Usage,
}

/// Why not all layers of an image are in their places.
#[derive(Debug)]
pub(crate) enum Unplaced {
    /// Which, counted from 0, and why.
    Layer(usize, LayerError),
    Store(StoreError),
}

/// Sees to it that every layer is in its place, in parallel where they do not lean on each other; the keys are bottom first. Dropping
/// the future stops all.
pub(crate) async fn place(
    context: &Arc<LayerContext>,
    layers: &[Layer],
) -> Result<Vec<LayerKey>, Unplaced> {
    // Dropped with this future, and all tasks with it.
    let mut tasks = JoinSet::new();
    for layer in layers {
        let (context, layer) = (Arc::clone(context), layer.clone());
        tasks.spawn(async move {
            let placed = context.place_alone(&layer).await;
            (layer.index, placed)
        });
    }
    let mut keys = BTreeMap::new();
    while let Some(joined) = tasks.join_next().await {
        let (index, placed) = joined.map_err(|source| {
            Unplaced::Store(StoreError::Task {
                action: "unpack a layer",
                source,
            })
        })?;
        if let Placed::Here(key) = placed.map_err(|error| Unplaced::Layer(index, error))? {
            keys.insert(index, key);
        }
    }
    let mut complete = Vec::with_capacity(layers.len());
    for layer in layers {
        let key = match keys.remove(&layer.index) {
            Some(key) => key,
            None => (context.place_upon(layer, complete.clone()).await)
                .map_err(|error| Unplaced::Layer(layer.index, error))?,
        };
        complete.push(key);
    }
    (context.shelf.measure_elsewhere(&complete).await).map_err(Unplaced::Store)?;
    Ok(complete)
}

impl LayerContext {
    /// Unpacks a layer without looking at those below, unless it is known to need them.
    async fn place_alone(&self, layer: &Layer) -> Result<Placed, LayerError> {
        let lock = self.shelf.layer_lock(&layer.shared);
        let _alone = lock.lock().await;
        let bottom = layer.index == 0;
        {
            let catalogue = self.shelf.read();
            for key in [&layer.shared, &layer.chained] {
                if catalogue.has_layer(key) {
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
    async fn place_upon(
        &self,
        layer: &Layer,
        below: Vec<LayerKey>,
    ) -> Result<LayerKey, LayerError> {
        let lock = self.shelf.layer_lock(&layer.chained);
        let _alone = lock.lock().await;
        if self.shelf.read().has_layer(&layer.chained) {
            self.report(layer, LayerStage::Complete);
            return Ok(layer.chained.clone());
        }
        let view = self.view(below).await?;
        // With a view there is an answer to everything.
        let key = self.fetch(layer, view).await?;
        key.ok_or(LayerError::Cut)
    }

    /// Unpacks a layer that is in its place already once more, for that place: `key`.
    pub(crate) async fn make_again(
        &self,
        layer: &Layer,
        key: &LayerKey,
        below: Vec<LayerKey>,
    ) -> Result<Made, LayerError> {
        let below = match (layer.index, key.is_chain()) {
            (0, _) => Below::Nothing,
            (_, true) => self.view(below).await?,
            (_, false) => Below::Unknown,
        };
        // What was placed alone once needs nothing below.
        let made = self.make(layer, below).await?;
        made.ok_or(LayerError::Cut)
    }

    async fn view(&self, below: Vec<LayerKey>) -> Result<Below, LayerError> {
        let overlay = Arc::clone(&self.shelf.overlay);
        tokio::task::spawn_blocking(move || overlay.view(&below))
            .await
            .map_err(|source| StoreError::Task {
                action: "mount the layers below",
                source,
            })?
            .map(Below::View)
            .map_err(LayerError::Below)
    }

    /// The key, or none where the layer needs those below.
    async fn fetch(&self, layer: &Layer, below: Below) -> Result<Option<LayerKey>, LayerError> {
        let upon = matches!(below, Below::View(_));
        let Some(made) = self.make(layer, below).await? else {
            return Ok(None);
        };
        let key = match upon || made.depends {
            true => layer.chained.clone(),
            false => layer.shared.clone(),
        };
        if made.depends {
            self.shelf.write().chained.insert(layer.diff_id.to_string());
        }
        let shelf = Arc::clone(&self.shelf);
        let (place, digest) = (key.clone(), layer.descriptor.digest.clone());
        self.shelf
            .blocking("put a layer into its place", move || {
                let blob = made.ingest.blob_path();
                shelf.failpoints.reach("layer-made")?;
                if blob.exists() {
                    shelf.keep_blob(&blob, digest.as_str())?;
                    shelf.failpoints.reach("blob-kept")?;
                }
                shelf.publish(made.ingest, &place, made.usage)
            })
            .await?;
        self.report(layer, LayerStage::Complete);
        Ok(Some(key))
    }

    /// None where the layer needs those below. What turns out not to be the layer is asked of the next mirror.
    async fn make(&self, layer: &Layer, below: Below) -> Result<Option<Made>, LayerError> {
        loop {
            let view = below
                .duplicate()
                .map_err(|source| LayerError::Thread { source })?;
            let made = self.make_once(layer, view).await;
            let digest = layer.descriptor.digest.as_str();
            match made {
                Err(error) if error.is_of_bytes() && self.source.distrust(digest) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(
                        digest,
                        error,
                        "what came is not the layer: asking the next host"
                    );
                }
                made => return made,
            }
        }
    }

    async fn make_once(&self, layer: &Layer, below: Below) -> Result<Option<Made>, LayerError> {
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await.map_err(|_| LayerError::Cut)?;
        self.report(layer, LayerStage::Fetching);
        let shelf = Arc::clone(&self.shelf);
        let ingest = self
            .shelf
            .blocking("make an ingest directory", move || shelf.ingest())
            .await?;
        // An archive's files are kept as they are.
        let keep = self.shelf.config.keep_blobs && matches!(self.source, Source::Registry(_));
        let expected = Expected {
            digest: layer.descriptor.digest.clone(),
            size: layer.descriptor.size,
            diff_id: layer.diff_id.clone(),
            limit: self.shelf.config.max_layer_bytes,
            keep: keep.then(|| ingest.blob_path()),
        };
        let (sink, network) = mpsc::channel(PIECES);
        let digest = layer.descriptor.digest.as_str();
        let size = layer.descriptor.size;
        let known = AtomicU64::new(0);
        let progress = |bytes: u64| {
            let news = bytes.saturating_sub(known.swap(bytes, Ordering::Relaxed));
            if matches!(self.source, Source::Registry(_)) {
                self.shelf.fetched_bytes.fetch_add(news, Ordering::Relaxed);
            }
            self.count(layer, bytes);
        };
        let (fetched, unpacked) = tokio::join!(
            self.source.blob(digest, size, sink, progress),
            unpack(expected, network, ingest, below),
        );
        match (fetched, unpacked) {
            (_, Ok(Unpacked::NeedsBelow)) => Ok(None),
            // The threads know only that nothing more came.
            (Err(FetchError::Registry(error)), _) => Err(error.into()),
            (Err(FetchError::Disk(error)), _) => {
                let path = layer.descriptor.digest.as_str();
                Err(StoreError::path("read the blob", path)(error).into())
            }
            (_, Err(error)) => Err(error),
            (
                _,
                Ok(Unpacked::Whole {
                    ingest,
                    depends,
                    usage,
                }),
            ) => Ok(Some(Made {
                ingest,
                depends,
                usage,
            })),
        }
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
