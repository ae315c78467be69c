//! Images into an archive that is an OCI layout and what `docker load` reads at once: `index.json` and `manifest.json` tell of the same blobs.
//!
//! A layer is saved in the compressed form that its manifest names, since nothing else has its digest: from `blobs/` where it was kept,
//! otherwise from the registry that the image is from. It cannot be made of the unpacked files.

use std::collections::BTreeSet;
use std::io;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::digest::Hasher;
use crate::manifest;
use crate::registry::{FetchError, RegistryError, Session};
use crate::source::read;
use crate::store::{BlobRecord, ImageRecord};
use crate::{Auth, Digest, FindError, Images, PullCause, PullErrorKind, Reference, StoreError};

/// Which images to save, and how registries are asked for what is not here.
#[derive(Debug, Clone, Default)]
pub struct SaveRequest {
    /// By name, digest or id.
    pub images: Vec<String>,
    /// For the registries; the node's own credentials where there are none.
    pub auth: Option<Auth>,
}

/// Why images could not be saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// A name that is none.
    #[error(transparent)]
    Find(#[from] FindError),
    /// No such image.
    #[error("there is no image {name:?}")]
    Unknown {
        /// As it was asked for.
        name: String,
    },
    /// No image was named.
    #[error("no image is named")]
    Nothing,
    /// The compressed form of a layer was not kept, and nobody can be asked.
    #[error("{blob} was not kept, and no registry is known that image {image} is from")]
    NotKept {
        /// Such as `layer sha256:…`.
        blob: String,
        /// The image.
        image: String,
    },
    /// What was not kept could not be fetched again.
    #[error("{blob} was not kept, and could not be fetched again")]
    Fetch {
        /// Such as `layer sha256:…`.
        blob: String,
        /// Why not.
        #[source]
        source: Box<PullCause>,
    },
    /// What was kept, or fetched, has another digest.
    #[error("{blob} has the digest {found}")]
    Digest {
        /// Such as `layer sha256:…`.
        blob: String,
        /// The digest it has.
        found: String,
    },
    /// The disk.
    #[error("cannot read {blob}")]
    Read {
        /// Such as `layer sha256:…`.
        blob: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nobody wants the rest.
    #[error("whoever asked has gone")]
    Gone,
}

const BLOCK: u64 = 512;

/// One image with its documents.
pub(crate) struct Whole {
    pub(crate) record: ImageRecord,
    pub(crate) config_json: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
    pub(crate) manifest_type: String,
    /// Bottom first.
    pub(crate) blobs: Vec<BlobRecord>,
}

impl SaveError {
    /// What a caller may do about it.
    pub fn kind(&self) -> PullErrorKind {
        match self {
            Self::Find(_) | Self::Nothing => PullErrorKind::InvalidArgument,
            Self::Unknown { .. } => PullErrorKind::NotFound,
            Self::NotKept { .. } => PullErrorKind::Unsupported,
            Self::Fetch { source, .. } => source.kind(),
            Self::Digest { .. } => PullErrorKind::DataLoss,
            Self::Read { .. } | Self::Store(_) => PullErrorKind::Internal,
            Self::Gone => PullErrorKind::Cancelled,
        }
    }
}

impl Images {
    /// Writes images to `sink`, as one tar archive. Their layers stay while it goes on, whoever removes them. The archive is only whole if
    /// this succeeds.
    pub async fn save(
        &self,
        request: SaveRequest,
        sink: mpsc::Sender<Bytes>,
    ) -> Result<(), SaveError> {
        if request.images.is_empty() {
            return Err(SaveError::Nothing);
        }
        let mut images: Vec<Whole> = Vec::new();
        let mut reservations = Vec::new();
        for name in &request.images {
            let whole = self.whole(name, request.auth.as_ref()).await?;
            reservations.push(self.shelf.reserve_blobs(&whole.blobs));
            let again = images
                .iter()
                .any(|other| other.record.id == whole.record.id);
            if !again {
                images.push(whole);
            }
        }
        let mut archive = Tar { sink };
        archive
            .document("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
            .await?;
        archive.document("index.json", &index(&images)).await?;
        archive.document("manifest.json", &saved(&images)).await?;
        let mut written = BTreeSet::new();
        for image in &images {
            for bytes in [&image.manifest, &image.config_json] {
                let digest = Digest::of(bytes);
                if written.insert(digest.to_string()) {
                    archive.document(&blob_name(digest.as_str()), bytes).await?;
                }
            }
            for blob in &image.blobs {
                if written.insert(blob.digest.clone()) {
                    archive.header(&blob_name(&blob.digest), blob.size).await?;
                    let request = request.auth.as_ref();
                    self.layer(image, blob, request, &archive.sink).await?;
                    archive.pad(blob.size).await?;
                }
            }
        }
        archive.end().await
    }

    /// An image with what belongs to it; its manifest is fetched again where an earlier release has not kept it.
    pub(crate) async fn whole(&self, name: &str, auth: Option<&Auth>) -> Result<Whole, SaveError> {
        let unknown = || SaveError::Unknown {
            name: name.chars().take(300).collect(),
        };
        let image = self.find(name)?.ok_or_else(unknown)?;
        let record = self
            .shelf
            .read()
            .entry(&image.id)
            .map(|entry| entry.record.clone());
        let record = record.ok_or_else(unknown)?;
        let config_json = self.shelf.config_json(&image.id)?.ok_or_else(unknown)?;
        let (manifest, manifest_type, blobs) = match self.shelf.manifest(&image.id)? {
            Some(manifest) => (manifest, record.manifest_type.clone(), record.blobs.clone()),
            None => {
                let blob = format!("manifest {}", record.manifest_digest);
                let failed = |source: PullCause| SaveError::Fetch {
                    blob: blob.clone(),
                    source: Box::new(source),
                };
                let session = self.session_of(&record, auth, &blob).await?;
                let (bytes, media_type, parsed) =
                    manifest::fetch(&session, &record.manifest_digest)
                        .await
                        .map_err(failed)?;
                let blobs = parsed
                    .layers
                    .iter()
                    .map(manifest::Descriptor::record)
                    .collect();
                (bytes.to_vec(), media_type, blobs)
            }
        };
        Ok(Whole {
            record,
            config_json,
            manifest,
            manifest_type,
            blobs,
        })
    }

    /// Hands a layer's compressed bytes over, checked when the last of them goes.
    pub(crate) async fn layer(
        &self,
        image: &Whole,
        blob: &BlobRecord,
        auth: Option<&Auth>,
        sink: &mpsc::Sender<Bytes>,
    ) -> Result<(), SaveError> {
        let name = format!("layer {}", blob.digest);
        let path = self.shelf.blob_path(&blob.digest);
        let hasher = match Digest::parse(&blob.digest) {
            Ok(digest) => Hasher::like(&digest),
            Err(_) => Hasher::sha256(),
        };
        let (pieces, mut incoming) = mpsc::channel::<Bytes>(4);
        let produce = async {
            match std::fs::File::open(path) {
                Ok(file) => {
                    let read = tokio::task::spawn_blocking(move || {
                        let mut file = file;
                        read(&mut file, |piece| pieces.blocking_send(piece).is_ok())
                    });
                    let read = read.await.map_err(|source| StoreError::Task {
                        action: "read a layer",
                        source,
                    })?;
                    read.map_err(|source| SaveError::Read {
                        blob: name.clone(),
                        source,
                    })
                }
                Err(_not_kept) => {
                    let session = self.session_of(&image.record, auth, &name).await?;
                    match session.blob(&blob.digest, blob.size, pieces, |_| {}).await {
                        Ok(()) | Err(FetchError::Closed) => Ok(()),
                        Err(FetchError::Registry(error)) => Err(fetch_failed(&name, error)),
                        Err(FetchError::Disk(source)) => Err(SaveError::Read {
                            blob: name.clone(),
                            source,
                        }),
                    }
                }
            }
        };
        let forward = async {
            let mut hasher = hasher;
            let mut size = 0;
            while let Some(piece) = incoming.recv().await {
                hasher.update(&piece);
                size += piece.len() as u64;
                if size > blob.size {
                    break;
                }
                sink.send(piece).await.map_err(|_| SaveError::Gone)?;
            }
            Ok::<_, SaveError>((hasher.finish(), size))
        };
        let (produced, forwarded) = tokio::join!(produce, forward);
        let (found, size) = forwarded?;
        produced?;
        match found.as_str() == blob.digest && size == blob.size {
            true => Ok(()),
            false => Err(SaveError::Digest {
                blob: name,
                found: found.to_string(),
            }),
        }
    }

    /// A conversation with a registry that the image is from.
    async fn session_of(
        &self,
        record: &ImageRecord,
        auth: Option<&Auth>,
        blob: &str,
    ) -> Result<Session, SaveError> {
        let Some(name) = record.digests.first() else {
            return Err(SaveError::NotKept {
                blob: blob.to_owned(),
                image: record.id.clone(),
            });
        };
        let failed = |source: PullCause| SaveError::Fetch {
            blob: blob.to_owned(),
            source: Box::new(source),
        };
        let reference = Reference::parse(name).map_err(|error| failed(error.into()))?;
        Session::open(self.client(), &reference, auth)
            .await
            .map_err(failed)
    }
}

fn fetch_failed(blob: &str, error: RegistryError) -> SaveError {
    SaveError::Fetch {
        blob: blob.to_owned(),
        source: Box::new(error.into()),
    }
}

fn blob_name(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

/// `index.json` (image-spec, image-layout.md), an entry for each name.
fn index(images: &[Whole]) -> Vec<u8> {
    let mut entries = Vec::new();
    for image in images {
        let entry = json!({
            "mediaType": image.manifest_type,
            "digest": Digest::of(&image.manifest).as_str(),
            "size": image.manifest.len(),
        });
        if image.record.tags.is_empty() {
            entries.push(entry.clone());
        }
        for tag in &image.record.tags {
            let mut named = entry.clone();
            let short = tag.rsplit_once(':').map_or("latest", |(_, short)| short);
            named["annotations"] = json!({
                "io.containerd.image.name": tag,
                "org.opencontainers.image.ref.name": short,
            });
            entries.push(named);
        }
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": manifest::OCI_INDEX,
        "manifests": entries,
    });
    index.to_string().into_bytes()
}

/// `manifest.json`, as `docker load` wants it.
fn saved(images: &[Whole]) -> Vec<u8> {
    let entries = images.iter().map(|image| {
        json!({
            "Config": blob_name(&image.record.id),
            "RepoTags": image.record.tags,
            "Layers": image.blobs.iter().map(|blob| blob_name(&blob.digest)).collect::<Vec<_>>(),
        })
    });
    Value::Array(entries.collect()).to_string().into_bytes()
}

struct Tar {
    sink: mpsc::Sender<Bytes>,
}

impl Tar {
    async fn send(&self, bytes: Vec<u8>) -> Result<(), SaveError> {
        (self.sink.send(bytes.into()).await).map_err(|_| SaveError::Gone)
    }

    async fn document(&mut self, name: &str, bytes: &[u8]) -> Result<(), SaveError> {
        self.header(name, bytes.len() as u64).await?;
        self.send(bytes.to_vec()).await?;
        self.pad(bytes.len() as u64).await
    }

    async fn header(&self, name: &str, size: u64) -> Result<(), SaveError> {
        let mut header = tar::Header::new_gnu();
        let failed = |source| SaveError::Read {
            blob: name.to_owned(),
            source,
        };
        header.set_path(name).map_err(failed)?;
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header.set_cksum();
        self.send(header.as_bytes().to_vec()).await
    }

    async fn pad(&self, size: u64) -> Result<(), SaveError> {
        let padding = size.next_multiple_of(BLOCK) - size;
        match usize::try_from(padding) {
            Ok(padding @ 1..) => self.send(vec![0; padding]).await,
            _ => Ok(()),
        }
    }

    async fn end(&self) -> Result<(), SaveError> {
        self.send(vec![0; 2 * BLOCK as usize]).await
    }
}
