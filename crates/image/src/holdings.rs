use std::collections::{BTreeMap, BTreeSet};

use crate::catalogue::{Catalogue, Entry};

/// Whose each directory of the store is, by name; what is not here is nobody's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Layers, and their indexes: the images that have them.
    pub layers: BTreeMap<String, Vec<String>>,
    /// Kept blobs: the images that have them.
    pub blobs: BTreeMap<String, Vec<String>>,
    /// Layers that have been replaced: the containers that go on with them.
    pub retired: BTreeMap<String, Vec<String>>,
    /// Something is being fetched or made: what is in `ingest/` may be its.
    pub busy: bool,
}

impl Holdings {
    pub(crate) fn of(catalogue: &Catalogue) -> Self {
        let mut holdings = Self {
            busy: catalogue.has_reservations(),
            ..Self::default()
        };
        for key in catalogue.layers.keys() {
            holdings.layers.insert(key.to_string(), Vec::new());
        }
        for entry in catalogue.entries() {
            let owner = owner(catalogue, entry);
            let keys: BTreeSet<_> = entry.image.layers.iter().collect();
            for key in keys {
                let owners = holdings.layers.entry(key.to_string()).or_default();
                owners.push(owner.clone());
            }
            for name in entry.record.kept_blobs() {
                if catalogue.blobs.contains_key(&name) {
                    holdings.blobs.entry(name).or_default().push(owner.clone());
                }
            }
        }
        for retired in &catalogue.retired {
            let name = retired.path.file_name().unwrap_or_default();
            let holders = (retired.holders.iter())
                .filter(|pin| catalogue.pins.contains_key(*pin))
                .map(|pin| container(pin));
            let holders: BTreeSet<&str> = holders.collect();
            holdings.retired.insert(
                name.to_string_lossy().into_owned(),
                holders.into_iter().map(str::to_owned).collect(),
            );
        }
        holdings
    }
}

/// Of a container that mounts images there are several pins: its id, and more after a dot.
pub(crate) fn container(pin: &str) -> &str {
    pin.split('.').next().unwrap_or(pin)
}

fn owner(catalogue: &Catalogue, entry: &Entry) -> String {
    let id = &entry.record.id;
    if !entry.record.removed {
        return entry.image.name().to_owned();
    }
    let pins = catalogue.pins.iter();
    let holders: BTreeSet<&str> = pins
        .filter(|(_, image)| *image == id)
        .map(|(pin, _)| container(pin))
        .collect();
    let holders: Vec<&str> = holders.into_iter().collect();
    format!("{id} (removed; held by container {})", holders.join(", "))
}
