//! An image into a registry.

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::registry::{Pushed, RegistryError, Session};
use crate::save::Whole;
use crate::store::BlobRecord;
use crate::{Auth, Digest, Images, PullCause, PullErrorKind, Reference, SaveError};

/// What to push, and where to.
#[derive(Debug, Clone, Default)]
pub struct PushRequest {
    /// The image, by name, digest or id.
    pub image: String,
    /// Its name at the registry; `image` itself where there is none.
    pub target: Option<String>,
    /// None: the node's own credentials.
    pub auth: Option<Auth>,
}

/// What a registry has now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushedImage {
    /// The name in full.
    pub reference: String,
    /// Of the manifest.
    pub digest: String,
    /// Layers that were sent; the registry had the others.
    pub sent: usize,
    /// Layers that the registry had in another repository.
    pub mounted: usize,
}

/// Why an image was not pushed. What had been sent of it is the registry's to collect.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The image, or one of its layers, is not to be had.
    #[error(transparent)]
    Image(#[from] SaveError),
    /// The name to push to, or the conversation with its registry.
    #[error("cannot push to {target}")]
    Target {
        /// As it was given.
        target: String,
        /// Why not.
        #[source]
        source: Box<PullCause>,
    },
}

impl PushError {
    /// What a caller may do about it.
    pub fn kind(&self) -> PullErrorKind {
        match self {
            Self::Image(error) => error.kind(),
            Self::Target { source, .. } => source.kind(),
        }
    }
}

impl Images {
    /// Pushes an image. What the registry has already, here or in another repository that the image is from, is not sent.
    pub async fn push(&self, request: PushRequest) -> Result<PushedImage, PushError> {
        let target = request.target.as_ref().unwrap_or(&request.image);
        let failed = |source: PullCause| PushError::Target {
            target: target.chars().take(300).collect(),
            source: Box::new(source),
        };
        let of_registry = |error: RegistryError| failed(error.into());
        let reference = Reference::parse(target).map_err(|error| failed(error.into()))?;
        let auth = request.auth.as_ref();
        // Credentials of the request are for the registry that is pushed to.
        let image = self.whole(&request.image, None).await?;
        let _reservation = self.shelf.reserve_blobs(&image.blobs);
        let session = Session::open(self.client(), &reference, auth)
            .await
            .map_err(failed)?;
        let from = other_repository(&image, &reference);
        let mut pushed = PushedImage {
            digest: Digest::of(&image.manifest).to_string(),
            reference: reference.canonical(),
            sent: 0,
            mounted: 0,
        };
        for blob in &image.blobs {
            let begun = session.begin_upload(&blob.digest, from.as_deref()).await;
            match begun.map_err(of_registry)? {
                Ok(Pushed::Mounted) => pushed.mounted += 1,
                Ok(Pushed::There) => {}
                Err(upload) => {
                    let (pieces, incoming) = mpsc::channel(4);
                    let read = async {
                        let read = self.layer(&image, blob, None, &pieces).await;
                        drop(pieces);
                        read
                    };
                    let send = session.upload(upload, &blob.digest, incoming);
                    let (read, sent) = tokio::join!(read, send);
                    match (read, sent) {
                        (Ok(()), Ok(())) => pushed.sent += 1,
                        // The registry has stopped to listen, and says why.
                        (Ok(()) | Err(SaveError::Gone), Err(error)) => {
                            return Err(of_registry(error));
                        }
                        // What was cut off has another digest for the registry.
                        (Err(error), _) => return Err(error.into()),
                    }
                }
            }
        }
        let config = BlobRecord {
            digest: image.record.id.clone(),
            size: image.config_json.len() as u64,
            media_type: String::new(),
        };
        let begun = session.begin_upload(&config.digest, from.as_deref()).await;
        if let Err(upload) = begun.map_err(of_registry)? {
            let (pieces, incoming) = mpsc::channel(1);
            let bytes = Bytes::from(image.config_json.clone());
            // There is room for one.
            let _sent = pieces.send(bytes).await;
            drop(pieces);
            let sent = session.upload(upload, &config.digest, incoming).await;
            sent.map_err(of_registry)?;
        }
        let name = match reference.digest() {
            Some(digest) if digest.as_str() != pushed.digest => {
                return Err(failed(PullCause::Document {
                    document: format!("manifest {}", pushed.digest),
                    origin: image.record.id.clone(),
                    problem: crate::DocumentProblem::Digest {
                        found: pushed.digest.clone(),
                    },
                }));
            }
            _ => reference.target(),
        };
        let manifest = Bytes::from(image.manifest.clone());
        (session
            .put_manifest(name, &image.manifest_type, &manifest)
            .await)
            .map_err(of_registry)?;
        Ok(pushed)
    }
}

/// Another repository of the same registry that the image is from.
fn other_repository(image: &Whole, target: &Reference) -> Option<String> {
    let names = image.record.digests.iter().chain(&image.record.tags);
    let mut references = names.filter_map(|name| Reference::parse(name).ok());
    let other =
        references.find(|name| name.domain() == target.domain() && name.path() != target.path())?;
    Some(other.path().to_owned())
}
