//! Whose each byte below the daemon's root is.
//!
//! Everything there is measured once, and belongs to exactly one part: the sum of the parts is what `du` says of the root, to the inode,
//! as long as nothing changes meanwhile.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use image::Holdings;
use snapshot::{Meter, Usage};

/// Part of what is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) kind: PartKind,
    /// From the root; empty for the root's directory itself.
    pub(crate) path: PathBuf,
    pub(crate) usage: Usage,
    /// Images or containers.
    pub(crate) owners: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PartKind {
    Layer,
    Index,
    /// A layer in its compressed form.
    Blob,
    /// A repaired layer's predecessor, which containers are mounted on.
    Retired,
    /// Of a pull under way.
    Making,
    WritableLayer,
    Volume,
    /// Records, locks, and the directories of the layout.
    Own,
    /// On its way out, or swept at the next start.
    Garbage,
    /// The daemon has not made it.
    Foreign,
}

#[derive(Debug, thiserror::Error)]
#[error("measure {}", path.display())]
pub(crate) struct SurveyError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// What else the daemon keeps there.
const OWN: [&str; 7] = [
    "ballast",
    "cni",
    "empty",
    "lock",
    "meta.redb",
    "network",
    "pins",
];

/// Whom things belong to.
#[derive(Debug)]
pub(crate) struct Owners {
    pub(crate) images: Holdings,
    /// Names by id.
    pub(crate) containers: BTreeMap<String, String>,
}

impl Owners {
    /// `name` is below the directory `directory` of the root.
    fn of(&self, directory: &str, name: &str) -> Option<(PartKind, Vec<String>)> {
        let container = || {
            let known = self.containers.get(name);
            known.map(|container| vec![container.clone()])
        };
        let named = |id: &String| self.containers.get(id).unwrap_or(id).clone();
        let found = match directory {
            "layers" => self.images.layers.get(name).cloned(),
            "indexes" => self.images.layers.get(name).cloned(),
            "blobs" => self.images.blobs.get(name).cloned(),
            "retired" => {
                let held = self.images.retired.get(name);
                held.map(|holders| holders.iter().map(named).collect())
            }
            "ingest" => self.images.busy.then(Vec::new),
            "containers" | "volumes" => container(),
            "trash" => None,
            _ => return None,
        };
        let kind = match directory {
            "layers" => PartKind::Layer,
            "indexes" => PartKind::Index,
            "blobs" => PartKind::Blob,
            "retired" => PartKind::Retired,
            "ingest" => PartKind::Making,
            "containers" => PartKind::WritableLayer,
            _ => PartKind::Volume,
        };
        Some(match found {
            Some(owners) => (kind, owners),
            None => (PartKind::Garbage, Vec::new()),
        })
    }
}

/// Measures everything below `root`. Blocks.
pub(crate) fn survey(root: &Path, owners: &Owners) -> Result<Vec<Part>, SurveyError> {
    let mut survey = Survey {
        root,
        meter: Meter::default(),
        parts: Vec::new(),
    };
    survey.entry(PartKind::Own, Path::new(""))?;
    for name in names(root)? {
        let path = Path::new(&name);
        // Whether the directory is divided further.
        match owners.of(&name, "") {
            Some(_) => {
                survey.entry(PartKind::Own, path)?;
                for child in names(&root.join(path))? {
                    let (kind, whose) =
                        (owners.of(&name, &child)).unwrap_or((PartKind::Foreign, Vec::new()));
                    survey.tree(kind, &path.join(child), whose)?;
                }
            }
            None if OWN.contains(&&*name) => survey.tree(PartKind::Own, path, Vec::new())?,
            None => survey.tree(PartKind::Foreign, path, Vec::new())?,
        }
    }
    Ok(survey.parts)
}

struct Survey<'a> {
    root: &'a Path,
    meter: Meter,
    parts: Vec<Part>,
}

impl Survey<'_> {
    fn entry(&mut self, kind: PartKind, path: &Path) -> Result<(), SurveyError> {
        let whole = self.root.join(path);
        let usage = self
            .meter
            .entry(&whole)
            .map_err(|errno| failed(&whole, errno.into()))?;
        self.add(kind, path, usage, Vec::new());
        Ok(())
    }

    fn tree(
        &mut self,
        kind: PartKind,
        path: &Path,
        owners: Vec<String>,
    ) -> Result<(), SurveyError> {
        let whole = self.root.join(path);
        let usage = self
            .meter
            .tree(&whole)
            .map_err(|errno| failed(&whole, errno.into()))?;
        self.add(kind, path, usage, owners);
        Ok(())
    }

    fn add(&mut self, kind: PartKind, path: &Path, usage: Usage, owners: Vec<String>) {
        // What has gone between being listed and being measured.
        if usage != Usage::default() {
            let path = path.to_owned();
            self.parts.push(Part {
                kind,
                path,
                usage,
                owners,
            });
        }
    }
}

fn names(directory: &Path) -> Result<Vec<String>, SurveyError> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| failed(directory, error))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| failed(directory, error))?.file_name();
        names.push(name.to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

fn failed(path: &Path, source: io::Error) -> SurveyError {
    SurveyError {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_somebodys_and_counts_once() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for directory in [
            "layers/aaa",
            "layers/bbb",
            "indexes",
            "ingest/1-1",
            "containers/c1/upper",
            "containers/c2",
            "pins",
            "lost+found",
        ] {
            std::fs::create_dir_all(at(directory)).unwrap();
        }
        for file in [
            "layers/aaa/file",
            "indexes/aaa",
            "containers/c1/upper/x",
            "meta.redb",
        ] {
            std::fs::write(at(file), [1; 9000]).unwrap();
        }
        std::fs::hard_link(at("layers/aaa/file"), at("containers/c2/link")).unwrap();
        let owners = Owners {
            images: Holdings {
                layers: [("aaa".to_owned(), vec!["one".to_owned(), "two".to_owned()])].into(),
                ..Holdings::default()
            },
            containers: [("c1".to_owned(), "shop/web/main".to_owned())].into(),
        };
        let parts = survey(root.path(), &owners).unwrap();
        let sum: Usage = parts.iter().map(|part| part.usage).sum();
        assert_eq!(sum, snapshot::measure(root.path()).unwrap());
        let of = |path: &str| {
            let part = parts
                .iter()
                .find(|part| part.path == Path::new(path))
                .unwrap();
            (part.kind, part.owners.join(" "))
        };
        assert_eq!(of("layers/aaa"), (PartKind::Layer, "one two".into()));
        assert_eq!(of("indexes/aaa"), (PartKind::Index, "one two".into()));
        assert_eq!(
            of("containers/c1"),
            (PartKind::WritableLayer, "shop/web/main".into())
        );
        for (path, kind) in [
            ("layers/bbb", PartKind::Garbage),
            ("containers/c2", PartKind::Garbage),
            ("ingest/1-1", PartKind::Garbage),
            ("layers", PartKind::Own),
            ("meta.redb", PartKind::Own),
            ("", PartKind::Own),
            ("lost+found", PartKind::Foreign),
        ] {
            assert_eq!(of(path), (kind, String::new()), "{path}");
        }
    }
}
