//! Entries of a layer's archive become files in the form that overlayfs wants.
//!
//! | in the archive          | on disk                                                        |
//! |-------------------------|----------------------------------------------------------------|
//! | `.wh.NAME`              | character device 0:0 called NAME                               |
//! | `.wh..wh..opq`          | `trusted.overlay.opaque` on its directory                      |
//! | `.wh.NAME` beside NAME/ | NAME is opaque: a whiteout concerns the layers below only      |
//! | other `.wh..wh.*`       | nothing; they are aufs's own                                   |
//!
//! A later entry of the same name replaces an earlier one, except that directories merge. Names are never followed: only directories on
//! the way are, and those as [`super::place`] says.

use std::io::{self, BufRead};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, chownat, fchmod, fchown,
    fstat, ftruncate, futimens, makedev, mkdirat, mknodat, openat, statat, symlinkat, unlinkat,
    utimensat,
};
use rustix::io::Errno;

use super::LayerError;
use super::archive::{Archive, Kind, Member, Region};
use super::attributes::{self, Bearer};
use super::place::{self, Below, PlaceError, Walk};
use crate::index::{SumHasher, Sums};

#[derive(Debug)]
pub(super) enum ExtractError {
    /// The layer depends on those below: start again with a view of them.
    NeedsBelow,
    Layer(LayerError),
}

impl From<LayerError> for ExtractError {
    fn from(error: LayerError) -> Self {
        Self::Layer(error)
    }
}

impl From<io::Error> for ExtractError {
    fn from(error: io::Error) -> Self {
        Self::Layer(LayerError::Archive(error))
    }
}

#[derive(Debug)]
pub(super) struct Extractor {
    pub(super) root: OwnedFd,
    pub(super) below: Below,
    /// New files have the mode that was asked for.
    exact_modes: bool,
    /// The directory of the last entry.
    parent: Option<Parent>,
    /// Whether the layer depends on those below.
    pub(super) depends: bool,
    root_described: bool,
    pub(super) limit: u64,
    /// Of all files, holes included.
    pub(super) file_bytes: u64,
    /// Of files whose contents have been seen byte by byte.
    pub(super) sums: Sums,
}

#[derive(Debug)]
struct Parent {
    path: Vec<u8>,
    directory: OwnedFd,
    /// As it was before anything was made in it.
    before: Stat,
}

/// What came of an archive.
#[derive(Debug)]
pub(super) struct Extracted {
    /// Whether the layer depends on those below.
    pub(super) depends: bool,
    pub(super) sums: Sums,
}

impl Extractor {
    /// `root` is an empty directory; `exact_modes` says that the calling thread's umask is 0.
    pub(super) fn new(root: OwnedFd, below: Below, limit: u64, exact_modes: bool) -> Self {
        Self {
            root,
            below,
            exact_modes,
            parent: None,
            depends: false,
            root_described: false,
            limit,
            file_bytes: 0,
            sums: Sums::default(),
        }
    }

    pub(super) fn run<R: BufRead>(
        mut self,
        archive: &mut Archive<R>,
    ) -> Result<Extracted, ExtractError> {
        while let Some(member) = archive.next()? {
            self.entry(archive, &member)
                .map_err(|failure| match failure {
                    Failure::Place(PlaceError::NeedsBelow) => ExtractError::NeedsBelow,
                    Failure::Place(PlaceError::Path(reason)) => LayerError::Entry {
                        path: bounded(&member.path),
                        reason,
                    }
                    .into(),
                    Failure::Place(PlaceError::Io(action, source)) => LayerError::Extract {
                        action,
                        path: bounded(&member.path),
                        source,
                    }
                    .into(),
                    Failure::Layer(error) => error.into(),
                })?;
        }
        self.leave_parent()
            .map_err(|source| failed_at(b"/", "set the times of a directory", source))?;
        if !self.root_described {
            rustix::fs::fsetxattr(
                &self.root,
                snapshot::IMPLIED_ROOT_XATTR,
                b"y",
                rustix::fs::XattrFlags::empty(),
            )
            .map_err(|source| failed_at(b"/", "mark the root directory", source))?;
        }
        Ok(Extracted {
            depends: self.depends,
            sums: self.sums,
        })
    }

