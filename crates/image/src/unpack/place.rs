//! Where an entry of an archive goes: the directory that its path means inside the layer.
//!
//! A path is resolved as a container on top of the finished layer would resolve it, with the layer's directory for `/`: first in the
//! layer, and where the layer says nothing, in the layers below. Symbolic links on the way are followed, none leads out.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, chownat,
    fstat, mkdirat, openat, openat2, readlinkat, statat, unlinkat,
};
use rustix::io::Errno;

use super::attributes;

/// What is known of the layers below while a layer is unpacked.
#[derive(Debug)]
pub(crate) enum Below {
    /// There are none.
    Nothing,
    /// The layer is unpacked on its own; when it depends on others, [`PlaceError::NeedsBelow`] says so.
    Unknown,
    /// A read-only mount of them.
    View(OwnedFd),
}

impl Below {
    /// The same once more, for another attempt.
    pub(crate) fn duplicate(&self) -> std::io::Result<Self> {
        Ok(match self {
            Self::Nothing => Self::Nothing,
            Self::Unknown => Self::Unknown,
            Self::View(view) => Self::View(view.try_clone()?),
        })
    }
}

#[derive(Debug)]
pub(super) enum PlaceError {
    /// The layer cannot be unpacked on its own.
    NeedsBelow,
    /// The path has no place.
    Path(&'static str),
    Io(&'static str, io::Error),
}

impl PlaceError {
    pub(super) fn io(action: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Io(action, errno.into())
    }
}

/// A directory inside the layer, and where it lies after all links have been followed.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) directory: OwnedFd,
    pub(super) resolved: Vec<Vec<u8>>,
    /// Nothing below shows through here.
    pub(super) hides_below: bool,
}

/// More components than a path of PATH_MAX can have; deeper ones only come from extended headers.
const MAX_COMPONENTS: usize = 8192;

const MAX_LINKS: usize = 40;

/// How often `openat2(2)` is asked again after EAGAIN.
const RACES: usize = 16;

/// Splits a path of the archive and removes `.`, `..` and repeated slashes, as a shell's `cd` would without looking. A leading slash
/// means nothing.
pub(super) fn components(path: &[u8]) -> Result<Vec<&[u8]>, PlaceError> {
    let mut components = Vec::new();
    for component in path.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                components
                    .pop()
                    .ok_or(PlaceError::Path("leads out of the layer"))?;
            }
            name if name.contains(&0) => return Err(PlaceError::Path("has a NUL in its name")),
            name => components.push(name),
        }
    }
    if components.len() > MAX_COMPONENTS {
        return Err(PlaceError::Path("is nested too deeply"));
    }
    Ok(components)
}

/// The one system call that does for nearly all paths; `None` where something on the way is not in the layer, or is no
/// directory.
pub(super) fn open_existing(
    root: BorrowedFd<'_>,
    path: &[u8],
) -> Result<Option<OwnedFd>, PlaceError> {
    let path = if path.is_empty() { b"." } else { path };
    for _ in 0..RACES {
        let opened = openat2(
            root,
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        );
        match opened {
            Ok(directory) => return Ok(Some(directory)),
            // A path too long for one call is walked.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => return Ok(None),
            Err(Errno::LOOP) => {
                return Err(PlaceError::Path("lies behind too many symbolic links"));
            }
            // The path has a `..`, and something was renamed somewhere on this machine meanwhile.
            Err(Errno::AGAIN) => {}
            Err(errno) => return Err(PlaceError::Io("open its directory", errno.into())),
        }
    }
    // The walk needs no such luck.
    Ok(None)
}

/// Finds a directory component by component, and makes what is missing.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    pub(super) root: BorrowedFd<'a>,
    pub(super) below: &'a Below,
    /// Set where a directory was made that the archive does not describe.
    pub(super) implied: &'a mut bool,
}

