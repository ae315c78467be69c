//! The records: a file for each attachment, replaced atomically. They need to survive this process, not a power failure: the links
//! and addresses that they tell of do not survive one either.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Ranges;
use super::portmap::PortMapping;
use crate::records::{Found, RecordError, Records, RecordsError};

/// What is known of an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) boot_id: String,
    /// Later attachments have larger ones.
    pub(super) sequence: u64,
    pub(super) stage: Stage,
    /// The interface that is a port of the bridge.
    pub(super) link: String,
    pub(super) ipv4: Ipv4Addr,
    pub(super) ipv6: Option<Ipv6Addr>,
    /// Where the addresses are from, and so what the pod was told of its gateways.
    #[serde(default)]
    pub(super) ranges: Ranges,
    pub(super) ports: Vec<PortMapping>,
    pub(super) netns: NamespaceId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stage {
    Attaching,
    Attached,
    Detaching,
}

/// Tells namespaces apart as long as they live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NamespaceId {
    pub(super) device: u64,
    pub(super) inode: u64,
}

impl Record {
    pub(super) fn ips(&self) -> Vec<IpAddr> {
        let ipv6 = self.ipv6.map(IpAddr::V6);
        std::iter::once(IpAddr::V4(self.ipv4)).chain(ipv6).collect()
    }

    /// Derived from the address, which is unique as long as the record lives; locally administered.
    pub(super) fn mac(&self) -> [u8; 6] {
        mac_of(self.ipv4)
    }
}

pub(super) fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

#[derive(Debug)]
pub(super) struct Journal {
    pub(super) records: Records,
}

impl Journal {
    /// Makes the directory if need be and returns the records of this boot. Others, and what cannot be read, tell of nothing that
    /// still exists or can be known; they are removed.
    pub(super) fn open(path: &Path) -> Result<(Journal, Vec<Record>), RecordsError> {
        let records = Records::open(path)?;
        let mut kept = Vec::new();
        records.load(|found: Found<Record>| {
            match found.record {
                Ok(record) if record.id == found.id && record.boot_id == records.boot_id() => {
                    kept.push(record);
                    return Ok(());
                }
                Ok(_) => {}
                Err(error) => {
                    let path = found.path.display();
                    tracing::warn!(%path, %error, "a network record is damaged and was removed");
                }
            }
            fs::remove_file(&found.path)
        })?;
        kept.sort_by_key(|record| record.sequence);
        Ok((Journal { records }, kept))
    }

    pub(super) fn write(&self, record: &Record) -> Result<(), RecordError> {
        self.records
            .write(&record.id, record, sys::Durability::Process)
    }

    /// Also when it is gone.
    pub(super) fn remove(&self, id: &str) -> Result<(), RecordError> {
        self.records.remove(id)
    }
}

/// Whether an id can be part of a file name.
pub(crate) fn is_valid_id(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=200).contains(&id.len()) && !id.starts_with('.') && id.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, boot_id: &str) -> Record {
        Record {
            id: id.to_owned(),
            boot_id: boot_id.to_owned(),
            sequence: 1,
            stage: Stage::Attached,
            link: "lsv0".to_owned(),
            ipv4: Ipv4Addr::new(10, 88, 0, 2),
            ipv6: None,
            ranges: Ranges::default(),
            ports: Vec::new(),
            netns: NamespaceId {
                device: 1,
                inode: 2,
            },
        }
    }

    #[test]
    fn records_come_back_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, none) = Journal::open(&dir.path().join("new")).unwrap();
        assert!(none.is_empty());
        let mine = record("a.b-c_1", journal.records.boot_id());
        journal.write(&mine).unwrap();
        journal.write(&mine).unwrap();
        let (_, found) = Journal::open(&dir.path().join("new")).unwrap();
        assert_eq!(found, [mine]);
        journal.remove("a.b-c_1").unwrap();
        journal.remove("a.b-c_1").unwrap();
        let (_, found) = Journal::open(&dir.path().join("new")).unwrap();
        assert!(found.is_empty());
    }

    #[test]
    fn what_a_crash_or_a_reboot_left_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(dir.path()).unwrap();
        journal.write(&record("old", "another boot")).unwrap();
        journal
            .write(&record("kept", journal.records.boot_id()))
            .unwrap();
        for cut in [0, 1, 20] {
            let bytes = serde_json::to_vec(&record("cut", journal.records.boot_id())).unwrap();
            fs::write(dir.path().join(format!("cut{cut}.json")), &bytes[..cut]).unwrap();
        }
        fs::write(dir.path().join(".half.json.new"), "{").unwrap();
        let renamed = serde_json::to_vec(&record("kept", journal.records.boot_id())).unwrap();
        fs::write(dir.path().join("other.json"), renamed).unwrap();
        let (_, found) = Journal::open(dir.path()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].id, "kept");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn ids_are_file_names() {
        assert!(is_valid_id("a1._-"));
        for id in ["", ".a", "a/b", "a b", "ä", &"a".repeat(201)] {
            assert!(!is_valid_id(id), "{id}");
        }
    }
}
