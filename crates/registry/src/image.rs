//! OCI images made from given files.
//!
//! ```
//! use registry::image::{ImageBuilder, Layer};
//!
//! let image = ImageBuilder::new()
//!     .layer(Layer::new().file("etc/motd", 0o644, "hello\n"))
//!     .command(["/bin/cat", "/etc/motd"])
//!     .build();
//! assert_eq!(image.layers.len(), 1);
//! ```
//!
//! Everything is deterministic: the same calls give the same digests.

mod busybox;
mod layer;

pub use busybox::{BusyboxError, busybox, busybox_layer, busybox_of, find_busybox};
pub use layer::{Compression, Layer};

use bytes::Bytes;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// Media type of an OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of an OCI manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// Bytes with their media type, addressed by digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    pub media_type: String,
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    pub bytes: Bytes,
}

impl Blob {
    /// Addresses `bytes` by their SHA-256.
    pub fn new(media_type: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            media_type: media_type.into(),
            digest: sha256(&bytes),
            bytes,
        }
    }

    /// The descriptor (image-spec, "OCI Content Descriptors") of this blob.
    #[must_use]
    pub fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len() })
    }
}

/// A manifest, its configuration and its layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub manifest: Blob,
    /// Its digest is what CRI calls the image id.
    pub config: Blob,
    pub layers: Vec<Blob>,
    /// Digests of the uncompressed layers, in the order of `layers`.
    pub diff_ids: Vec<String>,
    /// As in the configuration: `amd64`.
    pub architecture: String,
}

impl Image {
    /// The manifest's digest.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.manifest.digest
    }

    /// The configuration's digest.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.config.digest
    }
}

/// An image index over several images, one per platform.
#[must_use]
pub fn index<'a>(images: impl IntoIterator<Item = &'a Image>) -> Blob {
    let manifests: Vec<Value> = images
        .into_iter()
        .map(|image| {
            let mut descriptor = image.manifest.descriptor();
            descriptor["platform"] = json!({ "architecture": image.architecture, "os": "linux" });
            descriptor
        })
        .collect();
    let document = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
    Blob::new(OCI_INDEX, document.to_string())
}

/// Collects layers and configuration.
#[derive(Debug, Clone)]
pub struct ImageBuilder {
    layers: Vec<Layer>,
    config: Map<String, Value>,
    architecture: String,
    docker: bool,
}

impl Default for ImageBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl ImageBuilder {
    /// No layers, an empty configuration, for this machine's architecture.
    #[must_use]
    pub fn new() -> Self {
        Self {
            layers: Vec::new(),
            config: Map::new(),
            architecture: native_architecture().to_owned(),
            docker: false,
        }
    }

    #[must_use]
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    #[must_use]
    pub fn entrypoint<S: Into<String>>(self, args: impl IntoIterator<Item = S>) -> Self {
        self.set("Entrypoint", strings(args))
    }

    /// `Cmd`.
    #[must_use]
    pub fn command<S: Into<String>>(self, args: impl IntoIterator<Item = S>) -> Self {
        self.set("Cmd", strings(args))
    }

    /// Neither entrypoint nor command.
    #[must_use]
    pub fn without_command(mut self) -> Self {
        self.config.remove("Entrypoint");
        self.config.remove("Cmd");
        self
    }

    /// `NAME=value` each.
    #[must_use]
    pub fn env<S: Into<String>>(self, variables: impl IntoIterator<Item = S>) -> Self {
        self.set("Env", strings(variables))
    }

    /// `USER`: a name or number, with or without a group.
    #[must_use]
    pub fn user(self, user: &str) -> Self {
        self.set("User", user.into())
    }

    #[must_use]
    pub fn working_dir(self, path: &str) -> Self {
        self.set("WorkingDir", path.into())
    }

    /// Adds a `VOLUME`.
    #[must_use]
    pub fn volume(mut self, path: &str) -> Self {
        let volumes = self.config.entry("Volumes").or_insert_with(|| json!({}));
        volumes[path] = json!({});
        self
    }

    /// Such as `SIGUSR1`.
    #[must_use]
    pub fn stop_signal(self, signal: &str) -> Self {
        self.set("StopSignal", signal.into())
    }

    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        let labels = self.config.entry("Labels").or_insert_with(|| json!({}));
        labels[key] = value.into();
        self
    }

    /// As the configuration names it (`amd64`, `arm64`, …); does not change a file.
    #[must_use]
    pub fn architecture(mut self, name: &str) -> Self {
        name.clone_into(&mut self.architecture);
        self
    }

    /// Docker's schema 2 media types in place of OCI's.
    #[must_use]
    pub fn docker(mut self) -> Self {
        self.docker = true;
        self
    }

    #[must_use]
    pub fn build(self) -> Image {
        let mut blobs = Vec::new();
        let mut diff_ids = Vec::new();
        for layer in &self.layers {
            let (blob, diff_id) = self.pack(layer);
            blobs.push(blob);
            diff_ids.push(diff_id);
        }
        let config = json!({
            "created": "2020-01-01T00:00:00Z",
            "architecture": self.architecture,
            "os": "linux",
            "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": self.layers.iter().map(|_| json!({ "created_by": "longshore" })).collect::<Vec<_>>(),
        });
        let config = Blob::new(
            if self.docker {
                DOCKER_CONFIG
            } else {
                OCI_CONFIG
            },
            config.to_string(),
        );
        let media_type = if self.docker {
            DOCKER_MANIFEST
        } else {
            OCI_MANIFEST
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": config.descriptor(),
            "layers": blobs.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        Image {
            manifest: Blob::new(media_type, manifest.to_string()),
            config,
            layers: blobs,
            diff_ids,
            architecture: self.architecture,
        }
    }

    fn pack(&self, layer: &Layer) -> (Blob, String) {
        let tar = layer.tar();
        let diff_id = sha256(&tar);
        let suffix = match (layer.compressed_with(), self.docker) {
            (Compression::None, _) => "",
            (Compression::Gzip, false) => "+gzip",
            (Compression::Gzip, true) => ".gzip",
            #[cfg(feature = "zstd")]
            (Compression::Zstd, false) => "+zstd",
            #[cfg(feature = "zstd")]
            (Compression::Zstd, true) => ".zstd",
        };
        let base = if self.docker { DOCKER_LAYER } else { OCI_LAYER };
        let bytes = layer.compressed_with().apply(&tar);
        (Blob::new(format!("{base}{suffix}"), bytes), diff_id)
    }

    fn set(mut self, key: &str, value: Value) -> Self {
        self.config.insert(key.to_owned(), value);
        self
    }
}

/// Bytes that do not compress, always the same.
#[must_use]
pub fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        // Marsaglia's xorshift.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..count).map(|_| next()).collect()
}

/// `sha256:…` of `bytes`.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn strings<S: Into<String>>(items: impl IntoIterator<Item = S>) -> Value {
    items
        .into_iter()
        .map(|item| Value::String(item.into()))
        .collect()
}

fn native_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
