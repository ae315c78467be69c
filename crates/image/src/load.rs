//! Images from archives: OCI layouts and what `docker save` writes, and root file systems that become images.
//!
//! The archive is taken in whole before anything of it is looked at: what names its parts may come last. Its layers then go through
//! the same pipeline as a registry's, and keep their compressed form, since there is nobody to ask for it again.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use snapshot::LayerKey;
use tokio::sync::{mpsc, watch};

use crate::changes::Changes;
use crate::digest::Hasher;
use crate::image::ParsedConfig;
use crate::layers::{Layer, LayerContext, Unplaced, place};
use crate::manifest::{self, Descriptor, Document, Manifest, Platform};
use crate::shelf::NewImage;
use crate::source::Source;
use crate::spool::{Spool, Spooled, decompressed};
use crate::store::{BlobRecord, ImageRecord};
use crate::{
    Digest, DocumentProblem, Image, Images, LayerError, PullErrorKind, PullProgress, Reference,
    ReferenceError, StoreError,
};

/// What comes, and what it is to be called.
#[derive(Debug, Clone, Default)]
pub struct LoadRequest {
    /// A name for the image, or a repository where the archive has the tag; else what the archive says.
    pub name: Option<String>,
    /// What comes is the root file system of a new image, with these changes to its configuration, such as `CMD ["sh"]`.
    pub root: Option<Vec<String>>,
}

