use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::PodPlan;
use super::fields::HostPathKind;
use crate::error::Error;

/// Makes what a kubelet makes on the host before it asks the runtime: log directories, and the host paths whose type says so.
pub(crate) fn prepare(plan: &PodPlan) -> Result<(), Error> {
    for (path, kind) in &plan.host_paths {
        host_path(path, *kind)?;
    }
    let logs = Path::new(&plan.config.log_directory);
    for container in &plan.containers {
        let log = logs.join(&container.config.log_path);
        if let Some(directory) = log.parent() {
            make_directory(directory)?;
        }
    }
    Ok(())
}

fn host_path(path: &Path, kind: HostPathKind) -> Result<(), Error> {
    let wrong = |what: &str| Error::Refused(format!("host path {}: {what}", path.display()));
    match kind {
        HostPathKind::Any => Ok(()),
        HostPathKind::Directory if path.is_dir() => Ok(()),
        HostPathKind::Directory => Err(wrong("there is no such directory")),
        HostPathKind::File if path.is_file() => Ok(()),
        HostPathKind::File => Err(wrong("there is no such file")),
        HostPathKind::DirectoryOrCreate => make_directory(path),
        HostPathKind::FileOrCreate => {
            let created = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o644)
                .open(path);
            match created {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                other => other.map(drop).map_err(|source| Error::Io {
                    what: format!("create host path {}", path.display()),
                    source,
                }),
            }
        }
    }
}

/// As `mkdir -p -m 755`.
fn make_directory(path: &Path) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(0o755).create(path);
    match made {
        Ok(()) => Ok(()),
        Err(_) if fs::metadata(path).is_ok_and(|metadata| metadata.is_dir()) => Ok(()),
        Err(source) => Err(Error::Io {
            what: format!("create directory {}", path.display()),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_paths_are_checked_or_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for _ in 0..2 {
            host_path(&path("d/e"), HostPathKind::DirectoryOrCreate).unwrap();
            host_path(&path("d/f"), HostPathKind::FileOrCreate).unwrap();
        }
        host_path(&path("d/e"), HostPathKind::Directory).unwrap();
        host_path(&path("d/f"), HostPathKind::File).unwrap();
        host_path(&path("none"), HostPathKind::Any).unwrap();
        assert!(host_path(&path("d/e"), HostPathKind::File).is_err());
        assert!(host_path(&path("d/f"), HostPathKind::Directory).is_err());
        assert!(host_path(&path("d/f"), HostPathKind::DirectoryOrCreate).is_err());
    }
}
