//! Directories for the VOLUMEs that an image declares: made beside the container's writable layer, filled with what the image has there,
//! removed with the container.

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, XattrFlags},
    io::Errno,
};

use crate::{id::ContainerId, spec::Volume};

#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("make the directory of image volume {volume}")]
    Make {
        volume: String,
        #[source]
        source: io::Error,
    },
    #[error("copy what the image has at volume {volume}: {}", path.display())]
    Copy {
        volume: String,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("remove {}", path.display())]
    Remove {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Where the volumes of all containers are.
pub(crate) fn root(root: &Path) -> PathBuf {
    root.join("volumes")
}

/// Makes and fills one directory for each volume. `rootfs` is the container's root file system, detached; every path in it is resolved
/// as the container would. Blocks.
pub(super) fn create(
    data_root: &Path,
    id: &ContainerId,
    volumes: &[String],
    rootfs: BorrowedFd<'_>,
) -> Result<Vec<Volume>, VolumeError> {
    let base = root(data_root).join(id.as_str());
    let mut made = Vec::new();
    for (number, target) in volumes.iter().enumerate() {
        let directory = base.join(number.to_string());
        let failed = |source| VolumeError::Make {
            volume: target.clone(),
            source,
        };
        std::fs::create_dir_all(&directory).map_err(failed)?;
        let to = rustix::fs::open(
            &directory,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|error| failed(error.into()))?;
        match inside(rootfs, target) {
            Ok(from) => copy_directory(&from, &to, Path::new(target), target)?,
            // The image declares a volume where it has nothing.
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => return Err(failed(error.into())),
        }
        made.push(Volume {
            path: target.clone(),
            directory,
        });
    }
    Ok(made)
}

/// Removes a container's volumes; succeeds where there are none. Blocks.
pub(super) fn remove(data_root: &Path, id: &ContainerId) -> Result<(), VolumeError> {
    let path = root(data_root).join(id.as_str());
    match std::fs::remove_dir_all(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(VolumeError::Remove { path, source })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes the volumes of containers that are not `live`. Blocks.
pub(crate) fn sweep(data_root: &Path, live: &std::collections::BTreeSet<String>) {
    let Ok(entries) = std::fs::read_dir(root(data_root)) else {
        return;
    };
    for name in entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
    {
        if let Some(id) = ContainerId::parse(&name)
            && !live.contains(&name)
            && let Err(error) = remove(data_root, &id)
        {
            tracing::warn!(
                container = name,
                error = &error as &dyn std::error::Error,
                "sweep"
            );
        }
    }
}

fn inside(rootfs: BorrowedFd<'_>, path: &str) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat2(
        rootfs,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}

/// Copies a directory's owner, mode and contents into an empty one, following no link.
fn copy_directory(
    from: &OwnedFd,
    to: &OwnedFd,
    path: &Path,
    volume: &str,
) -> Result<(), VolumeError> {
    let failed = |path: PathBuf| {
        move |source: Errno| VolumeError::Copy {
            volume: volume.to_owned(),
            path,
            source: source.into(),
        }
    };
    for entry in rustix::fs::Dir::read_from(from).map_err(failed(path.to_owned()))? {
        let entry = entry.map_err(failed(path.to_owned()))?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let below = path.join(name.to_string_lossy().as_ref());
        let copied = copy_entry(from, to, name.to_owned()).map_err(failed(below.clone()))?;
        if let Some((from, to)) = copied {
            copy_directory(&from, &to, &below, volume)?;
        }
    }
    let stat = rustix::fs::fstat(from).map_err(failed(path.to_owned()))?;
    copy_xattrs(from.as_fd(), to.as_fd()).map_err(failed(path.to_owned()))?;
    rustix::fs::fchown(
        to,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )
    .map_err(failed(path.to_owned()))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode)).map_err(failed(path.to_owned()))
}

/// Copies one entry; a directory is made, and returned with its source for the caller to go on with.
fn copy_entry(
    from: &OwnedFd,
    to: &OwnedFd,
    name: CString,
) -> rustix::io::Result<Option<(OwnedFd, OwnedFd)>> {
    let stat = rustix::fs::statat(from, &name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_raw_mode(stat.st_mode);
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            rustix::fs::mkdirat(to, &name, Mode::RWXU)?;
            let directory = read | OFlags::DIRECTORY;
            return Ok(Some((
                rustix::fs::openat(from, &name, directory, Mode::empty())?,
                rustix::fs::openat(to, &name, directory, Mode::empty())?,
            )));
        }
        FileType::RegularFile => {
            let source = rustix::fs::openat(from, &name, read, Mode::empty())?;
            let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let target = rustix::fs::openat(to, &name, create, Mode::RUSR | Mode::WUSR)?;
            let (mut reader, mut writer) =
                (std::fs::File::from(source), std::fs::File::from(target));
            io::copy(&mut reader, &mut writer)
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            copy_xattrs(reader.as_fd(), writer.as_fd())?;
        }
        FileType::Symlink => {
            let link = rustix::fs::readlinkat(from, &name, Vec::new())?;
            rustix::fs::symlinkat(&link, to, &name)?;
        }
        kind @ (FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown) => rustix::fs::mknodat(to, &name, kind, mode, stat.st_rdev)?,
    }
    rustix::fs::chownat(
        to,
        &name,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        // After the change of owner, which clears the set-id bits.
        rustix::fs::chmodat(to, &name, mode, AtFlags::empty())?;
    }
    Ok(None)
}

