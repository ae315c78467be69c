//! Manifests and indexes, OCI's and Docker's (image-spec manifest.md and image-index.md; distribution's "Image Manifest Version 2, Schema 2").

use bytes::Bytes;
use serde::Deserialize;

use crate::registry::Session;
use crate::store::BlobRecord;
use crate::{Digest, DocumentProblem, PullCause};

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
const DOCKER_SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// What we ask registries for.
pub(crate) fn accept() -> String {
    [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].join(", ")
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Document {
    Index(Vec<IndexEntry>),
    Manifest(Manifest),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    /// Bottom first.
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub(crate) descriptor: Descriptor,
    pub(crate) platform: Option<Platform>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) variant: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: Option<u32>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
}

impl Descriptor {
    /// As it is written down.
    pub(crate) fn record(&self) -> BlobRecord {
        BlobRecord {
            digest: self.digest.to_string(),
            size: self.size,
            media_type: self.media_type.clone(),
        }
    }
}

/// What a manifest calls itself, or else what it is called.
pub(crate) fn type_of(bytes: &[u8], called: &str) -> String {
    let raw: Option<RawDocument> = serde_json::from_slice(bytes).ok();
    let called = called.split(';').next().unwrap_or_default().trim();
    let named = raw.and_then(|raw| raw.media_type);
    match (named, called) {
        (Some(named), _) => named,
        (None, DOCKER_MANIFEST) => DOCKER_MANIFEST.to_owned(),
        (None, _) => OCI_MANIFEST.to_owned(),
    }
}

/// An image's manifest by its digest: its bytes, its type, and what it says.
pub(crate) async fn fetch(
    session: &Session,
    digest: &str,
) -> Result<(Bytes, String, Manifest), PullCause> {
    let problem = |problem| PullCause::Document {
        document: format!("manifest {digest}"),
        origin: session.subject(),
        problem,
    };
    let (bytes, media_type) = session.manifest(digest, &accept()).await?;
    if !Digest::parse(digest).is_ok_and(|digest| digest.matches(&bytes)) {
        let found = Digest::of(&bytes).to_string();
        return Err(problem(DocumentProblem::Digest { found }));
    }
    match Document::parse(&bytes, &media_type).map_err(problem)? {
        Document::Manifest(manifest) => {
            let media_type = type_of(&bytes, &media_type);
            Ok((bytes, media_type, manifest))
        }
        Document::Index(_) => Err(problem(DocumentProblem::Malformed("it is an index".into()))),
    }
}

impl RawDescriptor {
    fn check(self) -> Result<Descriptor, DocumentProblem> {
        Ok(Descriptor {
            digest: Digest::parse(&self.digest)
                .map_err(|error| DocumentProblem::Malformed(error.to_string()))?,
            size: self.size,
            media_type: self.media_type,
        })
    }
}

/// No container could be made of more layers, and each that is fetched takes memory.
pub(crate) fn check_count(layers: usize) -> Result<(), DocumentProblem> {
    match layers > snapshot::MAX_LAYERS {
        true => Err(DocumentProblem::Layers {
            count: layers,
            limit: snapshot::MAX_LAYERS,
        }),
        false => Ok(()),
    }
}

