use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, IFlags, Mode, OFlags, Stat, ioctl_getflags, ioctl_setflags,
    openat, statat, unlinkat,
};
use rustix::io::Errno;

/// What a tree takes of its file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Allocated, not apparent, bytes.
    pub bytes: u64,
    /// Inodes; a file with several hard links counts once.
    pub inodes: u64,
}

impl std::ops::Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            inodes: self.inodes + other.inodes,
        }
    }
}

impl std::iter::Sum for Usage {
    fn sum<I: Iterator<Item = Self>>(usages: I) -> Self {
        usages.fold(Self::default(), std::ops::Add::add)
    }
}

/// Deeper than this, a directory's descriptor is given up on the way down and found again by `..` on the way up, so that a tree
/// of any depth costs a bounded number of descriptors.
const OPEN_LEVELS: usize = 32;

/// What `du` would say of the tree at `path`, the directory itself included. The tree may change meanwhile; a file that
/// disappears is not counted.
pub fn measure(path: &Path) -> Result<Usage, Errno> {
    let mut sum = Sum::default();
    let top = open_directory(CWD, path)?;
    sum.add(&rustix::fs::fstat(&top)?);
    walk(top, &mut sum)?;
    Ok(sum.usage)
}

/// Measures several trees together: a file with links in two of them counts in the first.
#[derive(Debug, Default)]
pub struct Meter(Sum);

