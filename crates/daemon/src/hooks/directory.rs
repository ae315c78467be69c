//! Directories of hooks as CRI-O and Podman have them: files `*.json` in the format `oci-hooks(5)`, version 1.0.0, which say for which
//! containers a hook is.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use oci_spec::runtime::{Hook, Spec};
use regex_lite::Regex;
use serde::Deserialize;

use super::{Stage, add};
use crate::paths::is_known_missing;

/// Where they are.
#[derive(Debug)]
pub(crate) struct HookDirectories {
    /// Of two files with one name that of the later directory counts.
    directories: Vec<PathBuf>,
    trouble: Mutex<Option<String>>,
}

/// A file that nobody can follow. It may be there to confine containers: none is made while it is wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DirectoryError {
    #[error("hooks: list {}", path.display())]
    List {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("hooks: read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("hooks: {} does not parse", path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("hooks: {}: {field}: {value:?}: {why}", path.display())]
    Field {
        path: PathBuf,
        field: &'static str,
        value: String,
        why: &'static str,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: String,
    hook: Hook,
    when: When,
    stages: Vec<String>,
}

/// Every condition that is given must hold, and one at least must be given.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct When {
    always: Option<bool>,
    /// Regular expressions of keys and values.
    annotations: BTreeMap<String, String>,
    /// Regular expressions of the program that the container runs.
    commands: Vec<String>,
    has_bind_mounts: Option<bool>,
}

/// The hooks of the node's directories, in the order of their files' names.
#[derive(Debug)]
pub(crate) struct NodeHooks(Vec<Checked>);

impl NodeHooks {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds those that are for this container. `annotations` are the container's and its pod's; `bind_mounts`: whether the request mounts
    /// anything of the node's.
    pub(crate) fn add(
        &self,
        spec: &mut Spec,
        annotations: &BTreeMap<String, String>,
        bind_mounts: bool,
    ) {
        for checked in &self.0 {
            if !checked.is_for(spec, annotations, bind_mounts) {
                continue;
            }
            for stage in &checked.stages {
                add(spec, *stage, checked.hook.clone());
            }
        }
    }
}

/// A file that has been checked.
#[derive(Debug)]
struct Checked {
    hook: Hook,
    stages: Vec<Stage>,
    always: Option<bool>,
    annotations: Vec<(Regex, Regex)>,
    commands: Vec<Regex>,
    has_bind_mounts: Option<bool>,
}

impl HookDirectories {
    pub(crate) fn new(directories: Vec<PathBuf>) -> Self {
        Self {
            directories,
            trouble: Mutex::default(),
        }
    }

    /// What kept the last container from being made.
    pub(crate) fn trouble(&self) -> Option<String> {
        let trouble = self.trouble.lock();
        trouble.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the kernel remembers that there is no such directory: most nodes have none. Does not wait.
    pub(crate) fn are_known_missing(&self) -> bool {
        let missing = self.directories.iter().all(|path| is_known_missing(path));
        if missing {
            self.set_trouble(None);
        }
        missing
    }

    /// What is there now. Blocks.
    pub(crate) fn look(&self) -> Result<NodeHooks, DirectoryError> {
        let read = self.read();
        self.set_trouble(read.as_ref().err().map(ToString::to_string));
        read.map(NodeHooks)
    }

    fn set_trouble(&self, told: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = told;
    }

    fn read(&self) -> Result<Vec<Checked>, DirectoryError> {
        let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
        for directory in &self.directories {
            let listed = |source| DirectoryError::List {
                path: directory.clone(),
                source,
            };
            let entries = match fs::read_dir(directory) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(listed(error)),
            };
            for entry in entries {
                let path = entry.map_err(listed)?.path();
                if path
                    .extension()
                    .is_some_and(|extension| extension == "json")
                    && let Some(name) = path.file_name()
                {
                    files.insert(name.to_string_lossy().into_owned(), path);
                }
            }
        }
        files.into_values().map(|path| load(&path)).collect()
    }
}

fn load(path: &Path) -> Result<Checked, DirectoryError> {
    let text = fs::read_to_string(path).map_err(|source| DirectoryError::Read {
        path: path.to_owned(),
        source,
    })?;
    let file: File = serde_json::from_str(&text).map_err(|source| DirectoryError::Parse {
        path: path.to_owned(),
        source,
    })?;
    let wrong = |field, value: &str, why| DirectoryError::Field {
        path: path.to_owned(),
        field,
        value: value.to_owned(),
        why,
    };
    if file.version != "1.0.0" {
        return Err(wrong("version", &file.version, "use 1.0.0"));
    }
    let program = file.hook.path();
    let shown = program.to_string_lossy();
    if !program.is_absolute() {
        return Err(wrong("hook.path", &shown, "use an absolute path"));
    }
    if file.hook.timeout().is_some_and(|timeout| timeout < 1) {
        return Err(wrong("hook.timeout", "", "use a number of seconds"));
    }
    if file.stages.is_empty() {
        return Err(wrong("stages", "", "name at least one"));
    }
    let mut stages = Vec::new();
    for name in &file.stages {
        let stage = Stage::named(name);
        let stage = stage.ok_or_else(|| wrong("stages", name, "there is no such stage"))?;
        // What has its path in the container is not the node's to have.
        if stage != Stage::StartContainer && !program.exists() {
            return Err(wrong("hook.path", &shown, "it is not there"));
        }
        stages.push(stage);
    }
    let pattern = |field, text: &str| {
        let parsed = Regex::new(text);
        parsed.map_err(|_unparsed| wrong(field, text, "it is no regular expression"))
    };
    let When {
        always,
        annotations,
        commands,
        has_bind_mounts,
    } = file.when;
    if always.is_none()
        && has_bind_mounts.is_none()
        && annotations.is_empty()
        && commands.is_empty()
    {
        return Err(wrong("when", "", "give at least one condition"));
    }
    Ok(Checked {
        hook: file.hook,
        stages,
        always,
        annotations: annotations
            .iter()
            .map(|(key, value)| {
                let key = pattern("when.annotations", key)?;
                Ok((key, pattern("when.annotations", value)?))
            })
            .collect::<Result<_, _>>()?,
        commands: commands
            .iter()
            .map(|text| pattern("when.commands", text))
            .collect::<Result<_, _>>()?,
        has_bind_mounts,
    })
}

impl Checked {
    fn is_for(
        &self,
        spec: &Spec,
        annotations: &BTreeMap<String, String>,
        bind_mounts: bool,
    ) -> bool {
        let annotated = |(key, value): &(Regex, Regex)| {
            let mut pairs = annotations.iter();
            pairs.any(|(k, v)| key.is_match(k) && value.is_match(v))
        };
        let args = spec.process().as_ref().and_then(|one| one.args().as_ref());
        let program = args
            .and_then(|args| args.first())
            .map_or("", String::as_str);
        self.always != Some(false)
            && (self.has_bind_mounts.is_none()
                || self.has_bind_mounts == Some(bind_mounts) && bind_mounts)
            && self.annotations.iter().all(annotated)
            && (self.commands.is_empty() || self.commands.iter().any(|one| one.is_match(program)))
    }
}