impl Document {
    /// `content_type` is what the server calls it, and counts where the document does not name its own type.
    pub(crate) fn parse(bytes: &[u8], content_type: &str) -> Result<Self, DocumentProblem> {
        let malformed = |reason: &str| DocumentProblem::Malformed(reason.to_owned());
        let raw: RawDocument = serde_json::from_slice(bytes)
            .map_err(|error| DocumentProblem::Malformed(error.to_string()))?;
        let content_type = content_type.split(';').next().unwrap_or_default().trim();
        let media_type = raw.media_type.as_deref().unwrap_or(content_type);
        if raw.schema_version == Some(1)
            || matches!(media_type, DOCKER_SCHEMA1 | DOCKER_SCHEMA1_SIGNED)
        {
            return Err(DocumentProblem::Kind(
                "it is a schema 1 manifest, which registries gave up in 2019".into(),
            ));
        }
        match (raw.manifests, raw.config, raw.layers) {
            // One document must not be read in two ways (CVE-2021-41190).
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
                Err(malformed("it is an index and a manifest at once"))
            }
            (Some(_), None, None) if matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST) => {
                Err(malformed("it is an index that calls itself a manifest"))
            }
            (Some(manifests), None, None) => {
                let entries = manifests.into_iter().map(|mut entry| {
                    let platform = entry.platform.take();
                    let descriptor = entry.check()?;
                    Ok(IndexEntry {
                        descriptor,
                        platform,
                    })
                });
                Ok(Self::Index(entries.collect::<Result<_, _>>()?))
            }
            (None, Some(_), _) if matches!(media_type, OCI_INDEX | DOCKER_LIST) => {
                Err(malformed("it is a manifest that calls itself an index"))
            }
            (None, Some(config), layers) => {
                if !matches!(&*config.media_type, OCI_CONFIG | DOCKER_CONFIG) {
                    let kind = raw.artifact_type.unwrap_or(config.media_type);
                    let kind: String = kind.chars().take(200).collect();
                    return Err(DocumentProblem::Kind(format!(
                        "it is an artifact, {kind:?}"
                    )));
                }
                let layers = layers.unwrap_or_default();
                check_count(layers.len())?;
                Ok(Self::Manifest(Manifest {
                    config: config.check()?,
                    layers: layers
                        .into_iter()
                        .map(RawDescriptor::check)
                        .collect::<Result<_, _>>()?,
                }))
            }
            (None, None, _) => Err(malformed("it has neither manifests nor a configuration")),
        }
    }
}

