//! One pull, from a name to an image.
//!
//! Layers are unpacked on their own, in parallel. One that turns out to depend on those below stops at the first such entry; when
//! all others are here, these are fetched again, bottom first, with a view of what is below them.

use std::sync::Arc;

use bytes::Bytes;
use snapshot::LayerKey;
use tokio::sync::{Semaphore, watch};

use crate::digest::chain_id;
use crate::image::ParsedConfig;
use crate::layers::{Layer, LayerContext, Unplaced, place};
use crate::manifest::{self, Descriptor, Document, Manifest, Platform};
use crate::registry::{Client, Session};
use crate::shelf::{NewImage, Shelf};
use crate::signature::{Admission, PolicyFile, united};
use crate::source::Source;
use crate::store::ImageRecord;
use crate::unpack::LayerError;
use crate::{
    Auth, Digest, DocumentProblem, Image, LayerProgress, LayerStage, PullCause, PullProgress,
    PullStage, Reference,
};

const MAX_CONFIG_BYTES: usize = 8 << 20;

/// An index may lead to another, but not on and on.
const MAX_INDEXES: usize = 4;

#[derive(Debug)]
pub(crate) struct Pull {
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) client: Arc<Client>,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) reference: Reference,
    pub(crate) auth: Option<Auth>,
    /// On whose behalf; the policy for signatures may tell them apart.
    pub(crate) namespace: String,
    pub(crate) policy: Arc<PolicyFile>,
    pub(crate) progress: watch::Sender<PullProgress>,
}

/// What a name has led to.
struct Resolved {
    manifest: Manifest,
    /// As it came.
    bytes: Bytes,
    media_type: String,
    digest: Digest,
    /// Of the indexes on the way, and of the manifest.
    digests: Vec<Digest>,
}

impl Pull {
    pub(crate) async fn run(self) -> Result<Arc<Image>, PullCause> {
        let admission = Admission::open(&self.policy, &self.reference, &self.namespace).await?;
        let client = Arc::clone(&self.client);
        let session = Session::open(client, &self.reference, self.auth.as_ref()).await?;
        let session = Arc::new(session);

        let (bytes, media_type) = session
            .manifest(self.reference.target(), &manifest::accept())
            .await?;
        let wanted = self.reference.digest().cloned();
        let top = wanted.unwrap_or_else(|| Digest::of(&bytes));
        check_digest(&session, "manifest", &top, &bytes)?;
        if let Some(image) = self.known(&session, &top, &admission).await? {
            return Ok(image);
        }
        let resolved = self.resolve(&session, top, bytes, &media_type).await?;
        let signatures = admission.check(&session, &resolved.digests).await?;
        let config = &resolved.manifest.config;
        let config_json = self.config(&session, config).await?;
        let parsed = ParsedConfig::parse(&config_json).map_err(|error| {
            problem(
                &session,
                &format!("configuration {}", config.digest),
                DocumentProblem::Malformed(error.to_string()),
            )
        })?;
        let layers = self.layers(&session, &resolved, &parsed)?;

        let keys = layers
            .iter()
            .flat_map(|layer| [layer.shared.clone(), layer.chained.clone()]);
        let reservation = self.shelf.reserve(keys.collect());
        let blobs: Vec<_> = layers
            .iter()
            .map(|layer| layer.descriptor.record())
            .collect();
        let kept = self.shelf.reserve_blobs(&blobs);
        let keys = self.place(&session, &layers).await?;

        self.progress
            .send_modify(|progress| progress.stage = PullStage::Recording);
        self.shelf.failpoints.reach("layers-placed")?;
        let mut new = self.image(&session, &resolved, parsed, config_json, &layers, &keys);
        (_, new.signatures) = united(&self.shelf, &new.record.id, signatures).await?;
        let image = self.shelf.add(new).await?;
        drop((reservation, kept));
        Ok(image)
    }

