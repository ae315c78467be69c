//! A directory of records: a JSON file for each attachment, named by the attachment's id and replaced atomically. What a record says, and
//! which ones outlive a reboot, is for the network whose records they are.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const SUFFIX: &str = ".json";

/// Why the records could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    #[error("make the network's state directory {}", path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("read the network's records in {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("read the boot id")]
    BootId(#[source] io::Error),
}

/// A record that could not be written or removed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{doing} the network record {}", path.display())]
pub struct RecordError {
    pub doing: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: Arc<io::Error>,
}

#[derive(Debug)]
pub(crate) struct Records {
    path: PathBuf,
    directory: OwnedFd,
    boot_id: String,
}

/// A file of the directory that has a record's name.
pub(crate) struct Found<R> {
    pub(crate) path: PathBuf,
    pub(crate) id: String,
    /// What does not parse, as the parser says it.
    pub(crate) record: Result<R, serde_json::Error>,
}

impl Records {
    /// Makes the directory if need be.
    pub(crate) fn open(path: &Path) -> Result<Self, RecordsError> {
        let failed = |source| RecordsError::Directory {
            path: path.to_owned(),
            source,
        };
        fs::create_dir_all(path).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| failed(io::Error::from(errno)))?;
        let boot_id = fs::read_to_string(BOOT_ID).map_err(RecordsError::BootId)?;
        Ok(Self {
            path: path.to_owned(),
            directory,
            boot_id: boot_id.trim().to_owned(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The running boot's id.
    pub(crate) fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// Gives `each` every record, in no order. New files that were never renamed are removed.
    pub(crate) fn load<R: DeserializeOwned>(
        &self,
        mut each: impl FnMut(Found<R>) -> io::Result<()>,
    ) -> Result<(), RecordsError> {
        let mut walk = || {
            for entry in fs::read_dir(&self.path)? {
                let path = entry?.path();
                let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                    continue;
                };
                if let Some(id) = name.strip_suffix(SUFFIX) {
                    let id = id.to_owned();
                    let record = serde_json::from_slice(&fs::read(&path)?);
                    each(Found { path, id, record })?;
                } else if name.starts_with('.') && name.ends_with(".new") {
                    fs::remove_file(&path)?;
                }
            }
            Ok(())
        };
        walk().map_err(|source| RecordsError::Read {
            path: self.path.clone(),
            source,
        })
    }

    pub(crate) fn write(
        &self,
        id: &str,
        record: &impl Serialize,
        durability: sys::Durability,
    ) -> Result<(), RecordError> {
        self.replace(&file_name(id), record, durability)
    }

    /// Writes the file `name`, which need not be an attachment's.
    pub(crate) fn replace(
        &self,
        name: &str,
        content: &impl Serialize,
        durability: sys::Durability,
    ) -> Result<(), RecordError> {
        let bytes = serde_json::to_vec(content)
            .map_err(|error| self.failed("encode", name, error.into()))?;
        sys::replace_file(self.directory.as_fd(), name, &bytes, 0o600, durability)
            .map_err(|errno| self.failed("write", name, errno.into()))
    }

    /// Also when it is gone.
    pub(crate) fn remove(&self, id: &str) -> Result<(), RecordError> {
        let name = file_name(id);
        match rustix::fs::unlinkat(&self.directory, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.failed("remove", &name, errno.into())),
        }
    }

    fn failed(&self, doing: &'static str, name: &str, source: io::Error) -> RecordError {
        RecordError {
            doing,
            path: self.path.join(name),
            source: Arc::new(source),
        }
    }
}

fn file_name(id: &str) -> String {
    format!("{id}{SUFFIX}")
}
