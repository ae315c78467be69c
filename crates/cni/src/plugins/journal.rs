//! The records: a file for each attachment. They outlive a reboot, because what plugins keep on disk does, addresses above all.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::config::Network;
use super::error::{OpenError, RecordError};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const SUFFIX: &str = ".json";

/// All that DEL needs, as ADD had it, whatever becomes of the configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) boot_id: String,
    /// Later attachments have larger ones.
    pub(super) sequence: u64,
    pub(super) stage: Stage,
    pub(super) interface: String,
    /// Where the namespace is pinned.
    pub(super) netns: PathBuf,
    pub(super) network: Network,
    /// `CNI_ARGS`.
    pub(super) arguments: String,
    /// What plugins with the capability are told.
    pub(super) capabilities: Map<String, Value>,
    /// What the last plugin of ADD said.
    pub(super) result: Option<Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stage {
    Adding,
    Added,
    Deleting,
}

#[derive(Debug)]
pub(super) struct Journal {
    pub(super) path: PathBuf,
    directory: OwnedFd,
    pub(super) boot_id: String,
}

impl Journal {
    /// Makes the directory if need be and returns the records. One that cannot be read is renamed and complained of: what it told of may
    /// need a person.
    pub(super) fn open(path: &Path) -> Result<(Journal, Vec<Record>), OpenError> {
        let failed = |source| OpenError::Directory {
            path: path.to_owned(),
            source,
        };
        fs::create_dir_all(path).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| failed(io::Error::from(errno)))?;
        let boot_id = fs::read_to_string(BOOT_ID).map_err(OpenError::BootId)?;
        let journal = Journal {
            path: path.to_owned(),
            directory,
            boot_id: boot_id.trim().to_owned(),
        };
        let records = journal.load().map_err(|source| OpenError::Read {
            path: path.to_owned(),
            source,
        })?;
        Ok((journal, records))
    }

    fn load(&self) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(id) = name.and_then(|name| name.strip_suffix(SUFFIX)) else {
                continue;
            };
            match serde_json::from_slice::<Record>(&fs::read(&path)?) {
                Ok(record) if record.id == id => records.push(record),
                other => {
                    let aside = path.with_extension("damaged");
                    fs::rename(&path, &aside)?;
                    let error = other.err().map(|error| error.to_string());
                    tracing::error!(path = %aside.display(), error, "a record of an attachment is damaged: what its plugins keep may leak");
                }
            }
        }
        records.sort_by_key(|record| record.sequence);
        Ok(records)
    }

    pub(super) fn write(
        &self,
        record: &Record,
        durability: sys::Durability,
    ) -> Result<(), RecordError> {
        let name = file_name(&record.id);
        let bytes = serde_json::to_vec(record)
            .map_err(|error| self.failed("encode", &name, error.into()))?;
        sys::replace_file(self.directory.as_fd(), &name, &bytes, 0o600, durability)
            .map_err(|errno| self.failed("write", &name, errno.into()))
    }

    /// Also when it is gone.
    pub(super) fn remove(&self, id: &str) -> Result<(), RecordError> {
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