impl Walk<'_> {
    pub(super) fn find(&mut self, components: &[&[u8]]) -> Result<Place, PlaceError> {
        let mut ahead: VecDeque<Vec<u8>> = components.iter().map(|name| name.to_vec()).collect();
        let mut resolved: Vec<Vec<u8>> = Vec::new();
        // Whether the directory and each one above it hides what is below.
        let mut hides = vec![is_opaque(self.root)?];
        let mut current = open_child(self.root, b".")?;
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            match &*name {
                b"" | b"." => continue,
                b".." => {
                    if resolved.pop().is_some() {
                        hides.pop();
                        current = self.reopen(&resolved)?;
                    }
                    continue;
                }
                _ => {}
            }
            if resolved.len() + ahead.len() > MAX_COMPONENTS {
                return Err(PlaceError::Path("is nested too deeply"));
            }
            let hidden = hides.last().is_some_and(|&hides| hides);
            match self.step(&current, &resolved, &name, hidden)? {
                Step::Into(child, hides_below) => {
                    current = child;
                    resolved.push(name);
                    hides.push(hides_below);
                }
                Step::Link(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(PlaceError::Path("lies behind too many symbolic links"));
                    }
                    if target.starts_with(b"/") {
                        resolved.clear();
                        hides.truncate(1);
                        current = open_child(self.root, b".")?;
                    }
                    for component in target.split(|&byte| byte == b'/').rev() {
                        ahead.push_front(component.to_vec());
                    }
                }
            }
        }
        Ok(Place {
            directory: current,
            resolved,
            hides_below: hides.last().is_some_and(|&hides| hides),
        })
    }

    fn step(
        &mut self,
        parent: &OwnedFd,
        resolved: &[Vec<u8>],
        name: &[u8],
        hidden: bool,
    ) -> Result<Step, PlaceError> {
        let stat = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return self.missing(parent, resolved, name, hidden),
            Err(errno) => return Err(PlaceError::Io("look at its directory", errno.into())),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let child = open_child(parent.as_fd(), name)?;
                let hides = hidden || is_opaque(child.as_fd())?;
                Ok(Step::Into(child, hides))
            }
            FileType::Symlink => link(parent.as_fd(), name),
            _ if attributes::is_whiteout(&stat) => {
                unlinkat(parent, name, AtFlags::empty())
                    .map_err(PlaceError::io("replace a whiteout"))?;
                let child = self.make(parent, name, None)?;
                attributes::set_opaque(child.as_fd())
                    .map_err(PlaceError::io("make a directory opaque"))?;
                Ok(Step::Into(child, true))
            }
            _ => Err(PlaceError::Path(
                "lies below something that is no directory",
            )),
        }
    }

    /// The layer says nothing of `name`.
    fn missing(
        &mut self,
        parent: &OwnedFd,
        resolved: &[Vec<u8>],
        name: &[u8],
        hidden: bool,
    ) -> Result<Step, PlaceError> {
        let view = match (hidden, self.below) {
            (true, _) => return Ok(Step::Into(self.make(parent, name, None)?, true)),
            (false, Below::Unknown) => return Err(PlaceError::NeedsBelow),
            (false, Below::Nothing) => {
                *self.implied = true;
                return Ok(Step::Into(self.make(parent, name, None)?, false));
            }
            (false, Below::View(view)) => view,
        };
        *self.implied = true;
        let Some(seen) = look_below(view, resolved, name)? else {
            return Ok(Step::Into(self.make(parent, name, None)?, false));
        };
        match FileType::from_raw_mode(seen.stat.st_mode) {
            FileType::Directory => {
                let child = self.make(parent, name, Some(&seen))?;
                Ok(Step::Into(child, false))
            }
            FileType::Symlink => link(seen.parent.as_fd(), name),
            _ => Err(PlaceError::Path(
                "lies below something that is no directory",
            )),
        }
    }

    /// Makes a directory that the archive does not describe: like the one below that it stands for, or like `mkdir` would.
    fn make(
        &self,
        parent: &OwnedFd,
        name: &[u8],
        like: Option<&Found>,
    ) -> Result<OwnedFd, PlaceError> {
        let failed = || PlaceError::io("make a directory on the way");
        let before = fstat(parent).map_err(failed())?;
        mkdirat(parent, name, Mode::from_raw_mode(0o755)).map_err(failed())?;
        let child = open_child(parent.as_fd(), name)?;
        if let Some(like) = like {
            let original = open_child(like.parent.as_fd(), name)?;
            let (uid, gid) = (like.stat.st_uid, like.stat.st_gid);
            chownat(
                &child,
                c"",
                Some(Uid::from_raw(uid)),
                Some(Gid::from_raw(gid)),
                AtFlags::EMPTY_PATH,
            )
            .map_err(failed())?;
            attributes::copy_xattrs(original.as_fd(), child.as_fd()).map_err(failed())?;
            rustix::fs::fchmod(&child, Mode::from_raw_mode(like.stat.st_mode & 0o7777))
                .map_err(failed())?;
            restore_times(child.as_fd(), &like.stat).map_err(failed())?;
        } else {
            rustix::fs::fchmod(&child, Mode::from_raw_mode(0o755)).map_err(failed())?;
        }
        restore_times(parent.as_fd(), &before).map_err(failed())?;
        Ok(child)
    }

    fn reopen(&self, resolved: &[Vec<u8>]) -> Result<OwnedFd, PlaceError> {
        let mut current = open_child(self.root, b".")?;
        for name in resolved {
            current = open_child(current.as_fd(), name)?;
        }
        Ok(current)
    }
}

enum Step {
    Into(OwnedFd, bool),
    Link(Vec<u8>),
}

/// Something in the layers below.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) parent: OwnedFd,
    pub(super) stat: Stat,
}

/// Looks `name` up in a directory of the layers below, without following links: `resolved` has none.
pub(super) fn look_below(
    view: &OwnedFd,
    resolved: &[Vec<u8>],
    name: &[u8],
) -> Result<Option<Found>, PlaceError> {
    let path = match resolved {
        [] => b".".to_vec(),
        resolved => resolved.join(&b'/'),
    };
    let opened = openat2(
        view,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS,
    );
    let parent = match opened {
        Ok(parent) => parent,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        Err(errno) => return Err(PlaceError::Io("look at the layers below", errno.into())),
    };
    match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(Found { parent, stat })),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(PlaceError::Io("look at the layers below", errno.into())),
    }
}

fn link(parent: BorrowedFd<'_>, name: &[u8]) -> Result<Step, PlaceError> {
    let target = readlinkat(parent, name, Vec::new())
        .map_err(PlaceError::io("read a symbolic link on the way"))?;
    Ok(Step::Link(target.into_bytes()))
}

fn open_child(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, PlaceError> {
    openat(
        parent,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(PlaceError::io("open a directory on the way"))
}

fn is_opaque(directory: BorrowedFd<'_>) -> Result<bool, PlaceError> {
    attributes::is_opaque(directory).map_err(PlaceError::io("look at a directory on the way"))
}

/// Gives a directory the modification time back that it had before an entry was made in it.
pub(super) fn restore_times(directory: BorrowedFd<'_>, stat: &Stat) -> Result<(), Errno> {
    let time = Timespec {
        tv_sec: stat.st_mtime as _,
        tv_nsec: stat.st_mtime_nsec as _,
    };
    rustix::fs::futimens(
        directory,
        &Timestamps {
            last_access: time,
            last_modification: time,
        },
    )
}
