//! Devices of the Container Device Interface: vendors describe in files what a container needs for a device of theirs, and a request
//! names the device.
//!
//! ```text
//!  /etc/cdi, /var/run/cdi ──▶ read, check ──▶ Catalogue ──(names)──▶ edits ──▶ the OCI specification
//!        watched, and looked at again by each request that names a device
//! ```
//!
//! A file that is wrong is left out, and a condition of the node says so. A name that nobody describes, or that two files of one directory
//! describe, fails the container that asks for it, with the files that matter.
//!
//! The format is that of the [CDI specification](https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md), up to 1.1.0.
//! Why this is not the `container-device-interface` crate is in `docs/decisions/2026-11-21-cdi.md`.

mod catalogue;
mod file;
mod inject;
mod name;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use catalogue::Catalogue;
pub(crate) use inject::{InjectError, host_nodes, inject};

use crate::{
    container::config::ContainerConfig,
    runtime::{BlockingError, DISK_BOUND, blocking},
};

/// What a container needs for the devices that it asks for, in the order in which it is applied.
pub(crate) type Edits = Vec<(PathBuf, file::ContainerEdits)>;

/// The specifications of this node.
#[derive(Debug)]
pub(crate) struct Cdi {
    /// Later ones win.
    directories: Vec<PathBuf>,
    catalogue: Mutex<Arc<Catalogue>>,
}

/// Why a request for devices cannot be met. The client's to mend, or the vendor's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CdiError {
    #[error("{origin}: {name:?} is not the name of a device: {why}")]
    Name {
        origin: String,
        name: String,
        why: &'static str,
    },
    #[error("{origin}: device {name} is described nowhere: {why}")]
    Unknown {
        origin: String,
        name: String,
        why: String,
    },
    #[error(
        "{origin}: device {name} is described by both {} and {}: remove one of the files", first.display(), second.display()
    )]
    Conflict {
        origin: String,
        name: String,
        first: PathBuf,
        second: PathBuf,
    },
    #[error("read the specifications of devices")]
    Blocking(#[source] BlockingError),
}

impl Cdi {
    /// Reads the directories. Blocks.
    pub(crate) fn open(directories: Vec<PathBuf>) -> Self {
        let catalogue = Arc::new(Catalogue::read(&directories, &Catalogue::default()));
        Self {
            directories,
            catalogue: Mutex::new(catalogue),
        }
    }

    pub(crate) fn directories(&self) -> &[PathBuf] {
        &self.directories
    }

    /// What is wrong with files that are left out.
    pub(crate) fn trouble(&self) -> Vec<String> {
        self.catalogue().trouble()
    }

    /// Reads again what has changed.
    pub(crate) async fn refresh(self: &Arc<Self>) -> Result<(), BlockingError> {
        let cdi = Arc::clone(self);
        let read = move || {
            let known = cdi.catalogue();
            let fresh = Arc::new(Catalogue::read(&cdi.directories, &known));
            if fresh.trouble() != known.trouble() {
                for trouble in fresh.trouble() {
                    tracing::warn!("a specification of devices is left out: {trouble}");
                }
            }
            *cdi.catalogue.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        };
        blocking(DISK_BOUND, read).await
    }

    /// What the devices that a container asks for change in its specification. Drivers write a specification moments before the container is
    /// asked for: files are looked at again first, those alone that changed are read.
    pub(crate) async fn edits(
        self: &Arc<Self>,
        requested: &[Requested],
    ) -> Result<Edits, CdiError> {
        if requested.is_empty() {
            return Ok(Edits::new());
        }
        self.refresh().await.map_err(CdiError::Blocking)?;
        self.catalogue().edits(requested)
    }

    fn catalogue(&self) -> Arc<Catalogue> {
        Arc::clone(
            &self
                .catalogue
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

/// A device that somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Requested {
    /// Where it is asked for, such as `config.CDI_devices[0]`.
    pub(crate) origin: String,
    /// `VENDOR/CLASS=NAME`, if it is right.
    pub(crate) name: String,
}

/// Annotations whose keys begin so name devices, separated by commas.
const ANNOTATION: &str = "cdi.k8s.io/";

/// The devices that a container asks for: by field, then by annotation. One that is asked for twice is given once.
pub(crate) fn requested(config: &ContainerConfig) -> Vec<Requested> {
    let fields = config.cdi_devices.iter().enumerate();
    let fields = fields.map(|(index, device)| Requested {
        origin: format!("config.CDI_devices[{index}]"),
        name: device.name.clone(),
    });
    fields
        .chain(annotated(&config.annotations))
        .fold(Vec::new(), |mut all, one| {
            if !all.iter().any(|known: &Requested| known.name == one.name) {
                all.push(one);
            }
            all
        })
}

fn annotated(annotations: &BTreeMap<String, String>) -> impl Iterator<Item = Requested> {
    let ours = annotations
        .iter()
        .filter(|(key, _)| key.starts_with(ANNOTATION));
    ours.flat_map(|(key, value)| {
        value.split(',').map(move |name| Requested {
            origin: format!("config.annotations[{key}]"),
            name: name.to_owned(),
        })
    })
}
