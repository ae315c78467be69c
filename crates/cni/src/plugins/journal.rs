//! The records: a file for each attachment. They outlive a reboot, because what plugins keep on disk does, addresses above all.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::config::Network;
use crate::records::{Found, RecordError, Records, RecordsError};

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
    pub(super) records: Records,
}

impl Journal {
    /// Makes the directory if need be and returns the records. One that cannot be read is renamed and complained of: what it told of may
    /// need a person.
    pub(super) fn open(path: &Path) -> Result<(Journal, Vec<Record>), RecordsError> {
        let records = Records::open(path)?;
        let mut kept = Vec::new();
        records.load(|found: Found<Record>| {
            let error = match found.record {
                Ok(record) if record.id == found.id => {
                    kept.push(record);
                    return Ok(());
                }
                Ok(_) => None,
                Err(error) => Some(error.to_string()),
            };
            let aside = found.path.with_extension("damaged");
            fs::rename(&found.path, &aside)?;
            tracing::error!(path = %aside.display(), error, "a record of an attachment is damaged: what its plugins keep may leak");
            Ok(())
        })?;
        kept.sort_by_key(|record| record.sequence);
        Ok((Journal { records }, kept))
    }

    pub(super) fn write(
        &self,
        record: &Record,
        durability: sys::Durability,
    ) -> Result<(), RecordError> {
        self.records.write(&record.id, record, durability)
    }

    /// Also when it is gone.
    pub(super) fn remove(&self, id: &str) -> Result<(), RecordError> {
        self.records.remove(id)
    }
}
