//! Configurations as an administrator, or the installer of a network, puts them into a directory.
//!
//! The first file by name wins, as everywhere. One that is wrong is not passed over: pods would silently get another network.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::version::Version;

/// A network: its plugins in the order in which they are run. Whole in every attachment's record, so that DEL has what ADD had.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Network {
    pub(super) name: String,
    pub(super) file: PathBuf,
    /// What is spoken to the plugins; one of `versions`.
    pub(super) version: Version,
    /// Those of the configuration that we speak, the newest first.
    pub(super) versions: Vec<Version>,
    pub(super) disable_check: bool,
    pub(super) disable_gc: bool,
    pub(super) plugins: Vec<Plugin>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Plugin {
    /// The executable's name.
    pub(super) kind: String,
    /// The plugin's part of the file as it is there.
    pub(super) config: Map<String, Value>,
}

impl Plugin {
    /// Whether the configuration says that the plugin takes this `runtimeConfig`.
    pub(super) fn takes(&self, capability: &str) -> bool {
        let capabilities = self.config.get("capabilities");
        capabilities.and_then(|all| all.get(capability)) == Some(&Value::Bool(true))
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigError {
    #[error("read the network configurations in {}", path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("read the network configuration {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the network configuration {} is not JSON", path.display())]
    Json {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("the network configuration {}: {what}", path.display())]
    Content { path: PathBuf, what: String },
}

const SUFFIXES: [&str; 3] = ["conf", "conflist", "json"];

/// More than any configuration has; a file that is longer is something else.
const LONGEST: u64 = 1 << 20;

/// The first configuration of a directory; `None` where there is none, or no directory.
pub(super) fn load(directory: &Path) -> Result<Option<Network>, ConfigError> {
    match files(directory, &SUFFIXES)?.into_iter().next() {
        Some(file) => read(&file).map(Some),
        None => Ok(None),
    }
}

/// Files with such a suffix, by name.
pub(super) fn files(directory: &Path, suffixes: &[&str]) -> Result<Vec<PathBuf>, ConfigError> {
    let failed = |source| ConfigError::Directory {
        path: directory.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed(source)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let suffix = path.extension().and_then(|suffix| suffix.to_str());
        if suffix.is_some_and(|suffix| suffixes.contains(&suffix)) && path.is_file() {
            files.push(path);
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn read(path: &Path) -> Result<Network, ConfigError> {
    let wrong = |what: String| ConfigError::Content {
        path: path.to_owned(),
        what,
    };
    let mut list = object(path)?;
    let name = match list.get("name") {
        Some(Value::String(name)) if is_name(name) => name.clone(),
        Some(name) => return Err(wrong(format!("name {name} is not a network's name"))),
        None => return Err(wrong("it has no name".to_owned())),
    };
    let versions = versions(&list).map_err(wrong)?;
    let version = *versions.first().ok_or_else(|| wrong(unsupported(&list)))?;
    let flag = |key: &str| flag(&list, key).map_err(wrong);
    let (disable_check, disable_gc) = (flag("disableCheck")?, flag("disableGC")?);
    let only_inlined = flag("loadOnlyInlinedPlugins")?;
    let mut plugins = Vec::new();
    match list.remove("plugins") {
        Some(Value::Array(inlined)) => {
            for (index, config) in inlined.into_iter().enumerate() {
                let plugin = plugin(config).map_err(|e| wrong(format!("plugins[{index}]: {e}")))?;
                plugins.push(plugin);
            }
        }
        Some(other) => return Err(wrong(format!("plugins is not a list: {other}"))),
        // Without a list the file is a plugin's, the network's only one.
        None if list.contains_key("type") => {
            plugins.push(plugin(Value::Object(list)).map_err(wrong)?);
            return Ok(Network {
                name,
                file: path.to_owned(),
                version,
                versions,
                disable_check,
                disable_gc,
                plugins,
            });
        }
        None => {}
    }
    if !only_inlined {
        // Specification 1.1, section 1: more plugins in a directory of the network's name.
        let more = path.parent().unwrap_or(Path::new("/")).join(&name);
        for file in files(&more, &["conf"])? {
            plugins.push(plugin(Value::Object(object(&file)?)).map_err(|what| {
                ConfigError::Content {
                    path: file.clone(),
                    what,
                }
            })?);
        }
    }
    if plugins.is_empty() {
        return Err(wrong("it has no plugins".to_owned()));
    }
    Ok(Network {
        name,
        file: path.to_owned(),
        version,
        versions,
        disable_check,
        disable_gc,
        plugins,
    })
}

fn object(path: &Path) -> Result<Map<String, Value>, ConfigError> {
    use std::io::Read;
    let failed = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(LONGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > LONGEST {
        return Err(ConfigError::Content {
            path: path.to_owned(),
            what: format!("it is longer than {LONGEST} bytes"),
        });
    }
    serde_json::from_slice(&bytes).map_err(|source| ConfigError::Json {
        path: path.to_owned(),
        source,
    })
}

fn plugin(config: Value) -> Result<Plugin, String> {
    let Value::Object(config) = config else {
        return Err(format!("{config} is not an object"));
    };
    let kind = match config.get("type") {
        Some(Value::String(kind)) => kind.clone(),
        Some(other) => return Err(format!("type {other} is not a text")),
        None => return Err("it has no type".to_owned()),
    };
    // An executable in one of the directories, and none elsewhere.
    if kind.is_empty() || kind.contains(['/', '\0']) || kind == "." || kind == ".." {
        return Err(format!("type {kind:?} is not a plugin's name"));
    }
    Ok(Plugin { kind, config })
}

/// `cniVersions`, and `cniVersion`, as far as we speak them, the newest first.
fn versions(list: &Map<String, Value>) -> Result<Vec<Version>, String> {
    let mut texts = Vec::new();
    match list.get("cniVersions") {
        None => {}
        Some(Value::Array(all)) => {
            for text in all {
                let text = text.as_str();
                texts.push(text.ok_or_else(|| format!("cniVersions has {all:?}, not texts"))?);
            }
        }
        Some(other) => return Err(format!("cniVersions is not a list: {other}")),
    }
    match list.get("cniVersion") {
        None => {}
        Some(Value::String(text)) => texts.push(text),
        Some(other) => return Err(format!("cniVersion is not a text: {other}")),
    }
    let mut versions: Vec<Version> = texts.into_iter().filter_map(Version::parse).collect();
    versions.sort_unstable();
    versions.dedup();
    versions.reverse();
    Ok(versions)
}

fn unsupported(list: &Map<String, Value>) -> String {
    let said = match (list.get("cniVersion"), list.get("cniVersions")) {
        (Some(version), None) => format!("cniVersion {version}"),
        (None, None) => "a configuration without cniVersion, which means 0.1.0,".to_owned(),
        (_, Some(versions)) => format!("none of cniVersions {versions}"),
    };
    let [first, .., last] = Version::ALL;
    format!("{said} is not spoken here: use one from {first} to {last}")
}

/// The reference implementation takes the words, too.
fn flag(list: &Map<String, Value>, key: &str) -> Result<bool, String> {
    match list.get(key) {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(Value::String(word)) if word.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(word)) if word.eq_ignore_ascii_case("false") => Ok(false),
        Some(other) => Err(format!("{key} is neither true nor false: {other}")),
    }
}

/// Specification 1.1, section 1: begins with a letter or digit, goes on with these, dots, underscores and hyphens.
fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    name.len() <= 200
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, name: &str, text: &str) {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn error_of(text: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), "10.conflist", text);
        load(directory.path()).unwrap_err().to_string()
    }

    #[test]
    fn the_first_by_name_wins_whatever_its_form() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert_eq!(load(&path.join("missing")).unwrap(), None);
        assert_eq!(load(path).unwrap(), None);
        write(path, "00.conf.bak", "{");
        write(path, "readme", "{");
        std::fs::create_dir(path.join("00.conf")).unwrap();
        write(
            path,
            "30.json",
            r#"{"name": "c", "cniVersion": "1.0.0", "type": "x"}"#,
        );
        assert_eq!(load(path).unwrap().unwrap().name, "c");
        write(
            path,
            "20.conf",
            r#"{"name": "b", "cniVersion": "0.3.1", "type": "x", "more": 1}"#,
        );
        let single = load(path).unwrap().unwrap();
        assert_eq!((single.name.as_str(), single.plugins.len()), ("b", 1));
        assert_eq!(single.plugins[0].config["more"], 1);
        let list = r#"{"name": "a", "cniVersion": "1.0.0", "disableCheck": "true", "disableGC": true,
            "plugins": [{"type": "one", "capabilities": {"dns": true, "mac": false}}, {"type": "two"}]}"#;
        write(path, "10.conflist", list);
        let list = load(path).unwrap().unwrap();
        let kinds: Vec<_> = list.plugins.iter().map(|plugin| &plugin.kind).collect();
        assert_eq!(kinds, ["one", "two"]);
        assert!(list.disable_check && list.disable_gc);
        assert!(list.plugins[0].takes("dns") && !list.plugins[0].takes("mac"));
        // A broken one is not passed over.
        write(path, "05.conflist", "{");
        assert!(load(path).is_err());
    }