fn copy_xattrs(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let mut names = vec![0_u8; 64 * 1024];
    let length = match rustix::fs::flistxattr(from, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(()),
        Err(error) => return Err(error),
    };
    for name in names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        // Overlay's own bookkeeping is not the image's.
        if name.starts_with(b"trusted.overlay.") {
            continue;
        }
        let mut value = vec![0_u8; 64 * 1024];
        let length = rustix::fs::fgetxattr(from, name, &mut value[..])?;
        match rustix::fs::fsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        rustix::fs::open(
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .unwrap()
    }

    #[test]
    fn a_volume_begins_with_what_the_image_has_there() {
        let (image, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let seed = image.path().join("var/lib/db");
        std::fs::create_dir_all(seed.join("sub")).unwrap();
        std::fs::write(seed.join("sub/file"), "rows").unwrap();
        // chown(2) clears the set-id bits.
        std::os::unix::fs::chown(seed.join("sub/file"), Some(70), Some(71)).unwrap();
        std::fs::set_permissions(seed.join("sub/file"), PermissionsExt::from_mode(0o4750)).unwrap();
        std::os::unix::fs::symlink("/etc/shadow", seed.join("link")).unwrap();
        std::fs::set_permissions(&seed, PermissionsExt::from_mode(0o700)).unwrap();
        let id = ContainerId::generate().unwrap();
        let volumes = ["/var/lib/db".to_owned(), "/nothing/there".to_owned()];
        let made = create(data.path(), &id, &volumes, open(image.path()).as_fd()).unwrap();
        let first = &made[0].directory;
        assert_eq!(std::fs::read(first.join("sub/file")).unwrap(), b"rows");
        let meta = std::fs::metadata(first.join("sub/file")).unwrap();
        assert_eq!(
            (meta.uid(), meta.gid(), meta.mode() & 0o7777),
            (70, 71, 0o4750)
        );
        assert_eq!(
            std::fs::read_link(first.join("link")).unwrap(),
            Path::new("/etc/shadow")
        );
        assert_eq!(std::fs::metadata(first).unwrap().mode() & 0o7777, 0o700);
        assert_eq!(std::fs::read_dir(&made[1].directory).unwrap().count(), 0);
        remove(data.path(), &id).unwrap();
        remove(data.path(), &id).unwrap();
        assert_eq!(std::fs::read_dir(root(data.path())).unwrap().count(), 0);
    }

    #[test]
    fn a_volume_through_a_hostile_link_stays_in_the_image() {
        let (image, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink("/etc", image.path().join("data")).unwrap();
        let id = ContainerId::generate().unwrap();
        let made = create(
            data.path(),
            &id,
            &["/data".to_owned()],
            open(image.path()).as_fd(),
        )
        .unwrap();
        assert_eq!(std::fs::read_dir(&made[0].directory).unwrap().count(), 0);
    }
}