/// Why an archive could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It does not read as a tar archive, plain or compressed.
    #[error("the archive is damaged")]
    Archive(#[source] io::Error),
    /// It holds no images, or contradicts itself.
    #[error("the archive holds no image that can be loaded: {0}")]
    Malformed(String),
    /// One of its documents.
    #[error("{document} of the archive {problem}")]
    Document {
        /// Such as `manifest sha256:…`.
        document: String,
        /// What is wrong with it.
        problem: DocumentProblem,
    },
    /// A name for it.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A change of the configuration.
    #[error("the change {change:?} {reason}")]
    Change {
        /// As it was given.
        change: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// It is larger than one layer may be.
    #[error("it has more than {limit} bytes")]
    TooLarge {
        /// The bound.
        limit: u64,
    },
    /// One layer.
    #[error("layer {digest} of the archive")]
    Layer {
        /// Of the compressed layer.
        digest: String,
        /// Why.
        #[source]
        source: LayerError,
    },
    /// The archive's files could not be kept while it was looked at.
    #[error("cannot keep the archive on disk")]
    Spool(#[source] io::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<io::Error> for LoadError {
    fn from(error: io::Error) -> Self {
        Self::Archive(error)
    }
}

impl LoadError {
    /// What a caller may do about it.
    pub fn kind(&self) -> PullErrorKind {
        match self {
            Self::Document {
                problem: DocumentProblem::Digest { .. } | DocumentProblem::Size { .. },
                ..
            } => PullErrorKind::DataLoss,
            Self::Document {
                problem: DocumentProblem::Layers { .. },
                ..
            } => PullErrorKind::Unsupported,
            Self::Archive(_)
            | Self::Malformed(_)
            | Self::Document { .. }
            | Self::Reference(_)
            | Self::Change { .. } => PullErrorKind::InvalidArgument,
            Self::TooLarge { .. } => PullErrorKind::ResourceExhausted,
            Self::Layer { source, .. } => source.kind(),
            Self::Spool(source) if crate::error::exhausted(source) => {
                PullErrorKind::ResourceExhausted
            }
            Self::Store(error) if error.is_exhausted() => PullErrorKind::ResourceExhausted,
            Self::Spool(_) | Self::Store(_) => PullErrorKind::Internal,
        }
    }
}

const MAX_DOCUMENT_BYTES: u64 = 8 << 20;
/// Manifests and configurations of all images of one archive, which are in memory together.
const MAX_DOCUMENTS_BYTES: usize = 64 << 20;
const MAX_INDEXES: usize = 4;
const CONTAINERD_NAME: &str = "io.containerd.image.name";
const OCI_NAME: &str = "org.opencontainers.image.ref.name";

/// An image as an archive has it.
struct Found {
    manifest: Manifest,
    manifest_bytes: Vec<u8>,
    manifest_type: String,
    /// Whether the archive came with the manifest; else it is ours.
    original: bool,
    /// Of the indexes on the way, and of the manifest.
    digests: Vec<Digest>,
    config_json: Vec<u8>,
    names: Vec<Reference>,
}

impl Images {
    /// Loads the images of an archive that comes through `chunks`, and says which they are. Dropping the future leaves nothing of what is not
    /// complete.
    pub async fn load(
        &self,
        request: LoadRequest,
        chunks: mpsc::Receiver<Bytes>,
    ) -> Result<Vec<Arc<Image>>, LoadError> {
        let ingest = self.shelf.overlay.ingest_dir();
        let limit = self.shelf.config.max_layer_bytes;
        let taken_in = tokio::task::spawn_blocking(move || {
            let mut spool = Spool::new(&ingest).map_err(LoadError::Spool)?;
            let found = match &request.root {
                Some(changes) => {
                    let root = spool.fill_raw(chunks, limit)?;
                    vec![of_root(&root, &Changes::parse(changes)?, &request)?]
                }
                None => {
                    spool.fill(chunks, limit)?;
                    images(&spool, &request)?
                }
            };
            for image in &found {
                verify(&spool, &image.manifest.layers)?;
            }
            Ok::<_, LoadError>((Arc::new(spool), found))
        });
        let (spool, found) = taken_in.await.map_err(|source| StoreError::Task {
            action: "take an archive in",
            source,
        })??;
        let mut loaded = Vec::with_capacity(found.len());
        for found in found {
            loaded.push(self.load_one(&spool, found).await?);
        }
        Ok(loaded)
    }

    async fn load_one(&self, spool: &Arc<Spool>, found: Found) -> Result<Arc<Image>, LoadError> {
        let parsed = ParsedConfig::parse(&found.config_json)
            .map_err(|error| LoadError::Malformed(format!("its configuration: {error}")))?;
        let (layers, chain) = layers_of(&found, &parsed)?;
        let keys = layers
            .iter()
            .flat_map(|layer| [layer.shared.clone(), layer.chained.clone()]);
        let reservation = self.shelf.reserve(keys.collect());
        let context = Arc::new(LayerContext {
            shelf: Arc::clone(&self.shelf),
            source: Source::Spool(Arc::clone(spool)),
            permits: Arc::clone(&self.permits),
            progress: watch::Sender::new(PullProgress::default()),
        });
        let keys = place(&context, &layers)
            .await
            .map_err(|failed| match failed {
                Unplaced::Layer(index, source) => LoadError::Layer {
                    digest: layers[index].descriptor.digest.to_string(),
                    source,
                },
                Unplaced::Store(error) => error.into(),
            })?;
        let blobs: Vec<BlobRecord> = layers
            .iter()
            .map(|layer| layer.descriptor.record())
            .collect();
        let blob_reservation = self.shelf.reserve_blobs(&blobs);
        for blob in &blobs {
            if let Some(file) = spool.blob(&blob.digest) {
                let (path, digest) = (file.path.clone(), blob.digest.clone());
                let shelf = Arc::clone(&self.shelf);
                self.shelf
                    .blocking("keep a blob", move || shelf.keep_file(&path, &digest))
                    .await?;
            }
        }
        let record = record(&found, &keys, chain, blobs, &self.shelf.size_of(&keys));
        let image = self
            .shelf
            .add(NewImage {
                record,
                config: parsed.config,
                config_json: found.config_json,
                manifest: Some(found.manifest_bytes),
                signatures: Vec::new(),
            })
            .await?;
        drop((reservation, blob_reservation));
        Ok(image)
    }
}

/// Layers that are here already are not read again, but are kept in the form that the archive has: it must be what it is called.
fn verify(spool: &Spool, layers: &[Descriptor]) -> Result<(), LoadError> {
    for layer in layers {
        let document = format!("layer {}", layer.digest);
        let Some(file) = spool.blob(layer.digest.as_str()) else {
            return Err(LoadError::Malformed(format!("it misses {document}")));
        };
        let (expected, found) = (layer.size, file.size);
        if expected != found {
            let problem = DocumentProblem::Size { expected, found };
            return Err(LoadError::Document { document, problem });
        }
        let found = file.digest_like(&layer.digest).map_err(LoadError::Spool)?;
        if found != layer.digest {
            let found = found.to_string();
            let problem = DocumentProblem::Digest { found };
            return Err(LoadError::Document { document, problem });
        }
    }
    Ok(())
}

fn record(
    found: &Found,
    keys: &[LayerKey],
    chain: Option<Digest>,
    blobs: Vec<BlobRecord>,
    layer_bytes: &u64,
) -> ImageRecord {
    let digest = found.digests.first();
    let names = found.names.iter();
    let digests = match (found.original, digest) {
        (true, Some(digest)) => names.clone().map(|name| name.with_digest(digest)).collect(),
        _ => Vec::new(),
    };
    ImageRecord {
        id: found.manifest.config.digest.to_string(),
        tags: names.map(Reference::canonical).collect(),
        digests,
        manifests: found.digests.iter().map(Digest::to_string).collect(),
        manifest_digest: found
            .digests
            .last()
            .map(Digest::to_string)
            .unwrap_or_default(),
        manifest_type: found.manifest_type.clone(),
        origin: "an archive".to_owned(),
        layers: keys.iter().map(LayerKey::to_string).collect(),
        chain_id: chain.map(|chain| chain.to_string()).unwrap_or_default(),
        size_bytes: layer_bytes + found.config_json.len() as u64,
        blobs,
        keeps_blobs: true,
        removed: false,
    }
}

fn layers_of(
    found: &Found,
    parsed: &ParsedConfig,
) -> Result<(Vec<Layer>, Option<Digest>), LoadError> {
    let descriptors = &found.manifest.layers;
    if descriptors.len() != parsed.diff_ids.len() {
        return Err(LoadError::Malformed(format!(
            "its configuration has {} diffIDs for {} layers",
            parsed.diff_ids.len(),
            descriptors.len()
        )));
    }
    let mut below = None;
    let mut layers = Vec::new();
    for (index, (descriptor, diff_id)) in descriptors.iter().zip(&parsed.diff_ids).enumerate() {
        let malformed = |error: &dyn std::fmt::Display| LoadError::Malformed(error.to_string());
        let diff_id = Digest::parse(diff_id).map_err(|error| malformed(&error))?;
        let (layer, chain) = Layer::new(index, descriptor.clone(), diff_id, below.as_ref())
            .map_err(|error| malformed(&error))?;
        layers.push(layer);
        below = Some(chain);
    }
    Ok((layers, below))
}

/// `index.json` of an OCI layout.
#[derive(Deserialize)]
struct Layout {
    manifests: Vec<LayoutEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayoutEntry {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// An entry of `manifest.json`, as `docker save` writes it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

fn images(spool: &Spool, request: &LoadRequest) -> Result<Vec<Found>, LoadError> {
    let saved: Vec<Saved> = match spool.file("manifest.json") {
        Some(file) => parsed(spool, file, "manifest.json")?,
        None => Vec::new(),
    };
    let mut found = Vec::new();
    let mut bytes = 0;
    let mut take = |image: Found| {
        bytes += image.config_json.len() + image.manifest_bytes.len();
        found.push(image);
        match bytes > MAX_DOCUMENTS_BYTES {
            true => Err(LoadError::Malformed(format!(
                "its images' manifests and configurations have more than {MAX_DOCUMENTS_BYTES} bytes"
            ))),
            false => Ok(()),
        }
    };
    match spool.file("index.json") {
        Some(file) => {
            let layout: Layout = parsed(spool, file, "index.json")?;
            for entry in &layout.manifests {
                take(of_layout(spool, entry, &saved, request)?)?;
            }
        }
        None => {
            for entry in &saved {
                take(of_saved(spool, entry)?)?;
            }
        }
    }
    match (&request.name, found.as_mut_slice()) {
        (_, []) => Err(LoadError::Malformed(
            "it has neither an index.json nor a manifest.json with an image".into(),
        )),
        (None, _) => Ok(found),
        (Some(name), [one]) => {
            if one.names.is_empty() || has_tag(name) {
                one.names = vec![Reference::parse(name)?];
            }
            Ok(found)
        }
        (Some(_), many) => Err(LoadError::Malformed(format!(
            "it has {} images, for which one name does not do",
            many.len()
        ))),
    }
}

fn parsed<T: for<'a> Deserialize<'a>>(
    spool: &Spool,
    file: &Spooled,
    name: &str,
) -> Result<T, LoadError> {
    let bytes = spool.document(file, MAX_DOCUMENT_BYTES)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| LoadError::Malformed(format!("its {name}: {error}")))
}

/// A blob by its digest, checked.
fn document(spool: &Spool, kind: &str, digest: &Digest) -> Result<Vec<u8>, LoadError> {
    let name = format!("{kind} {digest}");
    let file = spool
        .blob(digest.as_str())
        .ok_or_else(|| LoadError::Malformed(format!("it misses {name}")))?;
    let bytes = spool.document(file, MAX_DOCUMENT_BYTES)?;
    match digest.matches(&bytes) {
        true => Ok(bytes),
        false => Err(LoadError::Document {
            document: name,
            problem: DocumentProblem::Digest {
                found: Digest::of(&bytes).to_string(),
            },
        }),
    }
}

fn of_layout(
    spool: &Spool,
    entry: &LayoutEntry,
    saved: &[Saved],
    request: &LoadRequest,
) -> Result<Found, LoadError> {
    let mut digest =
        Digest::parse(&entry.digest).map_err(|error| LoadError::Malformed(error.to_string()))?;
    let mut media_type = entry.media_type.clone();
    let mut digests = Vec::new();
    for _ in 0..MAX_INDEXES {
        let bytes = document(spool, "manifest", &digest)?;
        digests.push(digest.clone());
        let problem = |problem| LoadError::Document {
            document: format!("manifest {digest}"),
            problem,
        };
        let entries = match Document::parse(&bytes, &media_type).map_err(problem)? {
            Document::Index(entries) => entries,
            Document::Manifest(manifest) => {
                let config_json = document(spool, "configuration", &manifest.config.digest)?;
                let names = names(entry, saved, &manifest.config.digest, request)?;
                return Ok(Found {
                    manifest_type: manifest::type_of(&bytes, &media_type),
                    manifest,
                    manifest_bytes: bytes,
                    original: true,
                    digests,
                    config_json,
                    names,
                });
            }
        };
        let chosen = Platform::of_this_machine()
            .choose(&entries)
            .map_err(problem)?;
        (media_type, digest) = (chosen.media_type.clone(), chosen.digest.clone());
    }
    Err(LoadError::Malformed("indexes lead to indexes".into()))
}

/// What an archive calls an image. Tags without a repository count where the request has one.
fn names(
    entry: &LayoutEntry,
    saved: &[Saved],
    config: &Digest,
    request: &LoadRequest,
) -> Result<Vec<Reference>, LoadError> {
    let mut names = Vec::new();
    let annotation = |name: &str| entry.annotations.get(name);
    if let Some(text) = annotation(CONTAINERD_NAME).or_else(|| annotation(OCI_NAME)) {
        if text.contains('/') || has_tag(text) {
            names.push(Reference::parse(text)?);
        } else if let Some(repository) = request.name.as_ref().filter(|name| !has_tag(name)) {
            names.push(Reference::parse(&format!("{repository}:{text}"))?);
        }
    }
    let of_this = saved
        .iter()
        .filter(|saved| saved.config.contains(config.hex()));
    for tag in of_this.flat_map(|saved| saved.repo_tags.iter().flatten()) {
        names.push(Reference::parse(tag)?);
    }
    Ok(names)
}

fn has_tag(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name);
    last.contains(':') || last.contains('@')
}

fn of_saved(spool: &Spool, saved: &Saved) -> Result<Found, LoadError> {
    manifest::check_count(saved.layers.len()).map_err(|problem| LoadError::Document {
        document: "manifest.json".to_owned(),
        problem,
    })?;
    let missing = |name: &str| LoadError::Malformed(format!("it misses {name:?}"));
    let config = spool
        .file(&saved.config)
        .ok_or_else(|| missing(&saved.config))?;
    let config_json = spool.document(config, MAX_DOCUMENT_BYTES)?;
    let mut layers = Vec::new();
    for name in &saved.layers {
        let file = spool.file(name).ok_or_else(|| missing(name))?;
        layers.push(descriptor_of(file).map_err(LoadError::Spool)?);
    }
    let names = saved.repo_tags.iter().flatten();
    let names = names
        .map(|name| Reference::parse(name))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(made(config_json, layers, names))
}

/// A layer by what is in it.
fn descriptor_of(file: &Spooled) -> io::Result<Descriptor> {
    let mut magic = [0; 4];
    let read = File::open(&file.path)?.read(&mut magic)?;
    let media_type = match magic[..read] {
        [0x1f, 0x8b, ..] => manifest::OCI_LAYER_GZIP,
        [0x28, 0xb5, 0x2f, 0xfd] => manifest::OCI_LAYER_ZSTD,
        _ => manifest::OCI_LAYER,
    };
    Ok(Descriptor {
        media_type: media_type.to_owned(),
        digest: file.digest.clone(),
        size: file.size,
    })
}

/// An image that came without a manifest.
fn made(config_json: Vec<u8>, layers: Vec<Descriptor>, names: Vec<Reference>) -> Found {
    let config = Descriptor {
        media_type: manifest::OCI_CONFIG.to_owned(),
        digest: Digest::of(&config_json),
        size: config_json.len() as u64,
    };
    let shown = |descriptor: &Descriptor| {
        json!({
            "mediaType": descriptor.media_type,
            "digest": descriptor.digest.as_str(),
            "size": descriptor.size,
        })
    };
    let manifest_bytes = json!({
        "schemaVersion": 2,
        "mediaType": manifest::OCI_MANIFEST,
        "config": shown(&config),
        "layers": layers.iter().map(shown).collect::<Vec<_>>(),
    })
    .to_string()
    .into_bytes();
    Found {
        digests: vec![Digest::of(&manifest_bytes)],
        manifest: Manifest { config, layers },
        manifest_bytes,
        manifest_type: manifest::OCI_MANIFEST.to_owned(),
        original: false,
        config_json,
        names,
    }
}

/// A root file system becomes an image of one layer. It has no date: the same archive with the same changes is the same image.
fn of_root(root: &Spooled, changes: &Changes, request: &LoadRequest) -> Result<Found, LoadError> {
    let layer = descriptor_of(root).map_err(LoadError::Spool)?;
    let file = File::open(&root.path).map_err(LoadError::Spool)?;
    let mut archive = decompressed(BufReader::new(file))?;
    let mut hasher = Hasher::sha256();
    let mut piece = vec![0; 128 << 10];
    loop {
        match archive.read(&mut piece)? {
            0 => break,
            length => hasher.update(&piece[..length]),
        }
    }
    let platform = Platform::of_this_machine();
    let config_json = json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "config": changes.config(),
        "rootfs": {"type": "layers", "diff_ids": [hasher.finish().as_str()]},
        "history": [{"created_by": "longshore import"}],
    })
    .to_string()
    .into_bytes();
    let name = request.name.as_deref().map(Reference::parse).transpose()?;
    Ok(made(config_json, vec![layer], name.into_iter().collect()))
}
