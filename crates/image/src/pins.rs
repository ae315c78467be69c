use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::{PinError, StoreError};

/// Which container holds which image: one symbolic link each, from the container's id to the image's.
///
/// A link is made and removed by one system call that waits for no disk, and survives the death of the daemon; what a power cut takes
/// with it, it takes from containers that are dead then.
#[derive(Debug)]
pub(crate) struct Pins {
    directory: PathBuf,
}

impl Pins {
    pub(crate) fn open(root: &Path) -> Result<Self, StoreError> {
        let directory = root.join("pins");
        fs::create_dir_all(&directory).map_err(StoreError::path("make", &directory))?;
        Ok(Self { directory })
    }

    pub(crate) fn read(&self) -> Result<BTreeMap<String, String>, StoreError> {
        let failed = || StoreError::path("read", &self.directory);
        let mut pins = BTreeMap::new();
        for entry in fs::read_dir(&self.directory).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            let target = fs::read_link(entry.path()).map(|target| target.into_os_string());
            if let (Ok(container), Ok(Ok(image))) = (
                entry.file_name().into_string(),
                target.map(std::ffi::OsString::into_string),
            ) {
                pins.insert(container, image);
            }
        }
        Ok(pins)
    }

    pub(crate) fn set(&self, container_id: &str, image_id: &str) -> Result<(), PinError> {
        let path = self.path(container_id)?;
        match std::os::unix::fs::symlink(image_id, &path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&path).and_then(|()| std::os::unix::fs::symlink(image_id, &path))
            }
            result => result,
        }
        .map_err(|source| PinError::Record {
            container_id: container_id.to_owned(),
            path,
            source,
        })
    }

    pub(crate) fn remove(&self, container_id: &str) -> Result<(), PinError> {
        let path = self.path(container_id)?;
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(PinError::Record {
                container_id: container_id.to_owned(),
                path,
                source,
            }),
            _ => Ok(()),
        }
    }

    fn path(&self, container_id: &str) -> Result<PathBuf, PinError> {
        let path = self.directory.join(container_id);
        if container_id.is_empty() || container_id.starts_with('.') || container_id.contains('/') {
            return Err(PinError::Record {
                container_id: container_id.to_owned(),
                path,
                source: io::ErrorKind::InvalidInput.into(),
            });
        }
        Ok(path)
    }
}
