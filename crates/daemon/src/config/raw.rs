use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::ConfigError;

/// The default configuration as a commented file.
pub(crate) const DEFAULT: &str = include_str!("default.toml");

/// The file as it is written; every key may be missing, none may be unknown.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Raw {
    pub(super) root: PathBuf,
    pub(super) state: PathBuf,
    pub(super) address: Option<PathBuf>,
    pub(super) supervisor: Option<PathBuf>,
    pub(super) cgroup_parent: String,
    pub(super) netns_directory: PathBuf,
    pub(super) seccomp_directory: PathBuf,
    pub(super) log: String,
    pub(super) network: Network,
    pub(super) registries: Registries,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Network {
    pub(super) bridge: String,
    pub(super) ipv4: String,
    pub(super) ipv6: String,
    pub(super) masquerade: bool,
    pub(super) mtu: u32,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Registries {
    pub(super) insecure: Vec<String>,
}

impl Raw {
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        toml::from_str(&text).map_err(|source| ConfigError::Parse {
            path: path.to_owned(),
            source: Box::new(source),
        })
    }

    pub(crate) const fn default_file() -> &'static str {
        DEFAULT
    }
}

// A test holds these equal to default.toml.
impl Default for Raw {
    fn default() -> Self {
        Self {
            root: "/var/lib/longshore".into(),
            state: "/run/longshore".into(),
            address: None,
            supervisor: None,
            cgroup_parent: "/longshore".to_owned(),
            netns_directory: "/run/netns".into(),
            seccomp_directory: "/var/lib/kubelet/seccomp".into(),
            log: "info".to_owned(),
            network: Network::default(),
            registries: Registries::default(),
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self {
            bridge: "longshore0".to_owned(),
            ipv4: "10.88.0.0/16".to_owned(),
            ipv6: "fd4c:6f6e:6773::/64".to_owned(),
            masquerade: true,
            mtu: 1500,
        }
    }
}
