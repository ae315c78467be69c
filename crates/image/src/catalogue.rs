//! What there is, in memory: every list and look-up is answered from here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use snapshot::{LayerKey, Usage};

use crate::image::ParsedConfig;
use crate::retired::Retired;
use crate::store::{BadRecord, ImageRecord};
use crate::{FindError, Image, ImageUser, Reference};

#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    images: BTreeMap<String, Entry>,
    /// See [`crate::ImagesConfig::pinned`].
    pinned: Vec<String>,
    /// Tags and digests in full, to ids.
    names: BTreeMap<String, String>,
    /// Digests of manifests and indexes, to ids.
    manifests: BTreeMap<String, String>,
    pub(crate) layers: BTreeMap<LayerKey, LayerState>,
    /// Layers of other stores, and what they take there as far as that has been measured. They are read, and nothing else.
    pub(crate) elsewhere: BTreeMap<LayerKey, Option<Usage>>,
    /// DiffIDs of layers that depend on those below.
    pub(crate) chained: BTreeSet<String>,
    /// Layers that pulls count on, and how many do.
    reserved: BTreeMap<LayerKey, usize>,
    /// Container to image.
    pub(crate) pins: BTreeMap<String, String>,
    /// Kept blobs, by the names of their files.
    pub(crate) blobs: BTreeMap<String, Usage>,
    /// Blobs that somebody counts on, and how many do.
    pub(crate) reserved_blobs: BTreeMap<String, usize>,
    /// Layers that have been replaced under containers.
    pub(crate) retired: Vec<Retired>,
    /// Records that did not decode, and why not. They are not touched until somebody asks for a repair.
    pub(crate) bad_records: Vec<BadRecord>,
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) record: ImageRecord,
    pub(crate) image: Arc<Image>,
}

/// A layer in its place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayerState {
    pub(crate) usage: Usage,
    pub(crate) recorded: bool,
    pub(crate) synced: bool,
}

impl Catalogue {
    /// An empty one, in which images of such names count as pinned.
    pub(crate) fn new(pinned: Vec<String>) -> Self {
        Self {
            pinned,
            ..Self::default()
        }
    }

    /// From here on images of these names count as pinned, and no others.
    pub(crate) fn set_pinned(&mut self, pinned: Vec<String>) {
        self.pinned = pinned;
        for entry in self.images.values_mut() {
            entry.mark(&self.pinned);
        }
    }

    pub(crate) fn list(&self) -> Vec<Arc<Image>> {
        (self.images.values())
            .filter(|entry| !entry.record.removed)
            .map(|entry| Arc::clone(&entry.image))
            .collect()
    }

