//! Signatures on images as cosign makes them, and a sigstore of one's own to vouch for them: an authority, a log of its certificates, and a
//! log of signatures.
//!
//! ```
//! use testkit::{image::ImageBuilder, registry::Registry, signer::Key};
//!
//! let registry = Registry::start().unwrap();
//! let image = ImageBuilder::new().build();
//! registry.push("app", "1", &image);
//! let key = Key::new();
//! key.sign_by_tag(&registry, "app", image.digest());
//! assert!(key.public_pem().starts_with("-----BEGIN PUBLIC KEY-----"));
//! ```

mod sigstore;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    image::{Blob, OCI_MANIFEST},
    registry::Registry,
};
pub use sigstore::{Certificate, Sigstore};

const SIMPLE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Of an in-toto statement that is a signature on an image.
pub const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";
/// How an in-toto statement is marked in its envelope.
pub(crate) const IN_TOTO: &str = "application/vnd.in-toto+json";

/// A key pair on the curve P-256.
#[derive(Debug)]
pub struct Key(KeyPair);

impl Default for Key {
    fn default() -> Self {
        Self::new()
    }
}

impl Key {
    /// A new one.
    ///
    /// # Panics
    /// There is no randomness.
    #[must_use]
    pub fn new() -> Self {
        Self(KeyPair::generate().expect("randomness"))
    }

    /// What a policy names.
    #[must_use]
    pub fn public_pem(&self) -> String {
        self.0.public_key_pem()
    }

    pub(crate) fn public_der(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }

    /// By which logs are told apart.
    pub(crate) fn id(&self) -> [u8; 32] {
        Sha256::digest(self.public_der()).into()
    }

    /// ECDSA with SHA-256, DER.
    ///
    /// # Panics
    /// There is no randomness.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).expect("randomness")
    }

    /// Signs a digest in the older layout, whatever has it.
    pub fn sign_by_tag(&self, registry: &Registry, repository: &str, digest: &str) {
        let payload = payload(repository, digest);
        let signature = STANDARD.encode(self.sign(payload.as_bytes()));
        let annotations = json!({ "dev.cosignproject.cosign/signature": signature });
        attach_by_tag(registry, repository, digest, &payload, &annotations);
    }

    /// Signs a digest in the layout of referrers.
    pub fn sign_by_referrer(&self, registry: &Registry, repository: &str, digest: &str) {
        let bundle = self.bundle(&statement(digest, SIGNED));
        attach_by_referrer(registry, repository, digest, &bundle);
    }

    /// A statement signed with the key, as a sigstore bundle.
    #[must_use]
    pub fn bundle(&self, statement: &str) -> Value {
        json!({
            "mediaType": BUNDLE,
            "verificationMaterial": { "publicKey": { "hint": "" } },
            "dsseEnvelope": self.envelope(statement),
        })
    }

    pub(crate) fn envelope(&self, statement: &str) -> Value {
        let signature = self.sign(&pae(statement));
        json!({
            "payloadType": IN_TOTO,
            "payload": STANDARD.encode(statement),
            "signatures": [{ "sig": STANDARD.encode(signature) }],
        })
    }
}

/// What the older layout signs (containers/image, "atomic signature").
#[must_use]
pub fn payload(repository: &str, digest: &str) -> String {
    json!({
        "critical": {
            "identity": { "docker-reference": repository },
            "image": { "docker-manifest-digest": digest },
            "type": "cosign container image signature",
        },
        "optional": null,
    })
    .to_string()
}

/// An in-toto statement about an image.
#[must_use]
pub fn statement(digest: &str, predicate: &str) -> String {
    let hex = digest.trim_start_matches("sha256:");
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{ "name": "", "digest": { "sha256": hex } }],
        "predicateType": predicate,
        "predicate": {},
    })
    .to_string()
}

/// Puts a payload and the annotations beside it where the older layout has them.
pub fn attach_by_tag(
    registry: &Registry,
    repository: &str,
    digest: &str,
    payload: &str,
    annotations: &Value,
) {
    let blob = Blob::new(SIMPLE, payload.to_owned());
    let config = Blob::new(OCI_CONFIG, "{}");
    let mut layer = blob.descriptor();
    layer["annotations"] = annotations.clone();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.descriptor(),
        "layers": [layer],
    });
    registry.push_blobs(repository, [&blob, &config]);
    let manifest = Blob::new(OCI_MANIFEST, manifest.to_string());
    let tag = format!("{}.sig", digest.replace(':', "-"));
    registry.push_manifest(repository, &tag, &manifest);
}

/// Puts a bundle where the layout of referrers has it; under a tag as well, for registries that do not list them.
pub fn attach_by_referrer(registry: &Registry, repository: &str, digest: &str, bundle: &Value) {
    let blob = Blob::new(BUNDLE, bundle.to_string());
    let config = Blob::new(EMPTY, "{}");
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": BUNDLE,
        "config": config.descriptor(),
        "layers": [blob.descriptor()],
        "subject": { "mediaType": OCI_MANIFEST, "digest": digest, "size": 1 },
    });
    registry.push_blobs(repository, [&blob, &config]);
    let manifest = Blob::new(OCI_MANIFEST, manifest.to_string());
    registry.push_manifest(repository, "latest-signature", &manifest);
    let mut descriptor = manifest.descriptor();
    descriptor["artifactType"] = BUNDLE.into();
    let index = json!({
        "schemaVersion": 2,
        "mediaType": crate::image::OCI_INDEX,
        "manifests": [descriptor],
    });
    let index = Blob::new(crate::image::OCI_INDEX, index.to_string());
    registry.push_manifest(repository, &digest.replace(':', "-"), &index);
}

/// What an envelope's signature is on (DSSE, "Pre-Authentication Encoding").
pub(crate) fn pae(statement: &str) -> Vec<u8> {
    format!(
        "DSSEv1 {} {IN_TOTO} {} {statement}",
        IN_TOTO.len(),
        statement.len()
    )
    .into_bytes()
}
