use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
    statat,
};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use crate::{Error, LeftOut, place};

/// `S_ISUID` and `S_ISGID`.
const SET_ID: u32 = 0o6000;

const XATTR: &str = "SCHILY.xattr.";

/// Where an archive goes.
///
/// | at the path | the archive's top | what is made |
/// |---|---|---|
/// | a directory | anything | `PATH/TOP`, or what is in the top where the archive has contents alone |
/// | nothing, its directory is there | one | the path itself |
/// | a file or a link that leads to none | one that is no directory | the path itself, in its place |
#[derive(Debug, Clone)]
pub struct Target {
    /// One that ends in `/` has to be a directory.
    pub path: PathBuf,
    /// The path has to be a directory that exists.
    pub directory: bool,
    /// The archive has what is in a directory, without that directory's name.
    pub contents: bool,
    /// Owners, set-id bits and extended attributes as the archive has them.
    pub keep: bool,
    /// Whose the files are where `keep` is not set; whoever makes them, without one.
    pub owner: Option<(u32, u32)>,
}

/// Makes what an archive has. Directories that exist stay as they are; anything else in the place of a member is replaced. Devices are left
/// out.
pub fn unpack(root: BorrowedFd<'_>, target: &Target, from: impl Read) -> Result<LeftOut, Error> {
    let mut archive = Archive::new(from);
    let mut unpacking = Unpacking {
        root,
        target,
        base: base(root, target)?,
        top: None,
        times: Vec::new(),
        left_out: LeftOut::new(),
    };
    let entries = archive.entries().map_err(Error::Archive)?;
    for entry in entries {
        unpacking.entry(entry.map_err(Error::Archive)?)?;
    }
    // What is made in a directory changes its time.
    for (path, seconds) in unpacking.times.into_iter().rev() {
        if let Ok(directory) = place::directory(root, &path) {
            let _best_effort = rustix::fs::futimens(&directory, &at(seconds));
        }
    }
    Ok(unpacking.left_out)
}

/// What members' names count from.
enum Base {
    Directory(PathBuf),
    /// The top gets this path. With a directory needed, for its end in `/`.
    Path(PathBuf, bool),
}

fn base(root: BorrowedFd<'_>, target: &Target) -> Result<Base, Error> {
    let path = &target.path;
    let must = target.directory || path.as_os_str().as_bytes().ends_with(b"/");
    match place::directory(root, path) {
        Ok(_directory) => return Ok(Base::Directory(path.clone())),
        Err(Errno::NOTDIR) if must => return Err(Error::NoDirectory(path.clone())),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if !target.directory => {}
        Err(error) => return Err(Error::at("open", path)(error)),
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    place::directory(root, parent).map_err(Error::at("open", parent))?;
    Ok(Base::Path(path.clone(), must))
}

struct Unpacking<'a> {
    root: BorrowedFd<'a>,
    target: &'a Target,
    base: Base,
    /// Of an archive whose top gets another name.
    top: Option<PathBuf>,
    /// Directories that were made, and their times in seconds.
    times: Vec<(PathBuf, i64)>,
    left_out: LeftOut,
}

