//! Opening a store: what was recorded is listed, everything else is swept.
//!
//! | found                                        | what becomes of it                                     |
//! |----------------------------------------------|--------------------------------------------------------|
//! | anything in `ingest/`                        | removed: a layer that was being made, or had been swept |
//! | a directory in `layers/` without a record    | removed: the pull never got to its image's record      |
//! | a record of a layer without a directory      | dropped, with the images that need it                  |
//! | a layer of another boot, not known as synced | the same: a power cut may have damaged it              |
//! | a layer that no image needs                  | removed: a sweep was interrupted                       |
//! | a removed image without pins                 | dropped                                                |
//! | a pin for an unknown image                   | removed                                                |
//! | an image's record that does not decode       | not listed; `fsck` tells of it; its containers go on   |
//! | a layer's record that does not decode        | written anew                                           |
//! | a compressed layer that no image keeps       | removed                                                |
//! | a layer that was replaced under a container  | kept while one is pinned that may be mounted on it     |

use std::collections::BTreeSet;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use snapshot::{LayerKey, Overlay, Usage};

use crate::blobs;
use crate::catalogue::{Catalogue, Entry, LayerState};
use crate::image::ParsedConfig;
use crate::layers::layer_keys;
use crate::pins::Pins;
use crate::retired;
use crate::shelf::{Shelf, indexes_dir, retired_dir};
use crate::store::{BadRecord, Change, ImageRecord, Store};
use crate::{Digest, ImagesConfig, StoreError};

pub(crate) async fn open(
    config: ImagesConfig,
    overlay: Arc<Overlay>,
) -> Result<Arc<Shelf>, StoreError> {
    let task = tokio::task::spawn_blocking(move || {
        let boot_id = boot_id(&config.root)?;
        std::fs::create_dir_all(&config.root).map_err(StoreError::path("make", &config.root))?;
        for directory in [
            indexes_dir(&overlay),
            retired_dir(&overlay),
            blobs::directory(&overlay),
        ] {
            // Names of files are nobody else's business either.
            match std::fs::DirBuilder::new().mode(0o700).create(&directory) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(StoreError::path("make", &directory)(error));
                }
                _ => {}
            }
        }
        let store = Store::open(&config.root)?;
        let pins = Pins::open(&config.root)?;
        let catalogue = recover(&config, &overlay, &store, &pins, &boot_id)?;
        Ok((config, overlay, store, pins, catalogue, boot_id))
    });
    let (config, overlay, store, pins, catalogue, boot_id) =
        task.await.map_err(|source| StoreError::Task {
            action: "open the store",
            source,
        })??;
    Ok(Arc::new(Shelf::new(
        config, overlay, store, pins, catalogue, boot_id,
    )))
}

fn recover(
    config: &ImagesConfig,
    overlay: &Overlay,
    store: &Store,
    pins: &Pins,
    boot_id: &str,
) -> Result<Catalogue, StoreError> {
    let records = store.records()?;
    let mut change = Change::default();
    let mut catalogue = Catalogue::new(config.pinned.clone());
    catalogue.chained.extend(records.chained);

    let elsewhere = overlay.elsewhere().map(|key| (key.clone(), None));
    catalogue.elsewhere = elsewhere.collect();

    let present: BTreeSet<String> = names(&overlay.layers_dir())?.into_iter().collect();
    for (key, record) in records.layers {
        let trusted = (record.unsynced_since.as_deref()).is_none_or(|boot| boot == boot_id);
        match LayerKey::parse(&key) {
            Ok(parsed) if trusted && present.contains(&key) => {
                let state = LayerState {
                    usage: Usage {
                        bytes: record.bytes,
                        inodes: record.inodes,
                    },
                    recorded: true,
                    synced: record.unsynced_since.is_none(),
                };
                catalogue.layers.insert(parsed, state);
            }
            _ => {
                tracing::warn!(layer = key, trusted, "dropping a layer that may be damaged");
                change.drop_layers.push(key);
            }
        }
    }

    for key in records.bad_layers {
        match LayerKey::parse(&key) {
            // All that the record told is there to be seen. It is written anew once the layer is known to be on the disk.
            Ok(parsed) if present.contains(&key) => {
                tracing::warn!(
                    layer = key,
                    "the record of a layer does not decode: making another"
                );
                let state = LayerState {
                    usage: measured(overlay, &parsed)?,
                    recorded: true,
                    synced: false,
                };
                catalogue.layers.insert(parsed, state);
            }
            _ => change.drop_layers.push(key),
        }
    }
    for bad in records.bad_images {
        tracing::error!(
            image = bad.id,
            reason = bad.reason,
            "the record of an image does not decode: it is not listed; see longshore fsck"
        );
        catalogue.bad_records.push(bad);
    }

    let mut pinned = pins.read()?;
    for (record, config_json) in records.images {
        let id = record.id.clone();
        let held = !record.removed || pinned.values().any(|image| *image == id);
        let entry = Entry::new(record, &config_json);
        let whole = entry.filter(|entry| {
            let layers = &mut entry.image.layers.iter();
            held && layers.all(|key| catalogue.has_layer(key))
        });
        match whole {
            Some(entry) => catalogue.put(entry),
            None => {
                if held {
                    tracing::warn!(image = id, "dropping an image whose layers are not whole");
                }
                change.drop_images.push(id);
            }
        }
    }
    // Containers are mounted on the layers of an image of which no more is known than its configuration.
    for bad in catalogue.bad_records.clone() {
        if pinned.values().any(|image| *image == bad.id)
            && let Some(entry) = bad.rebuild(&catalogue)
        {
            catalogue.put(entry);
        }
    }
    for (container, image) in &pinned {
        if catalogue.entry(image).is_none()
            && let Err(error) = pins.remove(container)
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot remove a stale pin"
            );
        }
    }
    pinned.retain(|_, image| catalogue.entry(image).is_some());
    catalogue.pins = pinned;

    let garbage = catalogue.take_garbage();
    change
        .drop_layers
        .extend(garbage.iter().map(|(key, _)| key.to_string()));
    let nothing = change.drop_layers.is_empty() && change.drop_images.is_empty();
    if !nothing {
        store.apply(&change)?;
    }
    sweep(&overlay.ingest_dir(), |_| false)?;
    let known =
        |name: &str| LayerKey::parse(name).is_ok_and(|key| catalogue.layers.contains_key(&key));
    sweep(&overlay.layers_dir(), known)?;
    sweep(&indexes_dir(overlay), known)?;
    let retired = retired_dir(overlay);
    let found = retired::found(&retired, &names(&retired)?, boot_id, |key| {
        catalogue.holders(key)
    })?;
    catalogue.retired = found;
    catalogue.take_free_retired();
    sweep(&retired, |name| {
        let mut kept = catalogue.retired.iter();
        kept.any(|retired| retired.path.file_name().is_some_and(|kept| kept == name))
    })?;
    catalogue.find_blobs(overlay)?;
    for name in catalogue.take_garbage_blobs() {
        let path = blobs::directory(overlay).join(name);
        std::fs::remove_file(&path).map_err(StoreError::path("remove", &path))?;
    }
    store.fill_ballast();
    Ok(catalogue)
}

