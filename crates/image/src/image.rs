use std::collections::BTreeMap;

use serde::Deserialize;
use snapshot::LayerKey;

/// An image that is wholly here. Immutable; a change of its names makes a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// `sha256:` and the digest of the configuration.
    pub id: String,
    /// `repository:tag` in full, sorted.
    pub repo_tags: Vec<String>,
    /// `repository@digest` in full, sorted; of what the registry was asked for, which is an index where it is one.
    pub repo_digests: Vec<String>,
    /// What its layers take on disk unpacked, shared ones included, and its configuration; never 0.
    pub size_bytes: u64,
    /// What of the configuration matters to a container. [`crate::Images::config_json`] has all of it.
    pub config: ImageConfig,
    /// Bottom first, as the snapshotter wants them.
    pub layers: Vec<LayerKey>,
    /// The chain id of all layers (image-spec, config.md#layer-chainid); empty for an image without layers.
    pub chain_id: String,
    /// Digest of the manifest for this platform.
    pub manifest_digest: String,
    /// Where it was last fetched from: scheme, host and port.
    pub origin: String,
    /// Named by the configuration's list of images that must stay.
    pub pinned: bool,
    /// From the configuration's `User`.
    pub user: ImageUser,
}

impl Image {
    /// What people call it: the first tag, or else a digest, or else its id.
    pub fn name(&self) -> &str {
        let mut names = self.repo_tags.iter().chain(&self.repo_digests);
        names.next().unwrap_or(&self.id)
    }
}

/// Whom an image wants its processes to run as; a group beside it is left to the container's creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageUser {
    /// The configuration names none: root.
    Unset,
    /// A number.
    Uid(i64),
    /// A name, to be looked up in the image.
    Name(String),
}

impl ImageUser {
    pub(crate) fn parse(user: &str) -> Self {
        let user = user.split(':').next().unwrap_or_default();
        match user.parse() {
            Ok(uid @ 0..) => Self::Uid(uid),
            _ if user.is_empty() => Self::Unset,
            _ => Self::Name(user.to_owned()),
        }
    }
}

/// The execution parameters of an image's configuration (image-spec, config.md), with nulls read as absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// GOARCH: `amd64`, `arm64`, …
    pub architecture: String,
    /// GOOS.
    pub os: String,
    /// RFC 3339, as written.
    pub created: Option<String>,
    /// `uid`, `uid:gid`, `name`, `name:group`, …; may be empty.
    pub user: String,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Entrypoint.
    pub entrypoint: Vec<String>,
    /// Default arguments, or the command where there is no entrypoint.
    pub cmd: Vec<String>,
    /// May be empty: `/`.
    pub working_dir: String,
    /// Paths that want a volume each.
    pub volumes: Vec<String>,
    /// A name or a number; may be empty: SIGTERM.
    pub stop_signal: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// `port/protocol`.
    pub exposed_ports: Vec<String>,
}

/// A configuration with what only the store needs.
#[derive(Debug)]
pub(crate) struct ParsedConfig {
    pub(crate) config: ImageConfig,
    /// Bottom first.
    pub(crate) diff_ids: Vec<String>,
}

#[derive(Deserialize, Default)]
struct RawConfig {
    architecture: Option<String>,
    os: Option<String>,
    created: Option<String>,
    config: Option<RawExecution>,
    rootfs: Option<RawRootfs>,
}

#[derive(Deserialize)]
struct RawRootfs {
    diff_ids: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct RawExecution {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    volumes: Option<BTreeMap<String, serde_json::Value>>,
    stop_signal: Option<String>,
    labels: Option<BTreeMap<String, Option<String>>>,
    exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
}

impl ParsedConfig {
    pub(crate) fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        let raw: RawConfig = serde_json::from_slice(json)?;
        let execution = raw.config.unwrap_or_default();
        let keys = |map: Option<BTreeMap<String, serde_json::Value>>| {
            map.unwrap_or_default().into_keys().collect()
        };
        Ok(Self {
            config: ImageConfig {
                architecture: raw.architecture.unwrap_or_default(),
                os: raw.os.unwrap_or_default(),
                created: raw.created,
                user: execution.user.unwrap_or_default(),
                env: execution.env.unwrap_or_default(),
                entrypoint: execution.entrypoint.unwrap_or_default(),
                cmd: execution.cmd.unwrap_or_default(),
                working_dir: execution.working_dir.unwrap_or_default(),
                volumes: keys(execution.volumes),
                stop_signal: execution.stop_signal.unwrap_or_default(),
                labels: (execution.labels.unwrap_or_default().into_iter())
                    .map(|(key, value)| (key, value.unwrap_or_default()))
                    .collect(),
                exposed_ports: keys(execution.exposed_ports),
            },
            diff_ids: raw
                .rootfs
                .and_then(|rootfs| rootfs.diff_ids)
                .unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_numbers_or_names() {
        for (text, user) in [
            ("", ImageUser::Unset),
            (":5", ImageUser::Unset),
            ("1002", ImageUser::Uid(1002)),
            ("1003:1004", ImageUser::Uid(1003)),
            ("www-data", ImageUser::Name("www-data".into())),
            ("www-data:1004", ImageUser::Name("www-data".into())),
            ("-1", ImageUser::Name("-1".into())),
        ] {
            assert_eq!(ImageUser::parse(text), user, "{text}");
        }
    }

    #[test]
    fn nulls_are_absent() {
        let json = br#"{"architecture":"amd64","os":"linux","config":{"Env":null,"Cmd":["sh"],"Volumes":{"/b":{},"/a":null},
            "Labels":{"k":null},"OnBuild":null},"rootfs":{"type":"layers","diff_ids":null},"history":null}"#;
        let parsed = ParsedConfig::parse(json).unwrap();
        assert_eq!(parsed.config.cmd, ["sh"]);
        assert_eq!(parsed.config.volumes, ["/a", "/b"]);
        assert_eq!(parsed.config.labels["k"], "");
        assert!(parsed.diff_ids.is_empty());
        assert!(ParsedConfig::parse(b"{}").is_ok());
        assert!(ParsedConfig::parse(b"[]").is_err());
    }
}