impl Platform {
    /// This machine's, in Go's words.
    pub(crate) fn of_this_machine() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "aarch64" => ("arm64", "v8"),
            "arm" => ("arm", "v7"),
            "x86" => ("386", ""),
            "powerpc64" => ("ppc64le", ""),
            "loongarch64" => ("loong64", ""),
            same => (same, ""),
        };
        Self {
            architecture: architecture.into(),
            os: "linux".into(),
            variant: variant.into(),
        }
    }

    /// How well something for `other` runs here: lower is better; `None`: not at all.
    fn distance(&self, other: &Self) -> Option<u32> {
        if (&self.os, &self.architecture) != (&other.os, &other.architecture) {
            return None;
        }
        let number = |variant: &str| variant.trim_start_matches('v').parse::<u32>().ok();
        match (number(&self.variant), number(&other.variant)) {
            _ if self.variant == other.variant => Some(0),
            // Every amd64 is a v1; what more it is, is not looked at.
            (None, Some(1)) | (Some(_), None) => Some(1),
            // An older arm runs on a newer one.
            (Some(here), Some(there)) if there < here => Some(1 + here - there),
            _ => None,
        }
    }

    /// The entry of an index that suits this platform best, the first of equals.
    pub(crate) fn choose<'a>(
        &self,
        entries: &'a [IndexEntry],
    ) -> Result<&'a Descriptor, DocumentProblem> {
        let suitable = entries.iter().filter_map(|entry| {
            let distance = self.distance(entry.platform.as_ref()?)?;
            Some((distance, entry))
        });
        if let Some((_, entry)) = suitable.min_by_key(|(distance, _)| *distance) {
            return Ok(&entry.descriptor);
        }
        // Some tools make an index of one image and leave its platform out.
        if let [
            IndexEntry {
                descriptor,
                platform: None,
            },
        ] = entries
        {
            return Ok(descriptor);
        }
        let mut offered: Vec<String> = (entries.iter())
            .filter_map(|entry| entry.platform.as_ref())
            .map(Self::to_string)
            .take(20)
            .collect();
        if offered.is_empty() {
            offered.push("nothing".into());
        }
        Err(DocumentProblem::Platform {
            wanted: self.to_string(),
            offered: offered.join(", "),
        })
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bounded = |text: &str| text.chars().take(32).collect::<String>();
        write!(
            formatter,
            "{}/{}",
            bounded(&self.os),
            bounded(&self.architecture)
        )?;
        match &*self.variant {
            "" => Ok(()),
            variant => write!(formatter, "/{}", bounded(variant)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    fn descriptor(media_type: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"{DIGEST}","size":7}}"#)
    }

    fn parse(text: &str, content_type: &str) -> Result<Document, DocumentProblem> {
        Document::parse(text.as_bytes(), content_type)
    }

    #[test]
    fn what_is_an_image_and_what_is_not() {
        let config = descriptor(OCI_CONFIG);
        let layer = descriptor("application/vnd.oci.image.layer.v1.tar+gzip");
        let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]}}"#);
        assert!(
            matches!(parse(&manifest, OCI_MANIFEST), Ok(Document::Manifest(m)) if m.layers.len() == 1)
        );
        assert!(matches!(
            parse(&manifest, OCI_INDEX),
            Err(DocumentProblem::Malformed(_))
        ));
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{config}]}}"#);
        assert!(matches!(
            parse(&index, "application/json; charset=utf-8"),
            Ok(Document::Index(_))
        ));
        assert!(matches!(
            parse(&index, DOCKER_MANIFEST),
            Err(DocumentProblem::Malformed(_))
        ));
        let both = format!(r#"{{"manifests":[{config}],"config":{config},"layers":[]}}"#);
        assert!(matches!(
            parse(&both, ""),
            Err(DocumentProblem::Malformed(_))
        ));
        let artifact = format!(
            r#"{{"artifactType":"text/sbom","config":{},"layers":[]}}"#,
            descriptor("application/vnd.oci.empty.v1+json")
        );
        assert!(
            matches!(parse(&artifact, ""), Err(DocumentProblem::Kind(k)) if k.contains("text/sbom"))
        );
        let layers = |count| {
            let layer = descriptor("application/vnd.oci.image.layer.v1.tar");
            let layers = vec![layer; count].join(",");
            let config = descriptor(OCI_CONFIG);
            parse(&format!(r#"{{"config":{config},"layers":[{layers}]}}"#), "")
        };
        assert!(layers(500).is_ok());
        assert!(matches!(
            layers(501),
            Err(DocumentProblem::Layers {
                count: 501,
                limit: 500
            })
        ));
        assert!(matches!(
            parse(r#"{"schemaVersion":1,"fsLayers":[]}"#, ""),
            Err(DocumentProblem::Kind(_))
        ));
        for malformed in [
            "",
            "[]",
            "{}",
            "null",
            r#"{"config":{"digest":"sha256:x","size":1,"mediaType":"m"}}"#,
            r#"{"config":{"digest":"","size":-1}}"#,
        ] {
            assert!(parse(malformed, "").is_err(), "{malformed}");
        }
    }

    #[test]
    fn platforms_are_chosen_by_how_well_they_fit() {
        let entry = |platform: &str, size| {
            let mut parts = platform.split('/').map(str::to_owned);
            IndexEntry {
                descriptor: Descriptor {
                    media_type: OCI_MANIFEST.into(),
                    digest: Digest::parse(DIGEST).unwrap(),
                    size,
                },
                platform: Some(Platform {
                    os: parts.next().unwrap(),
                    architecture: parts.next().unwrap(),
                    variant: parts.next().unwrap_or_default(),
                }),
            }
        };
        let chosen = |here: &str, offers: &[&str]| {
            let entries: Vec<_> = (offers.iter().zip(0..))
                .map(|(offer, i)| entry(offer, i))
                .collect();
            entry(here, 0)
                .platform
                .unwrap()
                .choose(&entries)
                .map(|descriptor| descriptor.size)
                .ok()
        };
        assert_eq!(
            chosen(
                "linux/amd64",
                &["windows/amd64", "linux/arm64/v8", "linux/amd64"]
            ),
            Some(2)
        );
        assert_eq!(
            chosen("linux/amd64", &["linux/amd64/v3", "linux/amd64/v1"]),
            Some(1)
        );
        assert_eq!(
            chosen("linux/amd64", &["linux/amd64/v3", "unknown/unknown"]),
            None
        );
        assert_eq!(chosen("linux/arm64/v8", &["linux/arm64"]), Some(0));
        assert_eq!(
            chosen(
                "linux/arm/v7",
                &["linux/arm/v5", "linux/arm/v6", "linux/arm/v8"]
            ),
            Some(1)
        );
        assert_eq!(chosen("linux/amd64", &[]), None);
    }
}
