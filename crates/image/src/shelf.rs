//! Changes to what there is: records first, then memory, and the disk is swept behind.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
};

use snapshot::{LayerKey, Overlay, Usage};
use tokio::runtime::Handle;

use crate::blobs;
use crate::catalogue::{Catalogue, Entry, LayerState};
use crate::failpoint::Failpoints;
use crate::pins::Pins;
use crate::retired::{self, Retired};
use crate::signature::Evidence;
use crate::store::{BadRecord, Change, ImageRecord, LayerRecord, Store};
use crate::unpack::Ingest;
use crate::{ImageConfig, ImagesConfig, StoreError};

/// The catalogue with what backs it. Locks are taken in the order `writer`, `placement`, `catalogue`.
#[derive(Debug)]
pub(crate) struct Shelf {
    pub(crate) config: ImagesConfig,
    pub(crate) overlay: Arc<Overlay>,
    pub(crate) pins: Pins,
    pub(crate) failpoints: Failpoints,
    /// Of layers, compressed, that registries have sent since the store was opened.
    pub(crate) fetched_bytes: AtomicU64,
    store: Store,
    catalogue: RwLock<Catalogue>,
    /// One change of records at a time, from reading the catalogue to writing it.
    writer: tokio::sync::Mutex<()>,
    /// Held while directories are renamed into or out of the layers' place. Never while the catalogue is locked: renaming may wait
    /// for the disk, and lists must not.
    placement: Mutex<()>,
    /// Somebody will sync, and has not begun.
    sync_due: AtomicBool,
    /// Who works on a layer.
    layers: Mutex<HashMap<LayerKey, Weak<tokio::sync::Mutex<()>>>>,
    boot_id: String,
    runtime: Handle,
}

/// An image that a pull has completed.
#[derive(Debug)]
pub(crate) struct NewImage {
    pub(crate) record: ImageRecord,
    pub(crate) config: ImageConfig,
    pub(crate) config_json: Vec<u8>,
    /// None where it is known already.
    pub(crate) manifest: Option<Vec<u8>>,
    /// To be kept; none leaves what is kept already.
    pub(crate) signatures: Vec<Evidence>,
}