    /// An image that is here already under another name, or this one.
    async fn known(
        &self,
        session: &Session,
        digest: &Digest,
        admission: &Admission,
    ) -> Result<Option<Arc<Image>>, PullCause> {
        let (mut record, config, layers) = match self.shelf.read().by_manifest(digest.as_str()) {
            Some(entry) => (
                entry.record.clone(),
                entry.image.config.clone(),
                entry.image.layers.clone(),
            ),
            None => return Ok(None),
        };
        let mut digests = vec![digest.clone()];
        digests.extend(Digest::parse(&record.manifest_digest).ok());
        digests.dedup();
        let signatures = admission.check(session, &digests).await?;
        let (news, signatures) = united(&self.shelf, &record.id, signatures).await?;
        let named = self.named(digest);
        let complete = named.0.iter().all(|tag| record.tags.contains(tag))
            && record.digests.contains(&named.1);
        if complete && !record.removed && !news {
            let catalogue = self.shelf.read();
            return Ok(catalogue
                .entry(&record.id)
                .map(|entry| Arc::clone(&entry.image)));
        }
        // Nothing of it may be swept while its new name is being recorded.
        let _reservation = self.shelf.reserve(layers);
        if self.shelf.read().entry(&record.id).is_none() {
            return Ok(None);
        }
        let id = record.id.clone();
        let shelf = Arc::clone(&self.shelf);
        let config_json = self
            .shelf
            .blocking("read a configuration", move || shelf.config_json(&id))
            .await?;
        let Some(config_json) = config_json else {
            return Ok(None);
        };
        (record.tags, record.digests) = (named.0, vec![named.1]);
        record.removed = false;
        record.origin = session.origin();
        let new = NewImage {
            record,
            config,
            config_json,
            manifest: None,
            signatures,
        };
        Ok(Some(self.shelf.add(new).await?))
    }

    /// The names that this pull gives: none but the digest where one was asked for.
    fn named(&self, top: &Digest) -> (Vec<String>, String) {
        let tags = match self.reference.digest() {
            Some(_) => Vec::new(),
            None => vec![self.reference.canonical()],
        };
        (tags, self.reference.with_digest(top))
    }

    /// From what the name means to the manifest for this machine.
    async fn resolve(
        &self,
        session: &Session,
        top: Digest,
        mut bytes: Bytes,
        media_type: &str,
    ) -> Result<Resolved, PullCause> {
        let platform = Platform::of_this_machine();
        let mut media_type = media_type.to_owned();
        let mut digests = vec![top.clone()];
        let mut digest = top;
        for _ in 0..MAX_INDEXES {
            let subject = format!("manifest {digest}");
            let document = Document::parse(&bytes, &media_type)
                .map_err(|found| problem(session, &subject, found))?;
            let entries = match document {
                Document::Manifest(manifest) => {
                    return Ok(Resolved {
                        manifest,
                        media_type: manifest::type_of(&bytes, &media_type),
                        bytes,
                        digest,
                        digests,
                    });
                }
                Document::Index(entries) => entries,
            };
            let chosen = platform
                .choose(&entries)
                .map_err(|found| problem(session, &format!("index {digest}"), found))?;
            (bytes, media_type) = session
                .manifest(chosen.digest.as_str(), &manifest::accept())
                .await?;
            let subject = format!("manifest {}", chosen.digest);
            check_size(session, &subject, chosen.size, bytes.len() as u64)?;
            check_digest(session, "manifest", &chosen.digest, &bytes)?;
            digest = chosen.digest.clone();
            digests.push(digest.clone());
        }
        let found = DocumentProblem::Malformed("indexes lead to indexes".into());
        Err(problem(session, &format!("index {digest}"), found))
    }

    async fn config(&self, session: &Session, config: &Descriptor) -> Result<Vec<u8>, PullCause> {
        let bytes = session
            .small_blob(config.digest.as_str(), MAX_CONFIG_BYTES)
            .await?;
        let subject = format!("configuration {}", config.digest);
        check_size(session, &subject, config.size, bytes.len() as u64)?;
        check_digest(session, "configuration", &config.digest, &bytes)?;
        Ok(bytes.into())
    }