    #[test]
    fn plugins_may_be_files_of_their_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let list = r#"{"name": "net", "cniVersion": "1.1.0", "plugins": [{"type": "one"}], "loadOnlyInlinedPlugins": FLAG}"#;
        write(path, "10.conflist", &list.replace("FLAG", "false"));
        write(path, "net/20.conf", r#"{"type": "three"}"#);
        write(path, "net/10.conf", r#"{"type": "two"}"#);
        let kinds = |path: &Path| -> Vec<String> {
            let network = load(path).unwrap().unwrap();
            network.plugins.into_iter().map(|p| p.kind).collect()
        };
        assert_eq!(kinds(path), ["one", "two", "three"]);
        write(path, "10.conflist", &list.replace("FLAG", "true"));
        assert_eq!(kinds(path), ["one"]);
    }

    #[test]
    fn the_newest_common_version_comes_first() {
        let directory = tempfile::tempdir().unwrap();
        let text = r#"{"name": "n", "cniVersion": "0.4.0", "cniVersions": ["0.3.1", "1.1.0", "9.0.0", "1.0.0"],
            "plugins": [{"type": "one"}]}"#;
        write(directory.path(), "10.conflist", text);
        let network = load(directory.path()).unwrap().unwrap();
        let spoken: Vec<_> = network.versions.iter().map(|v| v.as_str()).collect();
        assert_eq!(spoken, ["1.1.0", "1.0.0", "0.4.0", "0.3.1"]);
        assert_eq!(network.version, Version::V1_1_0);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, word) in [
            ("[]", "not JSON"),
            (r#"{"cniVersion": "1.0.0"}"#, "no name"),
            (r#"{"name": "../up", "cniVersion": "1.0.0"}"#, "../up"),
            (r#"{"name": "n", "plugins": []}"#, "which means 0.1.0"),
            (
                r#"{"name": "n", "cniVersion": "0.2.0"}"#,
                "\"0.2.0\" is not spoken",
            ),
            (
                r#"{"name": "n", "cniVersion": 1}"#,
                "cniVersion is not a text",
            ),
            (
                r#"{"name": "n", "cniVersions": ["2.0.0"]}"#,
                "none of cniVersions",
            ),
            (r#"{"name": "n", "cniVersion": "1.0.0"}"#, "no plugins"),
            (
                r#"{"name": "n", "cniVersion": "1.0.0", "plugins": {}}"#,
                "not a list",
            ),
            (
                r#"{"name": "n", "cniVersion": "1.0.0", "plugins": [{}]}"#,
                "plugins[0]: it has no type",
            ),
            (
                r#"{"name": "n", "cniVersion": "1.0.0", "plugins": [{"type": "../sh"}]}"#,
                "../sh",
            ),
            (
                r#"{"name": "n", "cniVersion": "1.0.0", "disableCheck": 3, "plugins": [{"type": "a"}]}"#,
                "disableCheck",
            ),
        ] {
            let error = error_of(text);
            assert!(
                error.contains(word) && error.contains("10.conflist"),
                "{text}: {error}"
            );
        }
        assert!(error_of(&" ".repeat(1 << 20)).contains("10.conflist"));
    }
}