impl Shelf {
    pub(crate) fn new(
        config: ImagesConfig,
        overlay: Arc<Overlay>,
        store: Store,
        pins: Pins,
        catalogue: Catalogue,
        boot_id: String,
    ) -> Self {
        Self {
            config,
            overlay,
            pins,
            failpoints: Failpoints::default(),
            fetched_bytes: AtomicU64::new(0),
            store,
            catalogue: RwLock::new(catalogue),
            writer: tokio::sync::Mutex::new(()),
            placement: Mutex::new(()),
            sync_due: AtomicBool::new(false),
            layers: Mutex::default(),
            boot_id,
            runtime: Handle::current(),
        }
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Catalogue> {
        self.catalogue
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Catalogue> {
        self.catalogue
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn placement(&self) -> MutexGuard<'_, ()> {
        self.placement
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn manifest(&self, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.manifest(id)
    }

    /// What layers take together, each counted once.
    pub(crate) fn size_of(&self, keys: &[LayerKey]) -> u64 {
        let catalogue = self.read();
        let distinct: BTreeSet<&LayerKey> = keys.iter().collect();
        let usages = distinct.iter().filter_map(|key| catalogue.usage_of(key));
        usages.map(|usage| usage.bytes).sum()
    }

    /// Finds out what those of some layers take that are in other stores: images have a size.
    pub(crate) async fn measure_elsewhere(
        self: &Arc<Self>,
        keys: &[LayerKey],
    ) -> Result<(), StoreError> {
        let unknown: Vec<LayerKey> = {
            let catalogue = self.read();
            let unknown = keys.iter().filter(|key| {
                catalogue.usage_of(key).is_none() && catalogue.elsewhere.contains_key(*key)
            });
            unknown.cloned().collect()
        };
        if unknown.is_empty() {
            return Ok(());
        }
        let shelf = Arc::clone(self);
        self.blocking("measure layers of another store", move || {
            for key in unknown {
                let path = shelf.overlay.found_dir(&key);
                let usage = snapshot::measure(&path)
                    .map_err(|errno| StoreError::path("measure", &path)(errno.into()))?;
                shelf.write().elsewhere.insert(key, Some(usage));
            }
            Ok(())
        })
        .await
    }

    pub(crate) fn config_json(&self, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.config(id)
    }

    pub(crate) fn signatures(&self, id: &str) -> Result<Vec<Evidence>, StoreError> {
        self.store.signatures(id)
    }

    /// Only one pull at a time works on a layer; the others wait here, and then find it.
    pub(crate) fn layer_lock(&self, key: &LayerKey) -> Arc<tokio::sync::Mutex<()>> {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        layers.retain(|_, lock| lock.strong_count() > 0);
        match layers.get(key).and_then(Weak::upgrade) {
            Some(lock) => lock,
            None => {
                let lock = Arc::default();
                layers.insert(key.clone(), Arc::downgrade(&lock));
                lock
            }
        }
    }

    /// A directory for a layer in the making. Blocks.
    pub(crate) fn ingest(&self) -> Result<Ingest, StoreError> {
        Ingest::new(&self.overlay.ingest_dir(), &self.failpoints)
    }

    /// Puts a verified layer into its place. It is not recorded yet, and swept at the next start if it never is. Blocks.
    pub(crate) fn publish(
        self: &Arc<Self>,
        ingest: Ingest,
        key: &LayerKey,
        usage: Usage,
    ) -> Result<(), StoreError> {
        self.failpoints.reach("layer-verified")?;
        let _placement = self.placement();
        ingest.publish(&self.overlay.layer_dir(key), &self.index_path(key))?;
        self.failpoints.reach("layer-published")?;
        let state = LayerState {
            usage,
            recorded: false,
            synced: false,
        };
        let mut catalogue = self.write();
        catalogue.layers.entry(key.clone()).or_insert(state);
        // The pull has been given up meanwhile, and swept behind itself too early for this.
        if !catalogue.is_reserved(key) {
            self.sweep_behind();
        }
        Ok(())
    }

    /// Where a layer's index is.
    pub(crate) fn index_path(&self, key: &LayerKey) -> PathBuf {
        indexes_dir(&self.overlay).join(key.as_str())
    }

    /// Puts a layer that has been made again into the place of a damaged one, and says which pins hold on to that. Blocks.
    pub(crate) fn replace(
        self: &Arc<Self>,
        ingest: Ingest,
        key: &LayerKey,
        usage: Usage,
    ) -> Result<BTreeSet<String>, StoreError> {
        self.failpoints.reach("layer-made-again")?;
        // Its record may say that the layer has reached the disk, and goes on saying so.
        let path = ingest.path();
        File::open(path)
            .and_then(|file| Ok(rustix::fs::syncfs(&file)?))
            .map_err(StoreError::path("sync", path))?;
        let _placement = self.placement();
        let place = retired::place(&retired_dir(&self.overlay), &self.boot_id, key);
        ingest.replace(&self.overlay.layer_dir(key), &self.index_path(key), &place)?;
        self.failpoints.reach("layer-replaced")?;
        let old = match place.exists() {
            true => snapshot::measure(&place)
                .map_err(|errno| StoreError::path("measure", &place)(errno.into()))?,
            false => Usage::default(),
        };
        let mut catalogue = self.write();
        // Whoever pins from here on is mounted on the new one.
        let holders = catalogue.holders(key);
        catalogue.retired.push(Retired {
            path: place,
            usage: old,
            holders: holders.clone(),
        });
        if let Some(state) = catalogue.layers.get_mut(key) {
            state.usage = usage;
        }
        drop(catalogue);
        self.sweep_behind();
        Ok(holders)
    }

    /// Records what a replaced layer takes now.
    pub(crate) async fn record_layer(self: &Arc<Self>, key: &LayerKey) -> Result<(), StoreError> {
        let _writer = self.writer.lock().await;
        let state = match self.read().layers.get(key) {
            Some(state) if state.recorded => *state,
            _ => return Ok(()),
        };
        let change = Change {
            put_layers: vec![(key.to_string(), self.layer_record(&state))],
            ..Change::default()
        };
        self.apply(change, "layer-recorded").await
    }

    /// Drops an image's record that does not decode, or writes what is known instead of it.
    pub(crate) async fn drop_bad_record(
        self: &Arc<Self>,
        bad: &BadRecord,
    ) -> Result<(), StoreError> {
        let _writer = self.writer.lock().await;
        let mut change = Change::default();
        match self.read().entry(&bad.id) {
            Some(entry) => change.put_images.push(entry.record.clone()),
            None => change.drop_images.push(bad.id.clone()),
        }
        self.apply(change, "bad-record-dropped").await?;
        self.write().bad_records.retain(|other| other != bad);
        Ok(())
    }

    /// Records an image and lists it.
    pub(crate) async fn add(
        self: &Arc<Self>,
        new: NewImage,
    ) -> Result<Arc<crate::Image>, StoreError> {
        let shelf = Arc::clone(self);
        // A task of its own: whoever waits may go, but between the record and the list nothing stops.
        let task = self.runtime.spawn(async move {
            let _writer = shelf.writer.lock().await;
            shelf.add_alone(new).await
        });
        task.await.map_err(|source| StoreError::Task {
            action: "record an image",
            source,
        })?
    }

    async fn add_alone(self: &Arc<Self>, new: NewImage) -> Result<Arc<crate::Image>, StoreError> {
        let NewImage {
            mut record,
            config,
            config_json,
            manifest,
            signatures,
        } = new;
        let mut change = Change::default();
        let mut losers = Vec::new();
        {
            let catalogue = self.read();
            if let Some(known) = catalogue.entry(&record.id)
                && !known.record.removed
            {
                merge(&mut record, &known.record);
            } else if let Some(known) = catalogue.entry(&record.id) {
                // Only how registries call it outlives a removal.
                record.manifests.extend(known.record.manifests.clone());
            }
            for names in [&mut record.tags, &mut record.digests, &mut record.manifests] {
                names.sort_unstable();
                names.dedup();
            }
            // A tag that has moved.
            for tag in &record.tags {
                if let Some(holder) = catalogue.holder(tag)
                    && holder.record.id != record.id
                {
                    let mut loser = holder.clone();
                    loser.record.tags.retain(|other| other != tag);
                    losers.push(loser);
                }
            }
            for key in &record.layers {
                let state = LayerKey::parse(key)
                    .ok()
                    .and_then(|key| catalogue.layers.get(&key));
                if let Some(state) = state
                    && !state.recorded
                {
                    change
                        .put_layers
                        .push((key.clone(), self.layer_record(state)));
                }
            }
            let chained = catalogue.chained.iter().cloned();
            change.put_chained = chained.collect();
        }
        change.put_images.push(record.clone());
        change
            .put_images
            .extend(losers.iter().map(|loser| loser.record.clone()));
        change.put_config = Some((record.id.clone(), config_json));
        change.put_manifest = manifest.map(|manifest| (record.id.clone(), manifest));
        change.put_signatures = (!signatures.is_empty()).then(|| (record.id.clone(), signatures));
        let recorded: Vec<String> = change
            .put_layers
            .iter()
            .map(|(key, _)| key.clone())
            .collect();
        self.apply(change, "image-recorded").await?;

        let entry = Entry::with_config(record, config);
        let entry = entry.ok_or(StoreError::Stopped {
            step: "image-listed",
        })?;
        let image = Arc::clone(&entry.image);
        let mut catalogue = self.write();
        for loser in losers {
            let config = loser.image.config.clone();
            catalogue.put_if_some(Entry::with_config(loser.record, config));
        }
        catalogue.put(entry);
        for key in recorded.iter().filter_map(|key| LayerKey::parse(key).ok()) {
            if let Some(state) = catalogue.layers.get_mut(&key) {
                state.recorded = true;
            }
        }
        drop(catalogue);
        self.sync_behind();
        Ok(image)
    }

    /// Takes all names from an image; its record stays while containers hold it.
    pub(crate) async fn remove(self: &Arc<Self>, id: String) -> Result<(), StoreError> {
        let shelf = Arc::clone(self);
        let task = self.runtime.spawn(async move {
            let _writer = shelf.writer.lock().await;
            let entry = match shelf.read().entry(&id) {
                Some(entry) if !entry.record.removed => entry.clone(),
                _ => return Ok(()),
            };
            let mut record = entry.record;
            // Even if a pin goes meanwhile, the record is dropped when that is noticed.
            if shelf.read().is_pinned(&id) {
                record.removed = true;
                record.tags.clear();
                record.digests.clear();
                let change = Change {
                    put_images: vec![record.clone()],
                    ..Change::default()
                };
                shelf.apply(change, "image-unrecorded").await?;
                let config = entry.image.config.clone();
                let mut catalogue = shelf.write();
                catalogue.put_if_some(Entry::with_config(record, config));
                return Ok(());
            }
            shelf.forget(vec![id], "image-unrecorded").await
        });
        let result = task.await.map_err(|source| StoreError::Task {
            action: "remove an image",
            source,
        })?;
        self.sweep_behind();
        result
    }

    /// Drops, in the background, what nobody needs any more: removed images without pins, and layers.
    pub(crate) fn sweep_behind(self: &Arc<Self>) {
        let shelf = Arc::clone(self);
        self.runtime.spawn(async move {
            if let Err(error) = shelf.sweep().await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot drop unused layers now; the next removal or start will"
                );
            }
        });
    }

    /// Drops images with the layers that only they have: one change, and so one wait for the disk. The caller is the writer.
    async fn forget(
        self: &Arc<Self>,
        images: Vec<String>,
        step: &'static str,
    ) -> Result<(), StoreError> {
        let layers = self.read().recorded_of_only(&images);
        let change = Change {
            drop_images: images.clone(),
            drop_layers: layers.iter().map(LayerKey::to_string).collect(),
            ..Change::default()
        };
        self.apply(change, step).await?;
        self.write().forget(&images, &layers);
        Ok(())
    }

    async fn sweep(self: &Arc<Self>) -> Result<(), StoreError> {
        let writer = self.writer.lock().await;
        let forsaken = self.read().forsaken();
        if !forsaken.is_empty() {
            self.forget(forsaken, "image-forgotten").await?;
        }
        let shelf = Arc::clone(self);
        let garbage = self
            .blocking("move what is unused away", move || shelf.move_garbage())
            .await?;
        if garbage.trees.is_empty() && garbage.recorded.is_empty() {
            return Ok(());
        }
        self.failpoints.reach("garbage-moved")?;
        let applied = match garbage.recorded.is_empty() {
            true => Ok(()),
            false => {
                let change = Change {
                    drop_layers: garbage.recorded,
                    ..Change::default()
                };
                self.apply(change, "layers-unrecorded").await
            }
        };
        // Nobody else sees what has been moved away, and it may take a while.
        drop(writer);
        let shelf = Arc::clone(self);
        self.blocking("remove what is unused", move || {
            for path in garbage.trees {
                snapshot::remove_tree(&path)
                    .map_err(|errno| StoreError::path("remove", &path)(errno.into()))?;
                shelf.failpoints.reach("garbage-removed")?;
            }
            shelf.store.fill_ballast();
            Ok(())
        })
        .await?;
        applied
    }

    /// Out of the catalogue, and layers and blobs out of their places too, so that a new pull meets none of them by halves. Blocks.
    fn move_garbage(&self) -> Result<Garbage, StoreError> {
        static GONE: AtomicU64 = AtomicU64::new(0);
        self.failpoints.reach("sweep")?;
        let _placement = self.placement();
        let (layers, blobs, retired) = {
            let mut catalogue = self.write();
            (
                catalogue.take_garbage(),
                catalogue.take_garbage_blobs(),
                catalogue.take_free_retired(),
            )
        };
        let mut garbage = Garbage {
            trees: retired.into_iter().map(|retired| retired.path).collect(),
            recorded: Vec::new(),
        };
        let mut move_away = |from: PathBuf| {
            let number = GONE.fetch_add(1, Ordering::Relaxed);
            let name = from.file_name().unwrap_or_default().to_string_lossy();
            let name = format!("gone-{number}-{name}");
            let target = self.overlay.ingest_dir().join(name);
            match std::fs::rename(&from, &target) {
                Ok(()) => garbage.trees.push(target),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(StoreError::path("rename", &from)(error)),
            }
            self.failpoints.reach("garbage-moving")
        };
        for (key, state) in layers {
            move_away(self.overlay.layer_dir(&key))?;
            move_away(self.index_path(&key))?;
            if state.recorded {
                garbage.recorded.push(key.to_string());
            }
        }
        for name in blobs {
            move_away(blobs::directory(&self.overlay).join(name))?;
        }
        Ok(garbage)
    }

    /// Sees to it, in the background and after a while ([`crate::Timeouts::sync_after`]), that new layers reach the disk, and then notes that
    /// they have. Not at once: while hundreds of megabytes are being written, every commit waits for the disk behind them, and what
    /// follows a pull is the start of a container.
    pub(crate) fn sync_behind(self: &Arc<Self>) {
        if self.sync_due.swap(true, Ordering::AcqRel) {
            return;
        }
        // A store that is closed meanwhile is not held open; the next one that opens it syncs.
        let (waits, shelf) = (self.config.timeouts.sync_after, Arc::downgrade(self));
        self.runtime.spawn(async move {
            tokio::time::sleep(waits).await;
            let Some(shelf) = shelf.upgrade() else {
                return;
            };
            // Before it is seen what there is to sync: what comes later has a task of its own.
            shelf.sync_due.swap(false, Ordering::AcqRel);
            if let Err(error) = shelf.sync().await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot make new layers durable"
                );
            }
        });
    }

    async fn sync(self: &Arc<Self>) -> Result<(), StoreError> {
        let waiting = |catalogue: &Catalogue| -> Vec<LayerKey> {
            (catalogue.layers.iter())
                .filter(|(_, state)| state.recorded && !state.synced)
                .map(|(key, _)| key.clone())
                .collect()
        };
        let keys = waiting(&self.read());
        if keys.is_empty() {
            return Ok(());
        }
        let directory = self.overlay.layers_dir();
        self.blocking("sync layers", move || {
            let failed = StoreError::path("sync", &directory);
            std::fs::File::open(&directory)
                .and_then(|file| Ok(rustix::fs::syncfs(&file)?))
                .map_err(failed)
        })
        .await?;
        let _writer = self.writer.lock().await;
        self.failpoints.reach("before-commit-of-sync")?;
        let mut change = Change::default();
        for key in &keys {
            if let Some(state) = self.read().layers.get(key)
                && state.recorded
            {
                let mut record = self.layer_record(state);
                record.unsynced_since = None;
                change.put_layers.push((key.to_string(), record));
            }
        }
        self.apply(change, "layers-synced").await?;
        let mut catalogue = self.write();
        for key in &keys {
            if let Some(state) = catalogue.layers.get_mut(key) {
                state.synced = true;
            }
        }
        tracing::debug!(layers = keys.len(), "layers would survive a power cut now");
        Ok(())
    }

    fn layer_record(&self, state: &LayerState) -> LayerRecord {
        LayerRecord {
            bytes: state.usage.bytes,
            inodes: state.usage.inodes,
            unsynced_since: (!state.synced).then(|| self.boot_id.clone()),
        }
    }

    async fn apply(self: &Arc<Self>, change: Change, step: &'static str) -> Result<(), StoreError> {
        let shelf = Arc::clone(self);
        self.blocking("write the metadata", move || {
            shelf.failpoints.reach("before-commit")?;
            shelf.store.apply(&change)?;
            shelf.failpoints.reach(step)
        })
        .await
    }

    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        action: &'static str,
        body: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let task = self.runtime.spawn_blocking(body);
        task.await
            .map_err(|source| StoreError::Task { action, source })?
    }

    /// Keeps layers, here already or not yet, from being swept while a pull counts on them.
    pub(crate) fn reserve(self: &Arc<Self>, keys: Vec<LayerKey>) -> Reservation {
        let mut catalogue = self.write();
        for key in &keys {
            catalogue.reserve(key);
        }
        drop(catalogue);
        Reservation {
            shelf: Arc::clone(self),
            keys,
        }
    }
}

