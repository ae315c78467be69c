//! What a container has changed in its image: new and changed files as a tar archive, and a list of those that it has deleted, as CRI-O and
//! podman have both.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    time::Instant,
};

use copy::Packer;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use snapshot::{is_opaque, is_whiteout};

use super::archive::Timely;

/// A walk through a writable layer that nobody changes meanwhile.
pub(super) struct Changes<'a> {
    /// The directory of the layer.
    pub(super) upper: &'a Path,
    /// The image below it.
    pub(super) image: &'a OwnedFd,
    pub(super) archive: Packer<Timely<&'a File>>,
    /// Absolute in the container.
    pub(super) deleted: Vec<PathBuf>,
    pub(super) until: Instant,
}

impl Changes<'_> {
    /// Of the layer as a whole. Returns what is deleted.
    pub(super) fn write(mut self) -> io::Result<Vec<PathBuf>> {
        let opaque = is_opaque(File::open(self.upper)?)?;
        self.directory(Path::new(""), opaque)?;
        self.archive.finish().map_err(io::Error::other)?;
        Ok(self.deleted)
    }

    /// `opaque`: nothing of the image shows through here.
    fn directory(&mut self, below: &Path, opaque: bool) -> io::Result<()> {
        if Instant::now() >= self.until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut names: Vec<OsString> = std::fs::read_dir(self.upper.join(below))?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<_>>()?;
        names.sort();
        if opaque {
            for name in self.names_in_image(below)? {
                if names.binary_search(&name).is_err() {
                    self.deleted.push(Path::new("/").join(below).join(name));
                }
            }
        }
        for name in names {
            let name = below.join(name);
            let path = self.upper.join(&name);
            let found = rustix::fs::statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW)?;
            if is_whiteout(&found) {
                self.deleted.push(Path::new("/").join(&name));
                continue;
            }
            // A socket's name is left out: CRIU makes it again for the process that listens there.
            let entry = self.archive.entry(CWD, path.as_os_str(), &name);
            entry.map_err(io::Error::other)?;
            if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
                let opaque = opaque || is_opaque(File::open(&path)?)?;
                self.directory(&name, opaque)?;
            }
        }
        Ok(())
    }

    fn names_in_image(&self, below: &Path) -> io::Result<Vec<OsString>> {
        let path = match below.as_os_str().is_empty() {
            true => Path::new("."),
            false => below,
        };
        let opened = rustix::fs::openat2(
            self.image,
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        );
        use rustix::io::Errno;
        let directory = match opened {
            Ok(directory) => directory,
            // The image has nothing there, or something that is no directory and was replaced.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(directory)? {
            let name = entry?.file_name().to_bytes().to_owned();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(&name).to_owned());
            }
        }
        Ok(names)
    }
}