impl Unpacking<'_> {
    fn entry(&mut self, mut entry: Entry<'_, impl Read>) -> Result<(), Error> {
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let member = entry.path().map_err(Error::Archive)?.into_owned();
        let path = self.path(&member, kind == EntryType::Directory)?;
        if kind == EntryType::Directory {
            return self.directory(&mut entry, &path);
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Error::IsDirectory(path));
        };
        let directory = place::made(self.root, parent).map_err(Error::at("open", parent))?;
        let failed = |action| Error::at(action, &path);
        match kind {
            EntryType::Char | EntryType::Block => {
                let line = format!("{}: it is a device", path.display());
                self.left_out.push(line);
                return Ok(());
            }
            EntryType::Symlink => {
                let link = entry.link_name().map_err(Error::Archive)?;
                let link = link.ok_or_else(|| Error::Member(member.display().to_string()))?;
                clear(&directory, name, &path)?;
                rustix::fs::symlinkat(&*link, &directory, name).map_err(failed("make the link"))?;
            }
            EntryType::Link => {
                let link = entry.link_name().map_err(Error::Archive)?;
                let link = link.ok_or_else(|| Error::Member(member.display().to_string()))?;
                let first = self.path(&link, false)?;
                let first = place::find(self.root, &first, false)?;
                clear(&directory, name, &path)?;
                let none = AtFlags::empty();
                return rustix::fs::linkat(&first.directory, &first.name, &directory, name, none)
                    .map_err(failed("make the link"));
            }
            EntryType::Fifo => {
                clear(&directory, name, &path)?;
                let mode = Mode::from_raw_mode(0o600);
                rustix::fs::mknodat(&directory, name, FileType::Fifo, mode, 0)
                    .map_err(failed("make"))?;
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let mut file = created(&directory, name, &path)?;
                io::copy(&mut entry, &mut file).map_err(|source| Error::Path {
                    action: "write",
                    path: path.clone(),
                    source,
                })?;
                return self.attributes(&mut entry, file.as_fd(), &path);
            }
            _ => {
                let line = format!("{}: its kind is not known", path.display());
                self.left_out.push(line);
                return Ok(());
            }
        }
        if let Some((uid, gid)) = self.owner(&entry)? {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(&directory, name, Some(uid), Some(gid), flags)
                .map_err(failed("set the owner of"))?;
        }
        Ok(())
    }

    fn directory(&mut self, entry: &mut Entry<'_, impl Read>, path: &Path) -> Result<(), Error> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(());
        };
        let above = place::made(self.root, parent).map_err(Error::at("open", parent))?;
        match rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o700)) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                return match place::directory(self.root, path) {
                    Ok(_kept) => Ok(()),
                    Err(Errno::NOTDIR | Errno::NOENT) => Err(Error::NoDirectory(path.to_owned())),
                    Err(error) => Err(Error::at("open", path)(error)),
                };
            }
            Err(error) => return Err(Error::at("make", path)(error)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&above, name, flags, Mode::empty())
            .map_err(Error::at("open", path))?;
        self.attributes(entry, made.as_fd(), path)?;
        self.times.push((path.to_owned(), seconds(entry)));
        Ok(())
    }

    /// Where a member goes.
    fn path(&mut self, member: &Path, is_directory: bool) -> Result<PathBuf, Error> {
        let mut plain = PathBuf::new();
        for part in member.components() {
            match part {
                Component::Normal(name) => plain.push(name),
                Component::CurDir => {}
                Component::RootDir | Component::ParentDir | Component::Prefix(_) => {
                    return Err(Error::Member(member.display().to_string()));
                }
            }
        }
        let (path, must) = match &self.base {
            Base::Directory(path) => return Ok(joined(path, &plain)),
            Base::Path(path, must) => (path, *must),
        };
        let below = match self.target.contents {
            true => plain.clone(),
            false => {
                let mut parts = plain.components();
                let first = parts.next().map(|part| PathBuf::from(part.as_os_str()));
                let first = first.unwrap_or_default();
                if *self.top.get_or_insert_with(|| first.clone()) != first {
                    return Err(Error::SeveralTops);
                }
                parts.as_path().to_owned()
            }
        };
        if below.as_os_str().is_empty() && !is_directory && must {
            return Err(Error::NoDirectory(path.clone()));
        }
        Ok(joined(path, &below))
    }

    fn owner(&self, entry: &Entry<'_, impl Read>) -> Result<Option<(Uid, Gid)>, Error> {
        let header = entry.header();
        let (uid, gid) = match (self.target.keep, self.target.owner) {
            (true, _) => {
                let number = |number: io::Result<u64>| {
                    let number = number.map_err(Error::Archive)?;
                    u32::try_from(number)
                        .map_err(|_| Error::Archive(io::ErrorKind::InvalidData.into()))
                };
                (number(header.uid())?, number(header.gid())?)
            }
            (false, Some(owner)) => owner,
            (false, None) => return Ok(None),
        };
        Ok(Some((Uid::from_raw(uid), Gid::from_raw(gid))))
    }

    /// Owner, attributes, mode and time, in this order: a change of the owner takes set-id bits and capabilities away.
    fn attributes(
        &self,
        entry: &mut Entry<'_, impl Read>,
        file: BorrowedFd<'_>,
        path: &Path,
    ) -> Result<(), Error> {
        if let Some((uid, gid)) = self.owner(entry)? {
            rustix::fs::fchown(file, Some(uid), Some(gid))
                .map_err(Error::at("set the owner of", path))?;
        }
        let mut mode = entry.header().mode().map_err(Error::Archive)? & 0o7777;
        if self.target.keep {
            let extensions = entry.pax_extensions().map_err(Error::Archive)?;
            for extension in extensions.into_iter().flatten() {
                let extension = extension.map_err(Error::Archive)?;
                let Some(name) = extension.key().ok().and_then(|key| key.strip_prefix(XATTR))
                else {
                    continue;
                };
                let flags = XattrFlags::empty();
                match rustix::fs::fsetxattr(file, name, extension.value_bytes(), flags) {
                    Ok(()) | Err(Errno::OPNOTSUPP) => {}
                    Err(error) => return Err(Error::at("set an attribute of", path)(error)),
                }
            }
        } else {
            mode &= !SET_ID;
        }
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode))
            .map_err(Error::at("set the mode of", path))?;
        // A file system without times is no reason to stop.
        let _best_effort = rustix::fs::futimens(file, &at(seconds(entry)));
        Ok(())
    }
}

fn joined(path: &Path, below: &Path) -> PathBuf {
    match below.as_os_str().is_empty() {
        true => path.to_owned(),
        false => path.join(below),
    }
}

fn seconds(entry: &Entry<'_, impl Read>) -> i64 {
    let seconds = entry.header().mtime().unwrap_or(0);
    i64::try_from(seconds).unwrap_or(0)
}

fn at(seconds: i64) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: seconds,
            tv_nsec: 0,
        },
    }
}

/// Takes away what is in a member's place.
fn clear(directory: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), Error> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => Err(Error::IsDirectory(path.to_owned())),
        Err(error) => Err(Error::at("replace", path)(error)),
    }
}

/// A new file; where something is mounted on the old one, that, emptied.
fn created(directory: &OwnedFd, name: &OsStr, path: &Path) -> Result<File, Error> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match clear(directory, name, path) {
        Ok(()) => rustix::fs::openat(
            directory,
            name,
            flags | OFlags::CREATE | OFlags::EXCL,
            Mode::from_raw_mode(0o600),
        ),
        Err(error) if error.path_kind() == Some(io::ErrorKind::ResourceBusy) => {
            let is_file =
                |stat: Stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
            if !stat.is_ok_and(is_file) {
                return Err(error);
            }
            let flags = flags | OFlags::TRUNC | OFlags::NONBLOCK;
            rustix::fs::openat(directory, name, flags, Mode::empty())
        }
        Err(error) => return Err(error),
    };
    opened.map(File::from).map_err(Error::at("make", path))
}
