//! What a registry has of signatures, in both of cosign's layouts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::Evidence;
use super::evidence::Certified;
use crate::manifest;
use crate::registry::{RegistryError, Session};
use crate::{Digest, PullErrorKind};

/// A payload, or a bundle.
const MAX_BYTES: u64 = 256 << 10;

/// No image that is signed properly has more; whoever may push may push many.
const MOST: usize = 32;

const SIMPLE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const CERTIFICATE: &str = "dev.sigstore.cosign/certificate";
const CHAIN: &str = "dev.sigstore.cosign/chain";
const PROMISE: &str = "dev.sigstore.cosign/bundle";

/// An index or a manifest, as far as signatures need it.
#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    layers: Vec<RawDescriptor>,
    #[serde(default)]
    manifests: Vec<RawDescriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    artifact_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

/// All signatures on any of the digests. What is malformed is none; a registry that cannot be asked is an error.
pub(crate) async fn collect(
    session: &Session,
    digests: &[Digest],
) -> Result<Vec<Evidence>, RegistryError> {
    let mut found = Vec::new();
    for digest in digests {
        simple(session, digest, &mut found).await?;
        bundles(session, digest, &mut found).await?;
    }
    found.dedup();
    Ok(found)
}

/// The tag `sha256-….sig` has a manifest whose layers are payloads; their signatures are annotations.
async fn simple(
    session: &Session,
    digest: &Digest,
    found: &mut Vec<Evidence>,
) -> Result<(), RegistryError> {
    let path = format!("manifests/{}.sig", as_tag(digest));
    let Some(raw) = attached(session, &path, &manifest::accept()).await? else {
        return Ok(());
    };
    for mut layer in raw.layers {
        if layer.media_type != SIMPLE || found.len() == MOST {
            continue;
        }
        let Some(signature) = layer.annotations.remove(SIGNATURE) else {
            continue;
        };
        let Some(payload) = text(session, &layer).await? else {
            continue;
        };
        let certified = layer.annotations.remove(CERTIFICATE).map(|leaf| Certified {
            chain: [leaf]
                .into_iter()
                .chain(layer.annotations.remove(CHAIN))
                .collect(),
            promise: layer.annotations.remove(PROMISE).unwrap_or_default(),
        });
        found.push(Evidence::Simple {
            payload,
            signature,
            certified,
        });
    }
    Ok(())
}

/// Manifests that name the image as their subject (distribution-spec, "Listing Referrers"), each with a bundle as its layer.
async fn bundles(
    session: &Session,
    digest: &Digest,
    found: &mut Vec<Evidence>,
) -> Result<(), RegistryError> {
    let path = format!("referrers/{digest}");
    let index = match attached(session, &path, manifest::OCI_INDEX).await? {
        Some(index) => Some(index),
        // Registries without that call have the list under a tag.
        None => {
            let path = format!("manifests/{}", as_tag(digest));
            attached(session, &path, manifest::OCI_INDEX).await?
        }
    };
    for referrer in index.map(|index| index.manifests).unwrap_or_default() {
        // Some registries leave the type out.
        let other =
            !referrer.artifact_type.is_empty() && !referrer.artifact_type.starts_with(BUNDLE);
        if other || found.len() == MOST {
            continue;
        }
        let Some(text) = referred(session, &referrer).await? else {
            continue;
        };
        let Ok(manifest) = serde_json::from_str::<Raw>(&text) else {
            continue;
        };
        if let [layer] = &*manifest.layers
            && layer.media_type.starts_with(BUNDLE)
            && let Some(json) = self::text(session, layer).await?
        {
            found.push(Evidence::Bundle { json });
        }
    }
    Ok(())
}

async fn attached(
    session: &Session,
    path: &str,
    accept: &str,
) -> Result<Option<Raw>, RegistryError> {
    let bytes = present(session.attached(path, accept).await)?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// A manifest by its digest.
async fn referred(
    session: &Session,
    descriptor: &RawDescriptor,
) -> Result<Option<String>, RegistryError> {
    let Ok(digest) = Digest::parse(&descriptor.digest) else {
        return Ok(None);
    };
    let path = format!("manifests/{digest}");
    let bytes = present(session.attached(&path, manifest::OCI_MANIFEST).await)?;
    let bytes = bytes.filter(|bytes| digest.matches(bytes));
    Ok(bytes.and_then(|bytes| String::from_utf8(bytes.into()).ok()))
}

/// A blob, where it is a text of the size and digest that were promised.
async fn text(
    session: &Session,
    descriptor: &RawDescriptor,
) -> Result<Option<String>, RegistryError> {
    let Ok(digest) = Digest::parse(&descriptor.digest) else {
        return Ok(None);
    };
    if descriptor.size > MAX_BYTES {
        return Ok(None);
    }
    let bytes = present(
        session
            .small_blob(digest.as_str(), MAX_BYTES as usize)
            .await,
    )?;
    let bytes = bytes.filter(|bytes| digest.matches(bytes));
    Ok(bytes.and_then(|bytes| String::from_utf8(bytes.into()).ok()))
}

/// What a registry does not have, or not know, is absent.
fn present<T>(result: Result<T, RegistryError>) -> Result<Option<T>, RegistryError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) => match error.kind() {
            // Registries of before 1.1 take the path of referrers for a mistake.
            PullErrorKind::NotFound | PullErrorKind::InvalidArgument => Ok(None),
            _ => Err(error),
        },
    }
}

fn as_tag(digest: &Digest) -> String {
    digest.as_str().replacen(':', "-", 1)
}

/// As it stands in annotations.
pub(super) fn decoded(signature: &str) -> Option<Vec<u8>> {
    STANDARD.decode(signature.trim()).ok()
}