/// What a layer and its index take on disk.
fn measured(overlay: &Overlay, key: &LayerKey) -> Result<Usage, StoreError> {
    let measure = |path: &Path| match snapshot::measure(path) {
        Ok(usage) => Ok(usage),
        Err(errno) => Err(StoreError::path("measure", path)(errno.into())),
    };
    let index = indexes_dir(overlay).join(key.as_str());
    let index = std::fs::symlink_metadata(index).map(|stat| Usage {
        bytes: stat.blocks() * 512,
        inodes: 1,
    });
    Ok(measure(&overlay.layer_dir(key))? + index.unwrap_or_default())
}

impl BadRecord {
    /// The image without its names, as one that has been removed and that only containers hold on to.
    fn rebuild(&self, catalogue: &Catalogue) -> Option<Entry> {
        let parsed = ParsedConfig::parse(&self.config).ok()?;
        let mut below = None;
        let mut layers = Vec::new();
        for diff_id in &parsed.diff_ids {
            let diff_id = Digest::parse(diff_id).ok()?;
            let (shared, chained, chain) = layer_keys(&diff_id, below.as_ref()).ok()?;
            let mut keys = [chained, shared].into_iter();
            layers.push(keys.find(|key| catalogue.has_layer(key))?);
            below = Some(chain);
        }
        let record = ImageRecord {
            id: self.id.clone(),
            tags: Vec::new(),
            digests: Vec::new(),
            manifests: Vec::new(),
            manifest_digest: String::new(),
            origin: String::new(),
            layers: layers.iter().map(LayerKey::to_string).collect(),
            chain_id: below.map(|chain| chain.to_string()).unwrap_or_default(),
            size_bytes: self.config.len() as u64,
            manifest_type: String::new(),
            blobs: Vec::new(),
            keeps_blobs: false,
            removed: true,
        };
        Entry::with_config(record, parsed.config)
    }
}

/// Removes what is in a directory, but for what is to be kept.
fn sweep(directory: &Path, keep: impl Fn(&str) -> bool) -> Result<(), StoreError> {
    for name in names(directory)?.into_iter().filter(|name| !keep(name)) {
        let path = directory.join(name);
        tracing::info!(path = %path.display(), "sweeping what is not recorded");
        snapshot::remove_tree(&path)
            .map_err(|errno| StoreError::path("remove", &path)(errno.into()))?;
    }
    Ok(())
}

fn names(directory: &Path) -> Result<Vec<String>, StoreError> {
    let failed = || StoreError::path("read", directory);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed())? {
        names.extend(entry.map_err(failed())?.file_name().into_string().ok());
    }
    Ok(names)
}

/// Which boot this is; a test may have put another one into the root.
fn boot_id(_root: &Path) -> Result<String, StoreError> {
    #[cfg(test)]
    if let Ok(pretended) = std::fs::read_to_string(_root.join("pretended-boot")) {
        return Ok(pretended);
    }
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    std::fs::read_to_string(path)
        .map(|id| id.trim().to_owned())
        .map_err(StoreError::path("read", path))
}

#[cfg(test)]
pub(crate) fn pretend_boot(root: &Path, boot_id: &str) {
    std::fs::write(root.join("pretended-boot"), boot_id).unwrap();
}
