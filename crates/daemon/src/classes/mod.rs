//! Classes of block I/O and of caches and memory bandwidth (RDT). A node's owner defines them in files, in the formats that containerd and
//! CRI-O read; pods ask for them by annotation, and plugins by name.
//!
//! ```text
//! annotation, plugin ─▶ class's name ─▶ Classes ─┬─ block I/O: the file ─▶ linux.resources.blockIO
//!                                                └─ RDT: the file, /sys/fs/resctrl ─▶ a group there, linux.intelRdt
//! ```
//!
//! The files are read whenever a class is asked for: a changed one counts for the next container.

mod block_io;
mod glob;
mod quantity;
mod rdt;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
};

use oci_spec::runtime::{LinuxBlockIo, LinuxIntelRdt};

use crate::{config::ClassSettings, resctrl};

/// Where the node's classes are defined.
#[derive(Debug, Clone)]
pub(crate) struct Classes {
    block_io: Option<PathBuf>,
    rdt: Option<PathBuf>,
    /// Of the node's devices; elsewhere in tests.
    devices: PathBuf,
    resctrl: PathBuf,
}

/// Who asks for a class of RDT: its definition may exclude some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    /// The pod's annotation.
    Pod,
    /// The container's own.
    Container,
    /// A plugin, which the node's owner has installed.
    Plugin,
}

/// Why there is no such class for this container.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClassError {
    #[error(
        "class of {kind} {name:?}: no classes are defined on this node: set classes.{key}, or ask for none"
    )]
    Undefined {
        kind: &'static str,
        key: &'static str,
        name: String,
    },
    #[error("class of {kind} {name:?}: {} does not define it; it has {known}", file.display())]
    Unknown {
        kind: &'static str,
        name: String,
        file: PathBuf,
        known: String,
    },
    #[error("class of RDT {name:?}: its definition denies it to annotations of {askers}")]
    Denied { name: String, askers: &'static str },
    #[error("read {}", file.display())]
    Read {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{}: {text}", file.display())]
    Parse { file: PathBuf, text: String },
    #[error("{}: {field}: {value:?}: {why}", file.display())]
    Field {
        file: PathBuf,
        field: String,
        value: String,
        why: String,
    },
    #[error("class of RDT {name:?}: the node has no resctrl file system at {}: mount it, or ask for no class", root.display())]
    NoResctrl { name: String, root: PathBuf },
    #[error("class of RDT {name:?}: {}", path.display())]
    Resctrl {
        name: String,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Classes {
    pub(crate) fn new(settings: &ClassSettings) -> Self {
        Self {
            block_io: settings.block_io.clone(),
            rdt: settings.rdt.clone(),
            devices: PathBuf::from("/"),
            resctrl: PathBuf::from(resctrl::ROOT),
        }
    }

    /// `linux.resources.blockIO` of a class, with the numbers of the node's devices. Blocks.
    pub(crate) fn block_io(&self, name: &str) -> Result<LinuxBlockIo, ClassError> {
        let Some(file) = &self.block_io else {
            return Err(ClassError::Undefined {
                kind: "block I/O",
                key: "block_io",
                name: name.to_owned(),
            });
        };
        block_io::class(file, &read(file)?, name, &self.devices)
    }

    /// `linux.intelRdt` of a class, whose group is there from now on, with the shares of its definition. Without a file that defines classes the
    /// groups that are there are what there is. Blocks.
    pub(crate) fn rdt(&self, name: &str, asker: Asker) -> Result<LinuxIntelRdt, ClassError> {
        if !self.resctrl.join("schemata").is_file() {
            return Err(ClassError::NoResctrl {
                name: name.to_owned(),
                root: self.resctrl.clone(),
            });
        }
        if let Some(file) = &self.rdt {
            let config = rdt::parse(file, &read(file)?)?;
            config.make(&self.resctrl, name, asker)?;
        }
        let mut asked = LinuxIntelRdt::default();
        let group = match name {
            rdt::ROOT_CLASS => "/",
            name => name,
        };
        asked
            .set_clos_id(Some(group.to_owned()))
            .set_l3_cache_schema(None)
            .set_mem_bw_schema(None);
        Ok(asked)
    }
}

/// A larger file defines no classes.
const MOST_BYTES: u64 = 1024 * 1024;

fn read(file: &Path) -> Result<String, ClassError> {
    let failed = |source| ClassError::Read {
        file: file.to_owned(),
        source,
    };
    let length = std::fs::metadata(file).map_err(failed)?.len();
    if length > MOST_BYTES {
        return Err(failed(io::Error::other(format!(
            "it is longer than {MOST_BYTES} bytes"
        ))));
    }
    std::fs::read_to_string(file).map_err(failed)
}

/// Names for a message.
fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    }
}