    /// By id, then by name, then by the beginning of an id.
    pub(crate) fn find(&self, text: &str) -> Result<Option<&Entry>, FindError> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let is_hex = (1..=64).contains(&digits.len()) && crate::digest::is_lower_hex(digits);
        if is_hex && digits.len() == 64 {
            return Ok(self.visible(&format!("sha256:{digits}")));
        }
        let reference = Reference::parse(text);
        if let Ok(reference) = &reference
            && let Some(id) = self.names.get(&reference.canonical())
            && let Some(entry) = self.visible(id)
        {
            return Ok(Some(entry));
        }
        if is_hex {
            let prefix = format!("sha256:{digits}");
            let mut fitting = (self.images.range(prefix.clone()..))
                .take_while(|(id, _)| id.starts_with(&prefix))
                .filter(|(_, entry)| !entry.record.removed);
            let first = fitting.next();
            let more = fitting.count();
            return match (first, more) {
                (first, 0) => Ok(first.map(|(_, entry)| entry)),
                (_, more) => Err(FindError::Ambiguous {
                    prefix: text.to_owned(),
                    count: 1 + more,
                }),
            };
        }
        reference?;
        Ok(None)
    }

    fn visible(&self, id: &str) -> Option<&Entry> {
        self.images.get(id).filter(|entry| !entry.record.removed)
    }

    /// By id, also one that has been removed but is pinned.
    pub(crate) fn entry(&self, id: &str) -> Option<&Entry> {
        self.images.get(id)
    }

    /// By the digest of a manifest or index.
    pub(crate) fn by_manifest(&self, digest: &str) -> Option<&Entry> {
        self.images.get(self.manifests.get(digest)?)
    }

    /// The image that has a name now.
    pub(crate) fn holder(&self, name: &str) -> Option<&Entry> {
        self.images.get(self.names.get(name)?)
    }

    /// Adds an image, or replaces what was known of it.
    pub(crate) fn put(&mut self, mut entry: Entry) {
        self.drop_image(&entry.record.id.clone());
        entry.mark(&self.pinned);
        let record = &entry.record;
        for name in record.tags.iter().chain(&record.digests) {
            self.names.insert(name.clone(), record.id.clone());
        }
        for digest in &record.manifests {
            self.manifests.insert(digest.clone(), record.id.clone());
        }
        self.images.insert(record.id.clone(), entry);
    }

    pub(crate) fn drop_image(&mut self, id: &str) {
        if self.images.remove(id).is_some() {
            self.names.retain(|_, holder| holder != id);
            self.manifests.retain(|_, holder| holder != id);
        }
    }

    pub(crate) fn is_pinned(&self, id: &str) -> bool {
        self.pins.values().any(|pinned| pinned == id)
    }

    /// Removed images that no container holds any more.
    pub(crate) fn forsaken(&self) -> Vec<String> {
        (self.images.values())
            .filter(|entry| entry.record.removed && !self.is_pinned(&entry.record.id))
            .map(|entry| entry.record.id.clone())
            .collect()
    }

    pub(crate) fn reserve(&mut self, key: &LayerKey) {
        *self.reserved.entry(key.clone()).or_default() += 1;
    }

    pub(crate) fn release(&mut self, key: &LayerKey) {
        if let Some(count) = self.reserved.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                self.reserved.remove(key);
            }
        }
    }

    pub(crate) fn is_reserved(&self, key: &LayerKey) -> bool {
        self.reserved.contains_key(key)
    }

    pub(crate) fn has_reservations(&self) -> bool {
        !self.reserved.is_empty()
    }

    /// Whether a layer is here or in another store.
    pub(crate) fn has_layer(&self, key: &LayerKey) -> bool {
        self.layers.contains_key(key) || self.elsewhere.contains_key(key)
    }

    /// Of a layer here or in another store.
    pub(crate) fn usage_of(&self, key: &LayerKey) -> Option<Usage> {
        let own = self.layers.get(key).map(|state| state.usage);
        own.or_else(|| *self.elsewhere.get(key)?)
    }

    /// Takes out the layers that neither an image nor a pull needs.
    pub(crate) fn take_garbage(&mut self) -> Vec<(LayerKey, LayerState)> {
        let garbage = self.unneeded_without(&[]);
        let taken = garbage.into_iter().filter_map(|key| {
            let state = self.layers.remove(&key)?;
            Some((key, state))
        });
        taken.collect()
    }

    /// The recorded layers that would be garbage if these images were not.
    pub(crate) fn recorded_of_only(&self, images: &[String]) -> Vec<LayerKey> {
        let mut unneeded = self.unneeded_without(images);
        unneeded.retain(|key| self.layers.get(key).is_some_and(|state| state.recorded));
        unneeded
    }

    fn unneeded_without(&self, images: &[String]) -> Vec<LayerKey> {
        let used: BTreeSet<&LayerKey> = (self.images.values())
            .filter(|entry| !images.contains(&entry.record.id))
            .flat_map(|entry| &entry.image.layers)
            .chain(self.reserved.keys())
            .collect();
        let unneeded = self.layers.keys().filter(|key| !used.contains(key));
        unneeded.cloned().collect()
    }

    /// The records of images and of layers have gone in one step. A layer that a pull has come to count on meanwhile is recorded again with
    /// that pull's image.
    pub(crate) fn forget(&mut self, images: &[String], layers: &[LayerKey]) {
        for id in images {
            self.drop_image(id);
        }
        for key in layers {
            if let Some(state) = self.layers.get_mut(key) {
                state.recorded = false;
            }
        }
    }

    pub(crate) fn usage(&self) -> Usage {
        let layers = self.layers.values().map(|layer| layer.usage);
        layers
            .chain(self.retired.iter().map(|retired| retired.usage))
            .chain(self.blobs.values().copied())
            .sum()
    }

    /// Every image, bottom layer first, also those that have been removed but are pinned.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.images.values()
    }

    /// Pins of images that have a layer.
    pub(crate) fn holders(&self, key: &LayerKey) -> BTreeSet<String> {
        let has_it = |id: &String| {
            let entry = self.images.get(id);
            entry.is_some_and(|entry| entry.image.layers.contains(key))
        };
        (self.pins.iter())
            .filter(|(_, id)| has_it(id))
            .map(|(pin, _)| pin.clone())
            .collect()
    }

    /// Whether a replaced layer has lost the last of its containers.
    pub(crate) fn has_free_retired(&self) -> bool {
        self.retired
            .iter()
            .any(|retired| retired.is_free(&self.pins))
    }

    /// Takes out the replaced layers that no container is mounted on any more.
    pub(crate) fn take_free_retired(&mut self) -> Vec<Retired> {
        let pins = &self.pins;
        let (free, held) = self
            .retired
            .drain(..)
            .partition(|retired| retired.is_free(pins));
        self.retired = held;
        free
    }
}

