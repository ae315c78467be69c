//! What is written down: `meta.redb`.
//!
//! | table    | key                              | value                        |
//! |----------|----------------------------------|------------------------------|
//! | `images` | id                               | JSON of [`ImageRecord`]      |
//! | `config` | id                               | the configuration, as it came |
//! | `layers` | key of the layer's directory     | JSON of [`LayerRecord`]      |
//! | `signatures` | id                           | JSON of what was found of signatures, where the policy wanted one |
//! | `manifests`| id                              | the manifest, as it came     |
//! | `chained`| diffID of a layer that depends on those below | empty           |
//!
//! An image's record is written after its layers are in their places and in the same transaction as theirs: a layer without a record
//! is the rest of something interrupted.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use crate::StoreError;
use crate::signature::Evidence;

const IMAGES: TableDefinition<&str, &[u8]> = TableDefinition::new("images");
const CONFIG: TableDefinition<&str, &[u8]> = TableDefinition::new("config");
const LAYERS: TableDefinition<&str, &[u8]> = TableDefinition::new("layers");
const MANIFESTS: TableDefinition<&str, &[u8]> = TableDefinition::new("manifests");
const CHAINED: TableDefinition<&str, ()> = TableDefinition::new("chained");
const SIGNATURES: TableDefinition<&str, &[u8]> = TableDefinition::new("signatures");

const CACHE_BYTES: usize = 1 << 20;

/// Kept allocated so that a removal, which writes before it frees, can be recorded on a full disk.
const BALLAST_BYTES: u64 = 4 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub(crate) id: String,
    /// `repository:tag`.
    pub(crate) tags: Vec<String>,
    /// `repository@digest`.
    pub(crate) digests: Vec<String>,
    /// Digests by which registries know it: of manifests, and of indexes that led to them.
    pub(crate) manifests: Vec<String>,
    pub(crate) manifest_digest: String,
    pub(crate) origin: String,
    /// Keys, bottom first.
    pub(crate) layers: Vec<String>,
    pub(crate) chain_id: String,
    pub(crate) size_bytes: u64,
    /// The manifest's media type.
    #[serde(default)]
    pub(crate) manifest_type: String,
    /// Layers in their compressed form, bottom first, whether kept or not.
    #[serde(default)]
    pub(crate) blobs: Vec<BlobRecord>,
    /// Whether these are kept for it.
    #[serde(default)]
    pub(crate) keeps_blobs: bool,
    /// It has been removed, and only containers hold on to it.
    pub(crate) removed: bool,
}

/// A layer as its manifest names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlobRecord {
    pub(crate) digest: String,
    /// Compressed.
    pub(crate) size: u64,
    pub(crate) media_type: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
    /// The boot in which it was unpacked, until it is known to have reached the disk. Found in another boot, it may be damaged.
    pub(crate) unsynced_since: Option<String>,
}

/// An image's record that does not decode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadRecord {
    pub(crate) id: String,
    pub(crate) reason: String,
    /// Has not suffered with the record.
    pub(crate) config: Vec<u8>,
}

/// All records.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(crate) images: Vec<(ImageRecord, Vec<u8>)>,
    pub(crate) layers: Vec<(String, LayerRecord)>,
    pub(crate) chained: Vec<String>,
    pub(crate) bad_images: Vec<BadRecord>,
    /// Keys of layers whose records do not decode.
    pub(crate) bad_layers: Vec<String>,
}

/// What one transaction changes.
#[derive(Debug, Default)]
pub(crate) struct Change {
    pub(crate) put_images: Vec<ImageRecord>,
    pub(crate) put_config: Option<(String, Vec<u8>)>,
    pub(crate) put_signatures: Option<(String, Vec<Evidence>)>,
    pub(crate) put_manifest: Option<(String, Vec<u8>)>,
    /// With their configuration, manifest and signatures.
    pub(crate) drop_images: Vec<String>,
    pub(crate) put_layers: Vec<(String, LayerRecord)>,
    pub(crate) drop_layers: Vec<String>,
    pub(crate) put_chained: Vec<String>,
}

/// All calls block.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    ballast: PathBuf,
    /// The ballast has been used.
    light: AtomicBool,
    /// Empty only after a failure to open it again.
    database: Mutex<Option<Database>>,
}

