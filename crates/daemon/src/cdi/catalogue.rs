//! All files of all directories, and which device is in which.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    CdiError, Edits, Requested,
    file::{self, File, FileError, MOST_BYTES},
    name,
};

#[derive(Debug, Default)]
pub(super) struct Catalogue {
    files: BTreeMap<PathBuf, Entry>,
    /// Directories that cannot be listed.
    unreadable: Vec<(PathBuf, String)>,
}

/// What a file said when it was last read.
#[derive(Debug, Clone)]
struct Entry {
    state: State,
    /// Position of its directory: higher ones win.
    priority: usize,
    file: Result<Arc<File>, FileError>,
}

/// What changes when a file is written or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Catalogue {
    /// Reads what is not as it was in `known`. Blocks.
    pub(super) fn read(directories: &[PathBuf], known: &Self) -> Self {
        let mut fresh = Self::default();
        for (priority, directory) in directories.iter().enumerate() {
            let entries = match fs::read_dir(directory) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    fresh
                        .unreadable
                        .push((directory.clone(), error.to_string()));
                    continue;
                }
            };
            for path in entries.flatten().map(|entry| entry.path()) {
                let Some(json) = format(&path) else { continue };
                let state = match fs::metadata(&path) {
                    Ok(status) => State::of(&status),
                    Err(_) => match fs::symlink_metadata(&path) {
                        // A link to nowhere.
                        Ok(status) => State::of(&status),
                        Err(_removed) => continue,
                    },
                };
                let read = match known.files.get(&path) {
                    Some(read) if read.state == state && read.priority == priority => read.clone(),
                    Some(_) | None => Entry {
                        state,
                        priority,
                        file: load(&path, json).map(Arc::new),
                    },
                };
                fresh.files.insert(path, read);
            }
        }
        fresh
    }

    pub(super) fn trouble(&self) -> Vec<String> {
        let directories = self
            .unreadable
            .iter()
            .map(|(path, why)| format!("{}: {why}", path.display()));
        let files = self.files.iter().filter_map(|(path, read)| {
            let error = read.file.as_ref().err()?;
            Some(format!("{}: {error}", path.display()))
        });
        directories.chain(files).collect()
    }

    /// The edits of a file come before those of the first of its devices.
    pub(super) fn edits(&self, requested: &[Requested]) -> Result<Edits, CdiError> {
        let mut edits = Edits::new();
        let mut begun: Vec<&Path> = Vec::new();
        for wanted in requested {
            let (path, file, device) = self.find(wanted)?;
            if !begun.contains(&path) {
                begun.push(path);
                edits.push((path.to_owned(), file.container_edits.clone()));
            }
            let found = file.devices.iter().find(|one| one.name == device);
            edits.extend(found.map(|one| (path.to_owned(), one.container_edits.clone())));
        }
        Ok(edits)
    }

    fn find<'a>(
        &'a self,
        wanted: &'a Requested,
    ) -> Result<(&'a Path, &'a File, &'a str), CdiError> {
        let origin = || wanted.origin.clone();
        let (kind, device) = name::qualified(&wanted.name).map_err(|why| CdiError::Name {
            origin: origin(),
            name: wanted.name.clone(),
            why,
        })?;
        let mut best: Option<(usize, &Path, &File)> = None;
        let mut rival: Option<(usize, &Path)> = None;
        for (path, priority, file) in self.of_kind(kind) {
            if !file.devices.iter().any(|one| one.name == device) {
                continue;
            }
            match best {
                Some((found, ..)) if found > priority => {}
                Some((found, ..)) if found == priority => rival = Some((priority, path)),
                Some(_) | None => best = Some((priority, path, file)),
            }
        }
        match (best, rival) {
            (None, _) => Err(CdiError::Unknown {
                origin: origin(),
                name: wanted.name.clone(),
                why: self.where_not(kind),
            }),
            (Some((priority, first, _)), Some((also, second))) if priority == also => {
                Err(CdiError::Conflict {
                    origin: origin(),
                    name: wanted.name.clone(),
                    first: first.to_owned(),
                    second: second.to_owned(),
                })
            }
            (Some((_, path, file)), _) => Ok((path, file, device)),
        }
    }

    fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (&'a Path, usize, &'a File)> {
        self.files.iter().filter_map(move |(path, read)| {
            let file = read.file.as_deref().ok()?;
            (file.kind == kind).then_some((path.as_path(), read.priority, file))
        })
    }

    /// What a person who looks for a device should look at.
    fn where_not(&self, kind: &str) -> String {
        let files: Vec<_> = self
            .of_kind(kind)
            .map(|(path, _, file)| {
                let devices: Vec<_> = file.devices.iter().map(|one| one.name.as_str()).collect();
                format!("{} has {}", path.display(), devices.join(", "))
            })
            .collect();
        let mut why = match files.as_slice() {
            [] => format!("no file is about {kind}"),
            files => files.join("; "),
        };
        let trouble = self.trouble();
        if !trouble.is_empty() {
            why.push_str(&format!(" (left out: {})", trouble.join("; ")));
        }
        why
    }
}

impl State {
    fn of(status: &fs::Metadata) -> Self {
        Self {
            inode: status.ino(),
            bytes: status.size(),
            modified: (status.mtime(), status.mtime_nsec()),
            changed: (status.ctime(), status.ctime_nsec()),
        }
    }
}

/// Whether it is JSON; `None` for what is no specification.
fn format(path: &Path) -> Option<bool> {
    match path.extension()?.to_str()? {
        "json" => Some(true),
        "yaml" | "yml" => Some(false),
        _ => None,
    }
}

fn load(path: &Path, json: bool) -> Result<File, FileError> {
    let read = |error: io::Error| FileError::Read(error.to_string());
    // To open a pipe would wait for whoever writes to it.
    if !fs::metadata(path).map_err(read)?.is_file() {
        return Err(FileError::Read("it is not a plain file".to_owned()));
    }
    let mut bytes = Vec::new();
    let opened = fs::File::open(path).map_err(read)?;
    opened
        .take(MOST_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(read)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(FileError::Long);
    }
    let text = String::from_utf8(bytes).map_err(|error| FileError::Parse(error.to_string()))?;
    file::parse(&text, json)
}