    fn entry<R: BufRead>(
        &mut self,
        archive: &mut Archive<R>,
        member: &Member,
    ) -> Result<(), Failure> {
        let components = place::components(&member.path)?;
        // New files in a directory with a default ACL have what that leaves of their mode.
        let default_acl = |(name, _): &(Vec<u8>, _)| name == b"system.posix_acl_default";
        self.exact_modes &= !member.xattrs.iter().any(default_acl);
        let Some((&name, above)) = components.split_last() else {
            return self.describe_root(member);
        };
        if let Some(marked) = name.strip_prefix(b".wh.") {
            return self.whiteout(above, marked);
        }
        self.enter_parent(above)?;
        match &member.kind {
            Kind::File { size, regions } => self.file(archive, member, name, *size, regions),
            Kind::Directory => self.directory(member, name),
            Kind::HardLink(target) => self.hard_link(target, name),
            Kind::Symlink(target) => {
                if target.is_empty() || target.contains(&0) {
                    return Err(PlaceError::Path("is a symbolic link to nothing").into());
                }
                self.special(member, name, |parent| symlinkat(&**target, parent, name))
            }
            Kind::Character(major, minor) => self.node(
                member,
                name,
                FileType::CharacterDevice,
                makedev(*major, *minor),
            ),
            Kind::Block(major, minor) => {
                self.node(member, name, FileType::BlockDevice, makedev(*major, *minor))
            }
            Kind::Fifo => self.node(member, name, FileType::Fifo, 0),
        }
    }

    fn describe_root(&mut self, member: &Member) -> Result<(), Failure> {
        if member.kind != Kind::Directory {
            return Err(PlaceError::Path("would replace the root directory").into());
        }
        self.drop_parent()?;
        self.root_described = true;
        self.describe_directory(&self.root, member)
    }