impl Meter {
    /// What a tree takes, or a file, beside what has been measured before. Nothing, where there is nothing.
    pub fn tree(&mut self, path: &Path) -> Result<Usage, Errno> {
        let before = self.0.usage;
        match open_directory(CWD, path) {
            Ok(top) => {
                self.0.add(&rustix::fs::fstat(&top)?);
                walk(top, &mut self.0)?;
            }
            Err(Errno::NOTDIR | Errno::LOOP) => return self.entry(path),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        Ok(self.since(before))
    }

    /// As [`Meter::tree`], without what a directory holds.
    pub fn entry(&mut self, path: &Path) -> Result<Usage, Errno> {
        let before = self.0.usage;
        match statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => self.0.add(&stat),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        Ok(self.since(before))
    }

    fn since(&self, before: Usage) -> Usage {
        Usage {
            bytes: self.0.usage.bytes - before.bytes,
            inodes: self.0.usage.inodes - before.inodes,
        }
    }
}

/// Removes `path` and all below it. Succeeds if there is nothing. Needs no space, follows no link, and takes immutable files
/// too.
pub fn remove_tree(path: &Path) -> Result<(), Errno> {
    remove_tree_at(CWD, path)
}

/// As [`remove_tree`], for a path relative to an open directory.
pub fn remove_tree_at(
    parent: BorrowedFd<'_>,
    path: impl rustix::path::Arg + Copy,
) -> Result<(), Errno> {
    match unlinkat(parent, path, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // Linux says EISDIR, POSIX EPERM, for a directory.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    match open_directory(parent, path) {
        Ok(top) => {
            clear_flags(&top)?;
            walk(top, &mut Removal)?;
        }
        Err(Errno::NOENT) => return Ok(()),
        // An immutable file.
        Err(Errno::NOTDIR) => {
            make_mutable(parent, path)?;
            return unlinkat(parent, path, AtFlags::empty());
        }
        Err(errno) => return Err(errno),
    }
    match unlinkat(parent, path, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// What to do with a tree's entries.
trait Visitor {
    /// Something that is no directory.
    fn leaf(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno>;
    /// A directory, before what it holds.
    fn enter(&mut self, directory: BorrowedFd<'_>) -> Result<(), Errno>;
    /// A directory, after what it held.
    fn leave(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno>;
}

/// A directory on the way from the top to where the walk is.
struct Level {
    /// Closed where the walk is far below.
    directory: Option<OwnedFd>,
    /// Its subdirectories yet to be entered.
    pending: Vec<CString>,
    /// The one that the walk is in.
    entered: CString,
}

fn walk(top: OwnedFd, visitor: &mut impl Visitor) -> Result<(), Errno> {
    let mut levels = Vec::new();
    let mut pending = visit_leaves(&top, visitor)?;
    let mut current = top;
    loop {
        while let Some(name) = pending.pop() {
            let child = match open_directory(current.as_fd(), &*name) {
                Ok(child) => child,
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                Err(errno) => return Err(errno),
            };
            visitor.enter(child.as_fd())?;
            let below = visit_leaves(&child, visitor)?;
            levels.push(Level {
                directory: Some(std::mem::replace(&mut current, child)),
                pending: std::mem::replace(&mut pending, below),
                entered: name,
            });
            if let Some(far) = levels.len().checked_sub(OPEN_LEVELS) {
                levels[far].directory = None;
            }
        }
        let Some(level) = levels.pop() else {
            return Ok(());
        };
        current = match level.directory {
            Some(directory) => directory,
            None => open_directory(current.as_fd(), c"..")?,
        };
        visitor.leave(current.as_fd(), &level.entered)?;
        pending = level.pending;
    }
}

/// Visits what is no directory, and returns the names of those that are.
fn visit_leaves(directory: &OwnedFd, visitor: &mut impl Visitor) -> Result<Vec<CString>, Errno> {
    let mut directories = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let file_type = match entry.file_type() {
            FileType::Unknown => match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno),
            },
            known => known,
        };
        match file_type {
            FileType::Directory => directories.push(name.to_owned()),
            _ => visitor.leaf(directory.as_fd(), name)?,
        }
    }
    Ok(directories)
}

fn open_directory(parent: impl AsFd, path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    openat(
        parent,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

struct Removal;

impl Visitor for Removal {
    fn leaf(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
        remove_entry(parent, name, AtFlags::empty())
    }

    fn enter(&mut self, _directory: BorrowedFd<'_>) -> Result<(), Errno> {
        Ok(())
    }

    fn leave(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
        remove_entry(parent, name, AtFlags::REMOVEDIR)
    }
}

fn remove_entry(parent: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> Result<(), Errno> {
    match unlinkat(parent, name, flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        // A container with CAP_LINUX_IMMUTABLE may have made the file, or its directory, immutable.
        Err(Errno::PERM) => {
            clear_flags(&open_directory(parent, c".")?)?;
            if let Err(errno) = make_mutable(parent, name)
                && errno != Errno::NXIO
                && errno != Errno::LOOP
            {
                return Err(errno);
            }
            unlinkat(parent, name, flags)
        }
        Err(errno) => Err(errno),
    }
}

fn make_mutable(parent: impl AsFd, path: impl rustix::path::Arg) -> Result<(), Errno> {
    let file = openat(
        parent,
        path,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    clear_flags(&file)
}

fn clear_flags(file: &OwnedFd) -> Result<(), Errno> {
    let flags = match ioctl_getflags(file) {
        Ok(flags) => flags,
        Err(Errno::NOTTY | Errno::OPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    let hindering = IFlags::IMMUTABLE | IFlags::APPEND;
    if flags.intersects(hindering) {
        ioctl_setflags(file, flags - hindering)?;
    }
    Ok(())
}

/// Asks ext4 to place each directory that is made in this one in a block group of its own, with all that is made in that, as it does with
/// those of a file system's root (`chattr +T`). Layers are unpacked side by side, and without a journal ext4 gives an inode again only a
/// minute and more after its file's end: in the group of an image just removed, each new file would search past all of that image's.
/// Other file systems have no such thing.
pub(crate) fn spread(directory: &Path) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(directory) = openat(CWD, directory, flags, Mode::empty()) else {
        return;
    };
    if let Ok(flags) = ioctl_getflags(&directory) {
        let _other_file_system = ioctl_setflags(&directory, flags | IFlags::TOPDIR);
    }
}

#[derive(Debug, Default)]
struct Sum {
    usage: Usage,
    /// Inodes with several links that were counted.
    linked: BTreeSet<u64>,
}

impl Sum {
    fn add(&mut self, stat: &Stat) {
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if !directory && stat.st_nlink > 1 && !self.linked.insert(stat.st_ino) {
            return;
        }
        // The unit of st_blocks is 512 bytes, whatever the file system's.
        self.usage.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        self.usage.inodes += 1;
    }
}

impl Visitor for Sum {
    fn leaf(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
        match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => self.add(&stat),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        Ok(())
    }

    fn enter(&mut self, directory: BorrowedFd<'_>) -> Result<(), Errno> {
        self.add(&rustix::fs::fstat(directory)?);
        Ok(())
    }

    fn leave(&mut self, _parent: BorrowedFd<'_>, _name: &CStr) -> Result<(), Errno> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn ext4_spreads_what_is_made_in_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        spread(directory.path());
        let file = fs::File::open(directory.path()).unwrap();
        let ext4 = rustix::fs::fstatfs(&file).unwrap().f_type == 0xef53;
        let flags = ioctl_getflags(&file).unwrap_or(IFlags::empty());
        assert_eq!(flags.contains(IFlags::TOPDIR), ext4);
        spread(&directory.path().join("missing"));
    }

    #[test]
    fn hard_links_count_once_and_holes_not_at_all() {
        let top = tempfile::tempdir().unwrap();
        let tree = top.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(tree.join("a/file"), [1; 8192]).unwrap();
        fs::hard_link(tree.join("a/file"), tree.join("a/b/link")).unwrap();
        let hole = fs::File::create(tree.join("hole")).unwrap();
        hole.set_len(1 << 30).unwrap();
        let usage = measure(&tree).unwrap();
        assert_eq!(usage.inodes, 5);
        assert!(usage.bytes >= 8192 && usage.bytes < 1 << 20, "{usage:?}");
    }

    #[test]
    fn a_tree_goes_whatever_it_holds_and_only_it() {
        let top = tempfile::tempdir().unwrap();
        let kept = top.path().join("kept");
        fs::write(&kept, "kept").unwrap();
        let tree = top.path().join("tree");
        fs::create_dir(&tree).unwrap();
        std::os::unix::fs::symlink(&kept, tree.join("link")).unwrap();
        std::os::unix::fs::symlink(top.path(), tree.join("up")).unwrap();
        let frozen = tree.join("frozen");
        fs::create_dir(&frozen).unwrap();
        fs::write(frozen.join("file"), "x").unwrap();
        for path in [frozen.join("file"), frozen] {
            let file = openat(CWD, &path, OFlags::RDONLY, Mode::empty()).unwrap();
            match ioctl_setflags(&file, IFlags::IMMUTABLE) {
                // tmpfs has no such flag.
                Ok(()) | Err(Errno::NOTTY | Errno::OPNOTSUPP) => {}
                Err(errno) => panic!("{errno}"),
            }
        }
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        remove_tree(&tree).unwrap();
        assert_eq!(fs::read_to_string(kept).unwrap(), "kept");
    }

    #[test]
    fn depth_costs_no_descriptors() {
        let top = tempfile::tempdir().unwrap();
        let tree = top.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let mut current = open_directory(CWD, &tree).unwrap();
        // Longer than a path can be.
        let deeper = CString::new("d".repeat(60)).unwrap();
        for _ in 0..150 {
            rustix::fs::mkdirat(&current, &*deeper, Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&current, "beside", Mode::RWXU).unwrap();
            current = open_directory(current.as_fd(), &*deeper).unwrap();
        }
        assert_eq!(measure(&tree).unwrap().inodes, 301);
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }
}