impl Store {
    pub(crate) fn open(root: &Path) -> Result<Self, StoreError> {
        let store = Self {
            path: root.join("meta.redb"),
            ballast: root.join("ballast"),
            light: AtomicBool::new(true),
            database: Mutex::new(None),
        };
        *store.lock() = Some(store.reopen()?);
        store.fill_ballast();
        Ok(store)
    }

    pub(crate) fn records(&self) -> Result<Records, StoreError> {
        let mut records = Records::default();
        let mut database = self.lock();
        let transaction = self
            .present(&mut database)?
            .begin_read()
            .map_err(StoreError::metadata("read"))?;
        let failed = || StoreError::metadata("read");
        let configs = transaction
            .open_table(CONFIG)
            .map_err(StoreError::metadata("read"))?;
        let images = transaction
            .open_table(IMAGES)
            .map_err(StoreError::metadata("read"))?;
        for row in images.iter().map_err(failed())? {
            let (id, record) = row.map_err(failed())?;
            let config = configs.get(id.value()).map_err(failed())?;
            let config = config.map(|config| config.value().to_vec());
            let config = config.unwrap_or_default();
            match serde_json::from_slice(record.value()) {
                Ok(record) => records.images.push((record, config)),
                Err(error) => records.bad_images.push(BadRecord {
                    id: id.value().to_owned(),
                    reason: error.to_string(),
                    config,
                }),
            }
        }
        let layers = transaction
            .open_table(LAYERS)
            .map_err(StoreError::metadata("read"))?;
        for row in layers.iter().map_err(failed())? {
            let (key, record) = row.map_err(failed())?;
            match serde_json::from_slice(record.value()) {
                Ok(record) => records.layers.push((key.value().to_owned(), record)),
                Err(_) => records.bad_layers.push(key.value().to_owned()),
            }
        }
        let chained = transaction
            .open_table(CHAINED)
            .map_err(StoreError::metadata("read"))?;
        for row in chained.iter().map_err(failed())? {
            records
                .chained
                .push(row.map_err(failed())?.0.value().to_owned());
        }
        Ok(records)
    }

    pub(crate) fn config(&self, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.bytes(CONFIG, id)
    }

    /// What was found of signatures on an image.
    pub(crate) fn signatures(&self, id: &str) -> Result<Vec<Evidence>, StoreError> {
        match self.bytes(SIGNATURES, id)? {
            Some(bytes) => decode("signatures on", id, &bytes),
            None => Ok(Vec::new()),
        }
    }

    fn bytes(
        &self,
        table: TableDefinition<&str, &[u8]>,
        id: &str,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let mut database = self.lock();
        let transaction = self
            .present(&mut database)?
            .begin_read()
            .map_err(StoreError::metadata("read"))?;
        let table = transaction
            .open_table(table)
            .map_err(StoreError::metadata("read"))?;
        let value = table.get(id).map_err(StoreError::metadata("read"))?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    pub(crate) fn manifest(&self, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.bytes(MANIFESTS, id)
    }

    /// Durable when it returns. Where the disk is full and the change frees some of it, the ballast makes room.
    pub(crate) fn apply(&self, change: &Change) -> Result<(), StoreError> {
        let mut database = self.lock();
        let frees = change.put_layers.is_empty() && change.put_config.is_none();
        let written = write(self.present(&mut database)?, change);
        if written.is_ok() {
            return written;
        }
        // redb accepts nothing more after an error of the disk until it is opened again.
        *database = None;
        match written {
            Err(error) if error.is_exhausted() && frees => {
                tracing::warn!("the disk is full: using the ballast to record a removal");
                self.drop_ballast()?;
                write(self.present(&mut database)?, change)
            }
            result => result,
        }
    }

    /// Allocates the ballast again if it has been used, where there is room.
    pub(crate) fn fill_ballast(&self) {
        if !self.light.swap(false, Ordering::Relaxed) {
            return;
        }
        let filled = fs::File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&self.ballast)
            .and_then(|file| {
                let flags = rustix::fs::FallocateFlags::empty();
                Ok(rustix::fs::fallocate(&file, flags, 0, BALLAST_BYTES)?)
            });
        if let Err(error) = filled {
            self.light.store(true, Ordering::Relaxed);
            tracing::debug!(%error, "no room for the ballast");
        }
    }

