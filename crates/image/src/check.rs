//! Comparing what is on disk with what was unpacked, layer by layer, while the store is used; and repairing what differs.
//!
//! ```text
//! for each layer, those below first:  reserve ─► compare with its index ─► sound
//!                                                        └─► damaged ─► fetch again ─► swap ─► compare ─► repaired
//! ```
//!
//! Nothing waits for a check: a layer under inspection can be pulled, used, and its image removed; it is only swept later. What containers
//! are mounted on is never written: see [`crate::retired`].

use std::collections::BTreeSet;
use std::sync::Arc;

use snapshot::LayerKey;
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::with_causes;
use crate::image::ParsedConfig;
use crate::layers::{Layer, LayerContext};
use crate::manifest::{self, Document, Manifest};
use crate::registry::Session;
use crate::source::Source;
use crate::store::ImageRecord;
use crate::{
    Auth, Damage, DamageKind, Digest, Images, PullCause, PullProgress, Reference, StoreError, index,
};

/// What to check.
#[derive(Debug, Clone, Default)]
pub struct CheckRequest {
    /// Whether to repair what is damaged, and to drop what cannot be read.
    pub repair: bool,
    /// Layers, by the beginning of their directories' names; none are all.
    pub layers: Vec<String>,
    /// For the registries that layers are fetched from again; the node's own where there are none.
    pub auth: Option<Auth>,
}

/// What a check has come upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A layer is being looked at.
    Layer {
        /// The name of its directory.
        key: String,
        /// Images that have it, by a name each.
        images: Vec<String>,
        /// Counted from 1.
        number: usize,
        /// How many will be looked at.
        total: usize,
    },
    /// Something in the last layer is not as it was. Of the first hundred it is told what.
    Damage(Damage),
    /// What has become of the last layer.
    Done {
        /// How much of it is damaged, or was.
        damages: u64,
        /// What was done about it.
        outcome: CheckOutcome,
    },
    /// The record of an image does not decode; the image is not listed.
    Record {
        /// The image.
        id: String,
        /// What is wrong with it.
        reason: String,
        /// It is no more; a pull brings the image again.
        dropped: bool,
    },
}

/// How a layer is after its check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckOutcome {
    /// As it was unpacked.
    Sound,
    /// Damaged; no repair was asked for.
    Damaged,
    /// As it was unpacked, once more.
    Repaired {
        /// Where it was fetched from.
        origin: String,
        /// Containers that were made on the damaged one and go on with it until they are made anew.
        containers: Vec<String>,
    },
    /// Damaged, and it could not be had again.
    Unrepaired {
        /// Why not.
        reason: String,
    },
    /// Its last image has been removed meanwhile.
    Gone,
}