impl Entry {
    /// `None` if the record or the configuration is damaged.
    pub(crate) fn new(record: ImageRecord, config_json: &[u8]) -> Option<Self> {
        let parsed = ParsedConfig::parse(config_json).ok()?;
        Self::with_config(record, parsed.config)
    }

    pub(crate) fn with_config(record: ImageRecord, config: crate::ImageConfig) -> Option<Self> {
        let layers = (record.layers.iter())
            .map(|key| LayerKey::parse(key).ok())
            .collect::<Option<Vec<_>>>()?;
        let image = Image {
            id: record.id.clone(),
            repo_tags: record.tags.clone(),
            repo_digests: record.digests.clone(),
            size_bytes: record.size_bytes,
            user: ImageUser::parse(&config.user),
            config,
            layers,
            chain_id: record.chain_id.clone(),
            manifest_digest: record.manifest_digest.clone(),
            origin: record.origin.clone(),
            // The catalogue knows.
            pinned: false,
        };
        Some(Self {
            record,
            image: Arc::new(image),
        })
    }

    fn mark(&mut self, patterns: &[String]) {
        let mut names = self.record.tags.iter().chain(&self.record.digests);
        let pinned = names.any(|name| patterns.iter().any(|pattern| fits(pattern, name)));
        if pinned != self.image.pinned {
            Arc::make_mut(&mut self.image).pinned = pinned;
        }
    }
}

/// Whether a name is meant by a line of the configuration's list.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => Reference::parse(pattern).is_ok_and(|reference| reference.canonical() == name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, tags: &[&str]) -> Entry {
        let record = ImageRecord {
            id: format!("sha256:{id}{}", "0".repeat(64 - id.len())),
            tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
            digests: Vec::new(),
            manifests: Vec::new(),
            manifest_digest: String::new(),
            origin: String::new(),
            layers: Vec::new(),
            chain_id: String::new(),
            size_bytes: 1,
            manifest_type: String::new(),
            blobs: Vec::new(),
            keeps_blobs: false,
            removed: false,
        };
        Entry::new(record, b"{}").unwrap()
    }

    #[test]
    fn images_are_found_by_any_name() {
        let mut catalogue = Catalogue::default();
        catalogue.put(entry("abc1", &["docker.io/library/busybox:1"]));
        catalogue.put(entry("abd2", &["docker.io/library/abc:latest"]));
        catalogue.put(entry("e", &["r.io/team/app:latest", "r.io/app:x"]));
        let found = |text: &str| {
            let entry = catalogue.find(text).unwrap();
            entry.map(|entry| entry.image.id[7..11].to_owned())
        };
        let full = entry("abc1", &[]).record.id;
        for (text, id) in [
            (&*full, Some("abc1")),
            (&full[7..], Some("abc1")),
            ("busybox:1", Some("abc1")),
            ("docker.io/busybox:1", Some("abc1")),
            ("busybox", None),
            ("abc1", Some("abc1")),
            ("sha256:abd", Some("abd2")),
            // A name goes before the beginning of an id.
            ("abc", Some("abd2")),
            ("r.io/app:x", Some("e000")),
            ("ffff", None),
        ] {
            assert_eq!(found(text).as_deref(), id, "{text}");
        }
        assert!(matches!(
            catalogue.find("ab"),
            Err(FindError::Ambiguous { count: 2, .. })
        ));
        assert!(matches!(
            catalogue.find("Bad Name"),
            Err(FindError::Reference(_))
        ));
        assert!(matches!(catalogue.find(""), Err(FindError::Reference(_))));
    }

    #[test]
    fn pinned_images_are_named_by_pattern() {
        let mut catalogue = Catalogue::new(vec!["busybox:1".into(), "r.io/team/*".into()]);
        let names = [
            "docker.io/library/busybox:1",
            "docker.io/library/busybox:10",
            "r.io/team/app:latest",
            "r.io/teams/app:latest",
        ];
        for (id, name) in ["a", "b", "c", "d"].into_iter().zip(names) {
            catalogue.put(entry(id, &[name]));
        }
        let pinned = |catalogue: &Catalogue| {
            let images = catalogue.list().into_iter();
            images.map(|image| image.pinned).collect::<Vec<_>>()
        };
        assert_eq!(pinned(&catalogue), [true, false, true, false]);
        catalogue.set_pinned(vec!["busybox:10".into(), "r.io/teams/app".into()]);
        assert_eq!(pinned(&catalogue), [false, true, false, true]);
    }
}
