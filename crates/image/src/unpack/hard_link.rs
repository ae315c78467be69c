//! Hard links, also to files of the layers below.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Uid, fchmod, fchown, fstat, linkat, openat, statat,
};
use rustix::io::Errno;

use super::LayerError;
use super::attributes;
use super::extract::{Extractor, Failure};
use super::place::{self, Below, PlaceError};

impl Extractor {
    pub(super) fn hard_link(&mut self, target: &[u8], name: &[u8]) -> Result<(), Failure> {
        let components = place::components(target)?;
        let Some((&target_name, above)) = components.split_last() else {
            return Err(PlaceError::Path("is a hard link to the root directory").into());
        };
        let path = above.join(&b'/');
        let holder = match place::open_existing(self.root.as_fd(), &path)? {
            Some(holder) if self.linkable(&holder, target_name)? => holder,
            _ => self.copy_up(above, target_name)?,
        };
        let link = |parent: &OwnedFd| linkat(&holder, target_name, parent, name, AtFlags::empty());
        match link(self.parent_directory()?) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                let inode = |at: &OwnedFd, name: &[u8]| {
                    statat(at, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| stat.st_ino)
                };
                if inode(&holder, target_name) == inode(self.parent_directory()?, name) {
                    return Ok(());
                }
                self.replace(name)?;
                Ok(link(self.parent_directory()?).map_err(PlaceError::io("make the hard link"))?)
            }
            Err(errno) => Err(PlaceError::Io("make the hard link", errno.into()).into()),
        }
    }

    fn linkable(&self, holder: &OwnedFd, name: &[u8]) -> Result<bool, Failure> {
        match statat(holder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                Err(PlaceError::Path("is a hard link to a directory").into())
            }
            Ok(stat) => Ok(!attributes::is_whiteout(&stat)),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => {
                Err(PlaceError::Io("look at the target of the hard link", errno.into()).into())
            }
        }
    }

    /// The target of a hard link is in a layer below: it must be in this one, as overlayfs would copy it up.
    fn copy_up(&mut self, above: &[&[u8]], name: &[u8]) -> Result<OwnedFd, Failure> {
        let dangling = || PlaceError::Path("is a hard link to what does not exist");
        match &self.below {
            Below::Unknown => return Err(PlaceError::NeedsBelow.into()),
            Below::Nothing => return Err(dangling().into()),
            Below::View(_) => {}
        }
        let place = self.walk(above)?;
        // The walk may have come by another way to a directory of this layer that has it.
        if self.linkable(&place.directory, name)? {
            return Ok(place.directory);
        }
        let exists = statat(&place.directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        let found = match &self.below {
            Below::View(view) if !exists && !place.hides_below => {
                place::look_below(view, &place.resolved, name)?
            }
            _ => None,
        };
        let found = found.ok_or_else(dangling)?;
        self.depends = true;
        if FileType::from_raw_mode(found.stat.st_mode) != FileType::RegularFile {
            return Err(
                PlaceError::Path("is a hard link to a special file of a layer below").into(),
            );
        }
        let failed = || PlaceError::io("copy the target of the hard link");
        let size = u64::try_from(found.stat.st_size).unwrap_or(0);
        self.file_bytes = self.file_bytes.saturating_add(size);
        if self.file_bytes > self.limit {
            return Err(LayerError::TooLarge { limit: self.limit }.into());
        }
        let before = fstat(&place.directory).map_err(failed())?;
        let from = openat(
            &found.parent,
            name,
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(failed())?;
        let to = openat(
            &place.directory,
            name,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::RUSR | Mode::WUSR,
        )
        .map_err(failed())?;
        let inode = fstat(&to).map_err(failed())?.st_ino;
        self.sums.forget(inode);
        let (mut reader, mut writer) = (std::fs::File::from(from), std::fs::File::from(to));
        io::copy(&mut reader, &mut writer)
            .map_err(|error| PlaceError::Io("copy the target of the hard link", error))?;
        let stat = &found.stat;
        fchown(
            &writer,
            Some(Uid::from_raw(stat.st_uid)),
            Some(Gid::from_raw(stat.st_gid)),
        )
        .map_err(failed())?;
        attributes::copy_xattrs(reader.as_fd(), writer.as_fd()).map_err(failed())?;
        fchmod(&writer, Mode::from_raw_mode(stat.st_mode & 0o7777)).map_err(failed())?;
        place::restore_times(writer.as_fd(), stat).map_err(failed())?;
        place::restore_times(place.directory.as_fd(), &before).map_err(failed())?;
        Ok(place.directory)
    }
}
