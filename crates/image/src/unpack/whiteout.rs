//! Deletions of what the layers below have (image-spec, layer.md#whiteouts).

use std::os::fd::AsFd;

use rustix::fs::{FileType, Mode, OFlags, makedev, mknodat, openat};
use rustix::io::Errno;

use super::attributes;
use super::extract::{Extractor, Failure};
use super::place::PlaceError;

impl Extractor {
    pub(super) fn whiteout(&mut self, above: &[&[u8]], marked: &[u8]) -> Result<(), Failure> {
        match marked {
            b".wh..opq" => {
                self.enter_parent(above)?;
                attributes::set_opaque(self.parent_directory()?.as_fd())
                    .map_err(PlaceError::io("make the directory opaque"))?;
                return Ok(());
            }
            b"" | b"." | b".." => return Err(PlaceError::Path("is a whiteout of nothing").into()),
            _ if marked.starts_with(b".wh.") => return Ok(()),
            _ => {}
        }
        self.enter_parent(above)?;
        let parent = self.parent_directory()?;
        match mknodat(
            parent,
            marked,
            FileType::CharacterDevice,
            Mode::empty(),
            makedev(0, 0),
        ) {
            Ok(()) => Ok(()),
            // The layer has it itself. A directory then hides the one below; anything else does so anyway.
            Err(Errno::EXIST) => {
                let directory = openat(
                    parent,
                    marked,
                    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                );
                match directory {
                    Ok(directory) => attributes::set_opaque(directory.as_fd())
                        .map_err(PlaceError::io("make the directory opaque"))?,
                    Err(Errno::NOTDIR | Errno::LOOP) => {}
                    Err(errno) => {
                        return Err(PlaceError::Io("open the directory", errno.into()).into());
                    }
                }
                Ok(())
            }
            Err(errno) => Err(PlaceError::Io("make the whiteout", errno.into()).into()),
        }
    }
}