    fn directory(&mut self, member: &Member, name: &[u8]) -> Result<(), Failure> {
        let mode = Mode::from_raw_mode(member.mode);
        let mut opaque = false;
        let parent = self.parent_directory()?;
        match mkdirat(parent, name, mode) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(PlaceError::io("look at what it replaces"))?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    opaque = attributes::is_whiteout(&stat);
                    self.replace(name)?;
                    mkdirat(self.parent_directory()?, name, mode)
                        .map_err(PlaceError::io("make a directory"))?;
                }
            }
            Err(errno) => return Err(PlaceError::Io("make a directory", errno.into()).into()),
        }
        let directory = openat(
            self.parent_directory()?,
            name,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(PlaceError::io("open the directory"))?;
        if opaque {
            attributes::set_opaque(directory.as_fd())
                .map_err(PlaceError::io("make the directory opaque"))?;
        }
        self.describe_directory(&directory, member)
    }

    fn describe_directory(&self, directory: &OwnedFd, member: &Member) -> Result<(), Failure> {
        fchown(
            directory,
            Some(Uid::from_raw(member.uid)),
            Some(Gid::from_raw(member.gid)),
        )
        .map_err(PlaceError::io("set the owner"))?;
        attributes::set_xattrs(Bearer::Open(directory.as_fd()), &member.xattrs)
            .map_err(PlaceError::io("set an extended attribute"))?;
        fchmod(directory, Mode::from_raw_mode(member.mode))
            .map_err(PlaceError::io("set the mode"))?;
        futimens(directory, &times(member)).map_err(PlaceError::io("set the times"))?;
        Ok(())
    }

    fn file<R: BufRead>(
        &mut self,
        archive: &mut Archive<R>,
        member: &Member,
        name: &[u8],
        size: u64,
        regions: &[Region],
    ) -> Result<(), Failure> {
        self.file_bytes = self.file_bytes.saturating_add(size);
        if self.file_bytes > self.limit {
            return Err(LayerError::TooLarge { limit: self.limit }.into());
        }
        let file = self.create(name, member.mode)?;
        let mut end = 0;
        let mut hasher = SumHasher::default();
        let mut whole = true;
        for region in regions {
            let mut offset = region.offset;
            archive.contents(region.length, |piece| {
                let sequential = offset == end;
                whole &= sequential;
                hasher.update(piece);
                write_all(&file, piece, offset, sequential)
                    .map_err(PlaceError::io("write the file"))?;
                offset += piece.len() as u64;
                if sequential {
                    end = offset;
                }
                Ok::<(), Failure>(())
            })?;
        }
        if end < size {
            ftruncate(&file, size).map_err(PlaceError::io("set the size of the file"))?;
        }
        let inode = fstat(&file)
            .map_err(PlaceError::io("look at the file"))?
            .st_ino;
        match whole && end == size {
            true => self.sums.note(inode, hasher.finish()),
            false => self.sums.forget(inode),
        }
        // In this order: writing and changing the owner clear set-id bits and capabilities.
        let inherits = self.parent_has(Mode::SGID);
        if inherits || (member.uid, member.gid) != (0, 0) {
            fchown(
                &file,
                Some(Uid::from_raw(member.uid)),
                Some(Gid::from_raw(member.gid)),
            )
            .map_err(PlaceError::io("set the owner"))?;
        }
        attributes::set_xattrs(Bearer::Open(file.as_fd()), &member.xattrs)
            .map_err(PlaceError::io("set an extended attribute"))?;
        if !self.exact_modes || member.mode > 0o777 {
            fchmod(&file, Mode::from_raw_mode(member.mode))
                .map_err(PlaceError::io("set the mode"))?;
        }
        futimens(&file, &times(member)).map_err(PlaceError::io("set the times"))?;
        Ok(())
    }

    /// A new file, in the place of whatever has its name.
    fn create(&mut self, name: &[u8], mode: u32) -> Result<OwnedFd, Failure> {
        let open = |parent: &OwnedFd| {
            openat(
                parent,
                name,
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::from_raw_mode(mode & 0o777),
            )
        };
        match open(self.parent_directory()?) {
            Ok(file) => Ok(file),
            Err(Errno::EXIST) => {
                self.replace(name)?;
                Ok(open(self.parent_directory()?).map_err(PlaceError::io("make the file"))?)
            }
            Err(errno) => Err(PlaceError::Io("make the file", errno.into()).into()),
        }
    }

    fn node(
        &mut self,
        member: &Member,
        name: &[u8],
        kind: FileType,
        device: u64,
    ) -> Result<(), Failure> {
        let mode = Mode::from_raw_mode(member.mode);
        self.special(member, name, |parent| {
            mknodat(parent, name, kind, mode, device)
        })
    }

    /// What cannot be opened: links, devices, pipes.
    fn special(
        &mut self,
        member: &Member,
        name: &[u8],
        make: impl Fn(&OwnedFd) -> Result<(), Errno>,
    ) -> Result<(), Failure> {
        match make(self.parent_directory()?) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                self.replace(name)?;
                make(self.parent_directory()?).map_err(PlaceError::io("make it"))?;
            }
            Err(errno) => return Err(PlaceError::Io("make it", errno.into()).into()),
        }
        let parent = self.parent_directory()?;
        if self.parent_has(Mode::SGID) || (member.uid, member.gid) != (0, 0) {
            chownat(
                parent,
                name,
                Some(Uid::from_raw(member.uid)),
                Some(Gid::from_raw(member.gid)),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(PlaceError::io("set the owner"))?;
        }
        attributes::set_xattrs(Bearer::Named(parent.as_fd(), name), &member.xattrs)
            .map_err(PlaceError::io("set an extended attribute"))?;
        if !matches!(member.kind, Kind::Symlink(_)) {
            // Nobody else is here to put a link in its place.
            rustix::fs::chmodat(
                parent,
                name,
                Mode::from_raw_mode(member.mode),
                AtFlags::empty(),
            )
            .map_err(PlaceError::io("set the mode"))?;
        }
        utimensat(parent, name, &times(member), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(PlaceError::io("set the times"))?;
        Ok(())
    }

    /// Removes what has the name, with all below it if it is a directory.
    pub(super) fn replace(&mut self, name: &[u8]) -> Result<(), Failure> {
        let failed = || PlaceError::io("replace an earlier entry");
        match unlinkat(self.parent_directory()?, name, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::ISDIR | Errno::PERM) => {
                snapshot::remove_tree_at(self.parent_directory()?.as_fd(), name)
                    .map_err(failed())?;
            }
            Err(errno) => return Err(failed()(errno).into()),
        }
        Ok(())
    }

    /// Makes the directory of the next entries the kept one.
    pub(super) fn enter_parent(&mut self, above: &[&[u8]]) -> Result<(), Failure> {
        let path = above.join(&b'/');
        if self.parent.as_ref().is_some_and(|kept| kept.path == path) {
            return Ok(());
        }
        self.drop_parent()?;
        let directory = match place::open_existing(self.root.as_fd(), &path)? {
            Some(directory) => directory,
            None => self.walk(above)?.directory,
        };
        let before = fstat(&directory).map_err(PlaceError::io("look at its directory"))?;
        self.parent = Some(Parent {
            path,
            directory,
            before,
        });
        Ok(())
    }

    pub(super) fn walk(&mut self, above: &[&[u8]]) -> Result<place::Place, PlaceError> {
        Walk {
            root: self.root.as_fd(),
            below: &self.below,
            implied: &mut self.depends,
        }
        .find(above)
    }

    pub(super) fn parent_directory(&self) -> Result<&OwnedFd, Failure> {
        match &self.parent {
            Some(parent) => Ok(&parent.directory),
            None => Err(PlaceError::Path("has no directory").into()),
        }
    }

    fn parent_has(&self, bit: Mode) -> bool {
        (self.parent.as_ref())
            .is_some_and(|parent| Mode::from_raw_mode(parent.before.st_mode).contains(bit))
    }

    fn drop_parent(&mut self) -> Result<(), Failure> {
        self.leave_parent()
            .map_err(PlaceError::io("set the times of a directory"))?;
        Ok(())
    }

    fn leave_parent(&mut self) -> Result<(), Errno> {
        match self.parent.take() {
            Some(parent) => place::restore_times(parent.directory.as_fd(), &parent.before),
            None => Ok(()),
        }
    }
}

