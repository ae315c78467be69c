//! What the daemon is told: a TOML file and the command line, parsed raw, then resolved once.

mod raw;

use std::{
    io,
    path::{Path, PathBuf},
    str::FromStr,
};

use cni::builtin::{Ipv4Subnet, Ipv6Subnet};

pub(crate) use raw::Raw;

/// Where the configuration is read from when `--config` does not say; it may be missing.
const DEFAULT_FILE: &str = "/etc/longshore/config.toml";

/// Settings that win over the file.
#[derive(Debug, Default, clap::Parser)]
#[command(
    name = "longshored",
    version,
    about = "The Longshore container runtime: CRI on a local socket"
)]
pub(crate) struct Arguments {
    /// Configuration file [default: /etc/longshore/config.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What survives a reboot: images, layers, writable layers
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// What does not: records and sockets of what runs
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// The CRI socket
    #[arg(long, value_name = "SOCKET")]
    address: Option<PathBuf>,
    /// Print the default configuration, each key with its meaning, and exit
    #[arg(long)]
    pub(crate) print_default_config: bool,
}

/// The settings as the rest of the daemon sees them.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) root: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) address: PathBuf,
    /// The supervisor's executable.
    pub(crate) supervisor: PathBuf,
    /// Parent cgroup of pods whose request names none.
    pub(crate) cgroup_parent: String,
    /// Where network namespaces are pinned.
    pub(crate) netns_directory: PathBuf,
    /// Where `Localhost` seccomp profiles are looked up.
    pub(crate) seccomp_directory: PathBuf,
    pub(crate) network: Network,
    /// Registries that may be spoken to over plain HTTP, as `HOST[:PORT]`; loopback may always.
    pub(crate) insecure_registries: Vec<String>,
    /// A filter of tracing-subscriber's `EnvFilter`.
    pub(crate) log_filter: String,
}

/// The built-in bridge network.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    pub(crate) bridge: String,
    pub(crate) ipv4: Ipv4Subnet,
    pub(crate) ipv6: Option<Ipv6Subnet>,
    pub(crate) masquerade: bool,
    pub(crate) mtu: u32,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("read the configuration {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("configuration {}", path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("configuration key {key}: {value:?} is not {expected}")]
    Value {
        key: &'static str,
        value: String,
        expected: &'static str,
    },
    #[error("find the daemon's own executable")]
    Executable(#[source] io::Error),
}

impl Config {
    pub(crate) fn load(arguments: &Arguments) -> Result<Self, ConfigError> {
        let raw = match &arguments.config {
            Some(path) => Raw::read(path)?,
            None if Path::new(DEFAULT_FILE).exists() => Raw::read(Path::new(DEFAULT_FILE))?,
            None => Raw::default(),
        };
        Self::resolve(raw, arguments)
    }

    fn resolve(raw: Raw, arguments: &Arguments) -> Result<Self, ConfigError> {
        let state = arguments.state.clone().unwrap_or(raw.state);
        let address = match (&arguments.address, raw.address) {
            (Some(address), _) => address.clone(),
            (None, Some(address)) => address,
            (None, None) => state.join("longshore.sock"),
        };
        let supervisor = match raw.supervisor {
            Some(path) => path,
            // The supervisor is installed beside the daemon.
            None => std::env::current_exe()
                .map_err(ConfigError::Executable)?
                .with_file_name("longshore-pod"),
        };
        let config = Self {
            root: absolute("root", arguments.root.clone().unwrap_or(raw.root))?,
            state: absolute("state", state)?,
            address: absolute("address", address)?,
            supervisor: absolute("supervisor", supervisor)?,
            cgroup_parent: raw.cgroup_parent,
            netns_directory: absolute("netns_directory", raw.netns_directory)?,
            seccomp_directory: absolute("seccomp_directory", raw.seccomp_directory)?,
            network: Network {
                ipv4: subnet(
                    "network.ipv4",
                    &raw.network.ipv4,
                    "an IPv4 network such as 10.88.0.0/16",
                )?,
                ipv6: match raw.network.ipv6.as_str() {
                    "" => None,
                    range => Some(subnet(
                        "network.ipv6",
                        range,
                        "an IPv6 network such as fd00:1::/64",
                    )?),
                },
                bridge: raw.network.bridge,
                masquerade: raw.network.masquerade,
                mtu: raw.network.mtu,
            },
            insecure_registries: raw.registries.insecure,
            log_filter: raw.log,
        };
        if !(1..=15).contains(&config.network.bridge.len()) {
            return Err(ConfigError::Value {
                key: "network.bridge",
                value: config.network.bridge,
                expected: "an interface name of 1 to 15 bytes",
            });
        }
        if !config.cgroup_parent.starts_with('/') || config.cgroup_parent.contains("..") {
            return Err(ConfigError::Value {
                key: "cgroup_parent",
                value: config.cgroup_parent,
                expected: "an absolute cgroup path without `..`",
            });
        }
        Ok(config)
    }
}

fn absolute(key: &'static str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    if path.is_absolute() {
        return Ok(path);
    }
    Err(ConfigError::Value {
        key,
        value: path.display().to_string(),
        expected: "an absolute path",
    })
}

fn subnet<T: FromStr>(
    key: &'static str,
    text: &str,
    expected: &'static str,
) -> Result<T, ConfigError> {
    text.parse().map_err(|_| ConfigError::Value {
        key,
        value: text.to_owned(),
        expected,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_file_is_the_default() {
        let raw: Raw = toml::from_str(raw::DEFAULT).unwrap();
        assert_eq!(raw, Raw::default());
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let error = toml::from_str::<Raw>("root = \"/x\"\nrooot = \"/y\"\n")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("line 2") && error.contains("rooot"),
            "{error}"
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, key) in [
            ("root = \"relative\"", "root"),
            ("[network]\nipv4 = \"10.0.0.0/33\"", "network.ipv4"),
            ("[network]\nipv6 = \"10.0.0.0/8\"", "network.ipv6"),
            (
                "[network]\nbridge = \"a-name-too-long-for-a-link\"",
                "network.bridge",
            ),
            ("cgroup_parent = \"/a/../b\"", "cgroup_parent"),
        ] {
            let raw = toml::from_str(text).unwrap();
            let error = Config::resolve(raw, &Arguments::default())
                .unwrap_err()
                .to_string();
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn the_command_line_wins() {
        let arguments = Arguments {
            root: Some("/r".into()),
            state: Some("/s".into()),
            ..Arguments::default()
        };
        let config = Config::resolve(Raw::default(), &arguments).unwrap();
        assert_eq!(config.root, Path::new("/r"));
        assert_eq!(config.address, Path::new("/s/longshore.sock"));
    }
}