    /// Pairs the manifest's layers with the configuration's diffIDs.
    fn layers(
        &self,
        session: &Session,
        resolved: &Resolved,
        parsed: &ParsedConfig,
    ) -> Result<Vec<Layer>, PullCause> {
        let subject = format!("configuration {}", resolved.manifest.config.digest);
        let malformed =
            |reason: String| problem(session, &subject, DocumentProblem::Malformed(reason));
        let (descriptors, diff_ids) = (&resolved.manifest.layers, &parsed.diff_ids);
        if descriptors.len() != diff_ids.len() {
            return Err(malformed(format!(
                "it has {} diffIDs for {} layers",
                diff_ids.len(),
                descriptors.len()
            )));
        }
        let mut below = None;
        let mut layers = Vec::with_capacity(descriptors.len());
        for (index, (descriptor, diff_id)) in descriptors.iter().zip(diff_ids).enumerate() {
            let diff_id = Digest::parse(diff_id).map_err(|error| malformed(error.to_string()))?;
            let kind = &*descriptor.media_type;
            if !kind.contains("tar") || kind.contains("encrypted") {
                return Err(PullCause::Layer {
                    digest: descriptor.digest.to_string(),
                    origin: session.subject(),
                    source: LayerError::Kind {
                        media_type: kind.chars().take(200).collect(),
                    },
                });
            }
            let (layer, chain) = Layer::new(index, descriptor.clone(), diff_id, below.as_ref())
                .map_err(|error| malformed(error.to_string()))?;
            layers.push(layer);
            below = Some(chain);
        }
        Ok(layers)
    }

    /// Sees to it that every layer is in its place; the keys are bottom first.
    async fn place(
        &self,
        session: &Arc<Session>,
        layers: &[Layer],
    ) -> Result<Vec<LayerKey>, PullCause> {
        self.progress.send_modify(|progress| {
            progress.stage = PullStage::Layers;
            progress.layers = (layers.iter())
                .map(|layer| LayerProgress {
                    digest: layer.descriptor.digest.to_string(),
                    total_bytes: layer.descriptor.size,
                    fetched_bytes: 0,
                    stage: LayerStage::Waiting,
                })
                .collect();
        });
        let context = Arc::new(LayerContext {
            shelf: Arc::clone(&self.shelf),
            source: Source::Registry(Arc::clone(session)),
            permits: Arc::clone(&self.permits),
            progress: self.progress.clone(),
        });
        place(&context, layers)
            .await
            .map_err(|failed| match failed {
                Unplaced::Layer(index, source) => PullCause::Layer {
                    digest: layers[index].descriptor.digest.to_string(),
                    origin: session.subject(),
                    source,
                },
                Unplaced::Store(error) => error.into(),
            })
    }

    fn image(
        &self,
        session: &Session,
        resolved: &Resolved,
        parsed: ParsedConfig,
        config_json: Vec<u8>,
        layers: &[Layer],
        keys: &[LayerKey],
    ) -> NewImage {
        let top = &resolved.digests[0];
        let (tags, digest) = self.named(top);
        let size_bytes = config_json.len() as u64 + self.shelf.size_of(keys);
        let mut chain = None;
        for layer in layers {
            chain = Some(chain_id(chain.as_ref(), &layer.diff_id));
        }
        NewImage {
            record: ImageRecord {
                id: resolved.manifest.config.digest.to_string(),
                tags,
                digests: vec![digest],
                manifests: resolved.digests.iter().map(Digest::to_string).collect(),
                manifest_digest: resolved.digest.to_string(),
                origin: session.origin(),
                layers: keys.iter().map(LayerKey::to_string).collect(),
                chain_id: chain.map(|chain| chain.to_string()).unwrap_or_default(),
                size_bytes,
                manifest_type: resolved.media_type.clone(),
                blobs: layers
                    .iter()
                    .map(|layer| layer.descriptor.record())
                    .collect(),
                keeps_blobs: self.shelf.config.keep_blobs,
                removed: false,
            },
            config: parsed.config,
            config_json,
            manifest: Some(resolved.bytes.to_vec()),
            signatures: Vec::new(),
        }
    }
}

fn problem(session: &Session, document: &str, found: DocumentProblem) -> PullCause {
    PullCause::Document {
        document: document.to_owned(),
        origin: session.subject(),
        problem: found,
    }
}

fn check_size(
    session: &Session,
    document: &str,
    expected: u64,
    found: u64,
) -> Result<(), PullCause> {
    match expected == found {
        true => Ok(()),
        false => Err(problem(
            session,
            document,
            DocumentProblem::Size { expected, found },
        )),
    }
}

fn check_digest(
    session: &Session,
    kind: &str,
    digest: &Digest,
    bytes: &[u8],
) -> Result<(), PullCause> {
    match digest.matches(bytes) {
        true => Ok(()),
        false => {
            let found = Digest::of(bytes).to_string();
            Err(problem(
                session,
                &format!("{kind} {digest}"),
                DocumentProblem::Digest { found },
            ))
        }
    }
}
