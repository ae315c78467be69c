//! A pod's checkpoint on the disk: a directory of the client's.
//!
//! ```text
//! pod.json              what it is, written last: without it there is no checkpoint
//! containers/ID/        as the members of a container's archive
//! ```

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::opened::{self, OpenError};
use crate::{
    id::{ContainerId, PodId},
    pod::config::PodMetadata,
};

const NAME: &str = "pod.json";
const PARTIAL: &str = ".pod.json.partial";
const CONTAINERS: &str = "containers";
const VERSION: u32 = 1;

/// `pod.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    version: u32,
    /// What has written it.
    runtime: String,
    pub(super) pod: PodId,
    pub(super) metadata: PodMetadata,
    pub(super) checkpointed_at: String,
    pub(super) containers: Vec<Member>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Member {
    pub(super) id: ContainerId,
    pub(super) name: String,
}

impl Manifest {
    pub(super) fn new(
        pod: PodId,
        metadata: PodMetadata,
        checkpointed_at: String,
        containers: Vec<Member>,
    ) -> Self {
        Self {
            version: VERSION,
            runtime: concat!("longshore ", env!("CARGO_PKG_VERSION")).to_owned(),
            pod,
            metadata,
            checkpointed_at,
            containers,
        }
    }

    /// Reads and judges it: whoever wrote the directory may be a stranger. Blocks.
    pub(super) fn read(directory: &Path) -> Result<Self, OpenError> {
        let view = open(directory)?;
        let missing = || OpenError::NoCheckpoint(NAME.to_owned());
        let mut file = opened::plain(&view, Path::new(NAME))?.ok_or_else(missing)?;
        let json = opened::small(NAME, &mut file)?;
        let manifest: Self = serde_json::from_slice(&json)
            .map_err(|source| OpenError::Decode { name: NAME, source })?;
        if manifest.version != VERSION {
            return Err(OpenError::Version {
                found: manifest.version,
                known: VERSION,
            });
        }
        let mut names = BTreeSet::new();
        for member in &manifest.containers {
            let is_ours = ContainerId::parse(member.id.as_str()).is_some();
            if !is_ours || !names.insert(&member.name) {
                return Err(OpenError::Member(member.name.clone()));
            }
        }
        Ok(manifest)
    }

    /// All that lies there is on the disk before its manifest is. Blocks.
    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        sync(&directory.join(CONTAINERS))?;
        let partial = directory.join(PARTIAL);
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&partial)?;
        io::Write::write_all(&mut file, &serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        fs::rename(partial, directory.join(NAME))?;
        File::open(directory)?.sync_all()
    }
}

/// Where a container's part is.
pub(super) fn part(directory: &Path, id: &ContainerId) -> PathBuf {
    directory.join(CONTAINERS).join(id.as_str())
}

/// Whether a directory is there and empty. Blocks.
pub(super) fn vacant(directory: &Path) -> io::Result<()> {
    match fs::read_dir(directory)?.next() {
        Some(_) => Err(Errno::NOTEMPTY.into()),
        None => Ok(()),
    }
}

/// Begins a checkpoint in a directory that is [`vacant`]. Blocks.
pub(super) fn begin(directory: &Path) -> io::Result<()> {
    DirBuilder::new()
        .mode(0o700)
        .create(directory.join(CONTAINERS))
}

/// Takes away whatever was written; the directory stays. Blocks.
pub(super) fn clear(directory: &Path) -> io::Result<()> {
    let gone = |removed: io::Result<()>| match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    };
    // Without it nothing is a checkpoint any more.
    gone(fs::remove_file(directory.join(NAME)))?;
    gone(fs::remove_file(directory.join(PARTIAL)))?;
    gone(fs::remove_dir_all(directory.join(CONTAINERS)))
}

/// A directory whose path a client has named.
pub(super) fn open(directory: &Path) -> Result<OwnedFd, OpenError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(directory, flags, Mode::empty()).map_err(|error| OpenError::Open(error.into()))
}

fn sync(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync(&entry.path())?;
        } else if kind.is_file() {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(containers: &[(&str, &str)]) -> serde_json::Value {
        let containers: Vec<_> = containers
            .iter()
            .map(|(id, name)| serde_json::json!({ "id": id, "name": name }))
            .collect();
        serde_json::json!({
            "version": VERSION,
            "runtime": "another",
            "pod": "a".repeat(64),
            "metadata": { "name": "n" },
            "checkpointedAt": "",
            "containers": containers,
        })
    }

    #[test]
    fn a_manifest_is_whole_and_leads_nowhere_else() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path();
        assert!(matches!(
            Manifest::read(place),
            Err(OpenError::NoCheckpoint(_))
        ));
        let read = |value: serde_json::Value| {
            fs::write(place.join(NAME), value.to_string()).unwrap();
            Manifest::read(place)
        };
        let id = "0".repeat(64);
        assert_eq!(read(manifest(&[(&id, "a")])).unwrap().containers.len(), 1);
        for wrong in [
            manifest(&[("../../etc", "a")]),
            manifest(&[(&id, "a"), (&id, "a")]),
        ] {
            assert!(matches!(read(wrong), Err(OpenError::Member(_))));
        }
        let mut later = manifest(&[]);
        later["version"] = 2.into();
        assert!(matches!(read(later), Err(OpenError::Version { .. })));
        let link = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(place.join(NAME), link.path().join(NAME)).unwrap();
        assert!(matches!(
            Manifest::read(link.path()),
            Err(OpenError::NoCheckpoint(_))
        ));
    }

    #[test]
    fn a_directory_is_filled_whole_or_emptied() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path();
        vacant(place).unwrap();
        begin(place).unwrap();
        assert_eq!(
            vacant(place).unwrap_err().kind(),
            io::ErrorKind::DirectoryNotEmpty
        );
        fs::write(place.join(CONTAINERS).join("x"), "x").unwrap();
        let whole = Manifest::new(
            PodId::generate().unwrap(),
            PodMetadata::default(),
            String::new(),
            Vec::new(),
        );
        whole.write(place).unwrap();
        assert_eq!(Manifest::read(place).unwrap().pod, whole.pod);
        for _again in 0..2 {
            clear(place).unwrap();
            assert_eq!(fs::read_dir(place).unwrap().count(), 0);
        }
        assert!(vacant(&place.join("absent")).is_err());
    }
}
