use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, PROC_SUPER_MAGIC, fstat, fstatfs};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};
use sys::{MountAttributes, set_mount_attributes};

use super::filesystem::Filesystem;
use super::mounts::attach;
use super::root::Root;
use crate::error::{Context, Error, Stage};

/// Hides files behind `/dev/null` and directories behind an empty, read-only tmpfs. What is not there needs no hiding.
pub(crate) fn mask(root: &Root<'_>, paths: &[String]) -> Result<(), Error> {
    let mut null = None;
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        let Some(target) = find(root, path, Stage::Mask)? else {
            continue;
        };
        let stat = fstat(&target).at(Stage::Mask, path)?;
        let cover = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => match &empty {
                Some(empty) => clone(empty.as_fd(), false).at(Stage::Mask, path)?,
                None => empty_directory(path)?,
            },
            _ => {
                let null = match &null {
                    Some(null) => null,
                    None => null.insert(null_device(root, path)?),
                };
                clone(null.as_fd(), false).at(Stage::Mask, path)?
            }
        };
        attach(cover.as_fd(), target.as_fd()).at(Stage::Mask, path)?;
        // From now on it is a mount of ours that can be cloned.
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory && empty.is_none() {
            empty = Some(cover);
        }
    }
    Ok(())
}

/// Covers each path with itself, read-only, and what is mounted below.
pub(crate) fn make_readonly(root: &Root<'_>, paths: &[String]) -> Result<(), Error> {
    for path in paths {
        let Some(target) = find(root, path, Stage::ReadOnly)? else {
            continue;
        };
        let cover = clone(target.as_fd(), true).at(Stage::ReadOnly, path)?;
        let attributes = MountAttributes {
            set: MountAttrFlags::MOUNT_ATTR_RDONLY,
            recursive: true,
            ..MountAttributes::none()
        };
        set_mount_attributes(cover.as_fd(), attributes)
            .and_then(|()| attach(cover.as_fd(), target.as_fd()))
            .at(Stage::ReadOnly, path)?;
    }
    Ok(())
}

/// A path in `/proc` must be in a proc file system: an image or a volume that has it lead elsewhere would have the wrong thing hidden.
fn find(root: &Root<'_>, path: &str, stage: Stage) -> Result<Option<OwnedFd>, Error> {
    let target = match root.find(path) {
        Ok(target) => target,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(error).at(stage, path),
    };
    if path.starts_with("/proc/") && fstatfs(&target).at(stage, path)?.f_type != PROC_SUPER_MAGIC {
        return Err(Errno::XDEV).at(
            stage,
            format_args!("{path} (it is not in a proc file system)"),
        );
    }
    Ok(Some(target))
}

/// The container's `/dev/null`, if it is one: an image could have anything there where `/dev` is the image's.
fn null_device(root: &Root<'_>, path: &str) -> Result<OwnedFd, Error> {
    let device = root
        .find_plain("/dev/null")
        .at(Stage::Mask, format_args!("{path} (with /dev/null)"))?;
    let stat = fstat(&device).at(Stage::Mask, path)?;
    let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(1, 3);
    match is_null {
        true => Ok(device),
        false => Err(Errno::NODEV).at(
            Stage::Mask,
            format_args!("{path} (/dev/null is another device)"),
        ),
    }
}

fn empty_directory(path: &str) -> Result<OwnedFd, Error> {
    Filesystem {
        fs_type: "tmpfs",
        source: "tmpfs",
        data: &[
            ("size".to_owned(), Some("0".to_owned())),
            ("mode".to_owned(), Some("755".to_owned())),
        ],
    }
    .mount(
        MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC,
        format_args!("an empty tmpfs on {path}"),
    )
}

/// A detached copy of the mount at this place of the child's mount namespace.
fn clone(place: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(place, "", flags)
}