    fn drop_ballast(&self) -> Result<(), StoreError> {
        self.light.store(true, Ordering::Relaxed);
        match fs::remove_file(&self.ballast) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(StoreError::path("remove", &self.ballast)(error))
            }
            _ => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Database>> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn present<'a>(
        &self,
        database: &'a mut Option<Database>,
    ) -> Result<&'a mut Database, StoreError> {
        let opened = match database.take() {
            Some(database) => database,
            None => self.reopen()?,
        };
        Ok(database.insert(opened))
    }

    /// Opening writes: what a crash or an error has left unfinished is put in order.
    fn reopen(&self) -> Result<Database, StoreError> {
        match self.open_database() {
            Err(error) if error.is_exhausted() => {
                tracing::warn!("the disk is full: using the ballast to open the metadata");
                self.drop_ballast()?;
                self.open_database()
            }
            result => result,
        }
    }

    fn open_database(&self) -> Result<Database, StoreError> {
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(&self.path)
            .map_err(StoreError::metadata("open"))?;
        // So that reading never meets a missing table.
        write(&database, &Change::default())?;
        Ok(database)
    }
}

fn write(database: &Database, change: &Change) -> Result<(), StoreError> {
    let mut transaction = database
        .begin_write()
        .map_err(StoreError::metadata("write"))?;
    // After a crash the allocator's state is read, not computed from all pages.
    transaction.set_quick_repair(true);
    fill(&transaction, change)?;
    transaction.commit().map_err(StoreError::metadata("commit"))
}

fn fill(transaction: &WriteTransaction, change: &Change) -> Result<(), StoreError> {
    let failed = || StoreError::metadata("write");
    let mut images = transaction
        .open_table(IMAGES)
        .map_err(StoreError::metadata("write"))?;
    let mut config = transaction
        .open_table(CONFIG)
        .map_err(StoreError::metadata("write"))?;
    let mut manifests = transaction
        .open_table(MANIFESTS)
        .map_err(StoreError::metadata("write"))?;
    let mut layers = transaction
        .open_table(LAYERS)
        .map_err(StoreError::metadata("write"))?;
    let mut chained = transaction
        .open_table(CHAINED)
        .map_err(StoreError::metadata("write"))?;
    let mut signatures = transaction
        .open_table(SIGNATURES)
        .map_err(StoreError::metadata("write"))?;
    for id in &change.drop_images {
        images.remove(&**id).map_err(failed())?;
        config.remove(&**id).map_err(failed())?;
        manifests.remove(&**id).map_err(failed())?;
        signatures.remove(&**id).map_err(failed())?;
    }
    for key in &change.drop_layers {
        layers.remove(&**key).map_err(failed())?;
    }
    for record in &change.put_images {
        let bytes = encode(&record.id, record)?;
        images.insert(&*record.id, &*bytes).map_err(failed())?;
    }
    if let Some((id, bytes)) = &change.put_manifest {
        manifests.insert(&**id, &**bytes).map_err(failed())?;
    }
    if let Some((id, bytes)) = &change.put_config {
        config.insert(&**id, &**bytes).map_err(failed())?;
    }
    if let Some((id, found)) = &change.put_signatures {
        let bytes = encode(id, found)?;
        signatures.insert(&**id, &*bytes).map_err(failed())?;
    }
    for (key, record) in &change.put_layers {
        let bytes = encode(key, record)?;
        layers.insert(&**key, &*bytes).map_err(failed())?;
    }
    for diff_id in &change.put_chained {
        chained.insert(&**diff_id, ()).map_err(failed())?;
    }
    Ok(())
}

fn encode<T: Serialize>(subject: &str, record: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(record).map_err(|source| StoreError::Record {
        subject: subject.to_owned(),
        source,
    })
}

fn decode<'a, T: Deserialize<'a>>(
    kind: &str,
    subject: &str,
    bytes: &'a [u8],
) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|source| StoreError::Record {
        subject: format!("{kind} {subject}"),
        source,
    })
}