/// What nobody needs any more.
#[derive(Debug)]
struct Garbage {
    /// In places where nobody looks for anything.
    trees: Vec<PathBuf>,
    /// Layers whose records have not gone yet.
    recorded: Vec<String>,
}

/// Where the indexes of layers are, each by the name of its layer.
pub(crate) fn indexes_dir(overlay: &Overlay) -> PathBuf {
    overlay.root().join("indexes")
}

/// Where layers are that have been replaced under containers.
pub(crate) fn retired_dir(overlay: &Overlay) -> PathBuf {
    overlay.root().join("retired")
}

impl Catalogue {
    fn put_if_some(&mut self, entry: Option<Entry>) {
        if let Some(entry) = entry {
            self.put(entry);
        }
    }
}

/// See [`Shelf::reserve`]. What is in no image when it is dropped is swept.
#[derive(Debug)]
pub(crate) struct Reservation {
    shelf: Arc<Shelf>,
    keys: Vec<LayerKey>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut catalogue = self.shelf.write();
        for key in &self.keys {
            catalogue.release(key);
        }
        drop(catalogue);
        self.shelf.sweep_behind();
    }
}

fn merge(record: &mut ImageRecord, known: &ImageRecord) {
    record.tags.extend(known.tags.clone());
    record.digests.extend(known.digests.clone());
    record.manifests.extend(known.manifests.clone());
}
