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

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use snapshot::{LayerKey, Overlay, Usage};

use crate::catalogue::{Catalogue, Entry, LayerState};
use crate::pins::Pins;
use crate::shelf::Shelf;
use crate::store::{Change, Store};
use crate::{ImagesConfig, StoreError};

pub(crate) async fn open(
    config: ImagesConfig,
    overlay: Arc<Overlay>,
) -> Result<Arc<Shelf>, StoreError> {
    let task = tokio::task::spawn_blocking(move || {
        let boot_id = boot_id(&config.root)?;
        std::fs::create_dir_all(&config.root).map_err(StoreError::path("make", &config.root))?;
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
    let mut catalogue = Catalogue::default();
    catalogue.chained.extend(records.chained);

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

    let mut pinned = pins.read()?;
    for (record, config_json) in records.images {
        let id = record.id.clone();
        let held = !record.removed || pinned.values().any(|image| *image == id);
        let entry = Entry::new(record, &config_json, &config.pinned);
        let whole = entry.filter(|entry| {
            let layers = &mut entry.image.layers.iter();
            held && layers.all(|key| catalogue.layers.contains_key(key))
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
        .extend(garbage.iter().map(LayerKey::to_string));
    let nothing = change.drop_layers.is_empty() && change.drop_images.is_empty();
    if !nothing {
        store.apply(&change)?;
    }
    sweep(&overlay.ingest_dir(), |_| false)?;
    sweep(&overlay.layers_dir(), |name| {
        LayerKey::parse(name).is_ok_and(|key| catalogue.layers.contains_key(&key))
    })?;
    store.fill_ballast();
    Ok(catalogue)
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