#[derive(Debug)]
pub(super) enum Failure {
    Place(PlaceError),
    Layer(LayerError),
}

impl From<PlaceError> for Failure {
    fn from(error: PlaceError) -> Self {
        Self::Place(error)
    }
}

impl From<LayerError> for Failure {
    fn from(error: LayerError) -> Self {
        Self::Layer(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Layer(LayerError::Archive(error))
    }
}

fn failed_at(path: &[u8], action: &'static str, source: Errno) -> LayerError {
    LayerError::Extract {
        action,
        path: bounded(path),
        source: source.into(),
    }
}

/// Foreign bytes for an error message.
fn bounded(path: &[u8]) -> String {
    String::from_utf8_lossy(&path[..path.len().min(512)]).into_owned()
}

fn times(member: &Member) -> Timestamps {
    let time = Timespec {
        tv_sec: member.mtime.0,
        tv_nsec: member.mtime.1.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn write_all(
    file: &OwnedFd,
    mut piece: &[u8],
    mut offset: u64,
    sequential: bool,
) -> Result<(), Errno> {
    while !piece.is_empty() {
        let result = match sequential {
            true => rustix::io::write(file, piece),
            false => rustix::io::pwrite(file, piece, offset),
        };
        match result {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(written) => {
                piece = &piece[written..];
                offset += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