/// Why a check did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// One at a time.
    #[error("another check is under way")]
    Busy,
    /// No such layer.
    #[error("no layer's directory begins with {beginning:?}")]
    UnknownLayer {
        /// What was asked for.
        beginning: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Damages of one layer that are told one by one.
const TOLD: u64 = 100;

impl Images {
    /// Checks layers one after the other, and repairs them where that is asked for; tells of everything through `findings`, and ends early when
    /// that is closed. Memory is bounded whatever the layers hold.
    pub async fn check(
        &self,
        request: CheckRequest,
        findings: mpsc::Sender<Finding>,
    ) -> Result<(), CheckError> {
        let _alone = self.checking.try_lock().map_err(|_| CheckError::Busy)?;
        let keys = self.chosen(&request.layers)?;
        match self.check_all(&request, &keys, &findings).await {
            Ok(()) | Err(Stop::Unheard) => Ok(()),
            Err(Stop::Store(error)) => Err(error.into()),
        }
    }

    /// Those below before those above, which may be repaired upon them.
    fn chosen(&self, beginnings: &[String]) -> Result<Vec<LayerKey>, CheckError> {
        let catalogue = self.shelf.read();
        let mut keys: Vec<LayerKey> = Vec::new();
        let mut seen = BTreeSet::new();
        let of_images = catalogue.entries().flat_map(|entry| &entry.image.layers);
        for key in of_images.chain(catalogue.layers.keys()) {
            // What is in other stores is theirs to check.
            if catalogue.layers.contains_key(key) && seen.insert(key.clone()) {
                keys.push(key.clone());
            }
        }
        for beginning in beginnings {
            if !keys.iter().any(|key| key.as_str().starts_with(beginning)) {
                let beginning = beginning.chars().take(100).collect();
                return Err(CheckError::UnknownLayer { beginning });
            }
        }
        if !beginnings.is_empty() {
            let wanted =
                |key: &LayerKey| beginnings.iter().any(|text| key.as_str().starts_with(text));
            keys.retain(wanted);
        }
        Ok(keys)
    }

    async fn check_all(
        &self,
        request: &CheckRequest,
        keys: &[LayerKey],
        findings: &mpsc::Sender<Finding>,
    ) -> Result<(), Stop> {
        if request.layers.is_empty() {
            self.check_records(request.repair, findings).await?;
        }
        for (index, key) in keys.iter().enumerate() {
            // Not swept before this is dropped, whoever removes its images.
            let _reservation = self.shelf.reserve(vec![key.clone()]);
            let finding = Finding::Layer {
                key: key.to_string(),
                images: self.names_of(key),
                number: index + 1,
                total: keys.len(),
            };
            tell(findings, finding).await?;
            let known = self.shelf.read().layers.contains_key(key);
            let (damages, outcome) = match known {
                false => (0, CheckOutcome::Gone),
                true => self.check_layer(request, key, findings).await?,
            };
            tell(findings, Finding::Done { damages, outcome }).await?;
        }
        Ok(())
    }

    async fn check_records(
        &self,
        repair: bool,
        findings: &mpsc::Sender<Finding>,
    ) -> Result<(), Stop> {
        let bad_records = self.shelf.read().bad_records.clone();
        for bad in bad_records {
            if repair {
                self.shelf.drop_bad_record(&bad).await?;
            }
            let finding = Finding::Record {
                id: bad.id,
                reason: bad.reason,
                dropped: repair,
            };
            tell(findings, finding).await?;
        }
        Ok(())
    }

    async fn check_layer(
        &self,
        request: &CheckRequest,
        key: &LayerKey,
        findings: &mpsc::Sender<Finding>,
    ) -> Result<(u64, CheckOutcome), Stop> {
        let damages = self.compare(key, Some(findings.clone())).await?;
        let outcome = match (damages, request.repair) {
            (0, _) => CheckOutcome::Sound,
            (_, false) => CheckOutcome::Damaged,
            (_, true) => match self.repair(key, request.auth.as_ref()).await {
                Err(reason) => CheckOutcome::Unrepaired { reason },
                Ok(repaired) => match self.compare(key, None).await? {
                    0 => repaired,
                    left => CheckOutcome::Unrepaired {
                        reason: format!("{left} damages are in what was fetched as well"),
                    },
                },
            },
        };
        if damages > 0 {
            tracing::warn!(layer = %key, damages, ?outcome, "a layer is not as it was unpacked");
        }
        Ok((damages, outcome))
    }

    /// How many things of a layer differ from its index. On a thread of its own, whose working directory changes.
    async fn compare(
        &self,
        key: &LayerKey,
        findings: Option<mpsc::Sender<Finding>>,
    ) -> Result<u64, Stop> {
        let root = self.shelf.overlay.layer_dir(key);
        let path = self.shelf.index_path(key);
        let (sender, compared) = oneshot::channel();
        let work = move || {
            let mut damages = 0;
            let mut found = |damage| {
                damages += 1;
                match &findings {
                    Some(findings) if damages <= TOLD => {
                        findings.blocking_send(Finding::Damage(damage)).is_ok()
                    }
                    Some(findings) => !findings.is_closed(),
                    None => true,
                }
            };
            if let Err(error) = index::verify(&root, &path, &mut found) {
                let kind = match error.kind() {
                    std::io::ErrorKind::NotFound => DamageKind::NoIndex,
                    _ => DamageKind::BadIndex(error.to_string()),
                };
                let path = "/".to_owned();
                found(Damage { path, kind });
            }
            let _ = sender.send(damages);
        };
        std::thread::Builder::new()
            .name("layer-verify".into())
            .stack_size(512 * 1024)
            .spawn(work)
            .map_err(StoreError::path(
                "start a thread to verify",
                self.shelf.overlay.layer_dir(key),
            ))?;
        compared.await.map_err(|_| {
            Stop::Store(StoreError::Stopped {
                step: "layer-verified-again",
            })
        })
    }

    /// Fetches a layer again and swaps it in.
    async fn repair(&self, key: &LayerKey, auth: Option<&Auth>) -> Result<CheckOutcome, String> {
        let images: Vec<ImageRecord> = {
            let catalogue = self.shelf.read();
            let entries = catalogue.entries();
            entries
                .filter(|entry| entry.image.layers.contains(key))
                .map(|entry| entry.record.clone())
                .collect()
        };
        let mut reason = "no image that has the layer says which registry it is from".to_owned();
        for record in &images {
            match self.repair_from_blobs(key, record).await {
                Some(Ok(outcome)) => return Ok(outcome),
                Some(Err(error)) => reason = with_causes(&error),
                None => {}
            }
            for name in &record.digests {
                match self.repair_from(key, record, name, auth).await {
                    Ok(outcome) => return Ok(outcome),
                    Err(error) => reason = with_causes(&error),
                }
            }
        }
        Err(reason)
    }

    async fn repair_from(
        &self,
        key: &LayerKey,
        record: &ImageRecord,
        name: &str,
        auth: Option<&Auth>,
    ) -> Result<CheckOutcome, PullCause> {
        let reference = Reference::parse(name)?;
        let session = Session::open(self.client(), &reference, auth).await?;
        let session = Arc::new(session);
        let (_, _, manifest) = manifest::fetch(&session, &record.manifest_digest).await?;
        let source = Source::Registry(Arc::clone(&session));
        self.repair_with(key, record, &manifest, source, session.origin())
            .await
    }

    /// None where the layer's compressed form has not been kept.
    async fn repair_from_blobs(
        &self,
        key: &LayerKey,
        record: &ImageRecord,
    ) -> Option<Result<CheckOutcome, PullCause>> {
        let bytes = self.shelf.manifest(&record.id).ok().flatten()?;
        let Ok(Document::Manifest(manifest)) = Document::parse(&bytes, &record.manifest_type)
        else {
            return None;
        };
        let (layer, _) = self.layer_of(key, record, &manifest).ok()?;
        let path = self.shelf.blob_path(layer.descriptor.digest.as_str());
        if !path.exists() {
            return None;
        }
        let source = Source::Kept(path);
        let origin = "what was kept of it".to_owned();
        Some(
            self.repair_with(key, record, &manifest, source, origin)
                .await,
        )
    }

    async fn repair_with(
        &self,
        key: &LayerKey,
        record: &ImageRecord,
        manifest: &Manifest,
        source: Source,
        origin: String,
    ) -> Result<CheckOutcome, PullCause> {
        let (layer, below) = self.layer_of(key, record, manifest)?;
        let context = LayerContext {
            shelf: Arc::clone(&self.shelf),
            source,
            permits: Arc::clone(&self.permits),
            progress: watch::Sender::new(PullProgress::default()),
        };
        let made =
            (context.make_again(&layer, key, below).await).map_err(|source| PullCause::Layer {
                digest: layer.descriptor.digest.to_string(),
                origin: origin.clone(),
                source,
            })?;
        let (shelf, place) = (Arc::clone(&self.shelf), key.clone());
        let holders = self
            .shelf
            .blocking("put a layer into its place", move || {
                shelf.replace(made.ingest, &place, made.usage)
            })
            .await?;
        self.shelf.record_layer(key).await?;
        Ok(CheckOutcome::Repaired {
            origin,
            containers: containers(&holders),
        })
    }

    /// The layer as its image's manifest has it, and the keys of those below.
    fn layer_of(
        &self,
        key: &LayerKey,
        record: &ImageRecord,
        manifest: &Manifest,
    ) -> Result<(Layer, Vec<LayerKey>), PullCause> {
        let config = self.shelf.config_json(&record.id)?.unwrap_or_default();
        let diff_ids = ParsedConfig::parse(&config)
            .map(|parsed| parsed.diff_ids)
            .unwrap_or_default();
        let mut below = None;
        let mut keys = Vec::new();
        let rows = record.layers.iter().zip(&manifest.layers).zip(&diff_ids);
        for (index, ((recorded, descriptor), diff_id)) in rows.enumerate() {
            let (Ok(diff_id), Ok(recorded)) = (Digest::parse(diff_id), LayerKey::parse(recorded))
            else {
                break;
            };
            let Ok((layer, chain)) = Layer::new(index, descriptor.clone(), diff_id, below.as_ref())
            else {
                break;
            };
            if recorded == *key {
                return Ok((layer, keys));
            }
            keys.push(recorded);
            below = Some(chain);
        }
        Err(PullCause::Document {
            document: format!("manifest {}", record.manifest_digest),
            origin: record.id.clone(),
            problem: crate::DocumentProblem::Malformed(format!("it has no layer {key}")),
        })
    }

    fn names_of(&self, key: &LayerKey) -> Vec<String> {
        let catalogue = self.shelf.read();
        let entries = catalogue
            .entries()
            .filter(|entry| entry.image.layers.contains(key));
        entries.map(|entry| entry.image.name().to_owned()).collect()
    }
}

fn containers(pins: &BTreeSet<String>) -> Vec<String> {
    let ids: BTreeSet<&str> = pins
        .iter()
        .map(|pin| crate::holdings::container(pin))
        .collect();
    ids.into_iter().map(str::to_owned).collect()
}

async fn tell(findings: &mpsc::Sender<Finding>, finding: Finding) -> Result<(), Stop> {
    (findings.send(finding).await).map_err(|_| Stop::Unheard)
}

enum Stop {
    /// Whoever asked has gone.
    Unheard,
    Store(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
