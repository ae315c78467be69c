//! What is below a root that was changed and not pivoted to: the caller's tree, which nobody detaches as a whole.
//!
//! No path leads there, but it is in the container's mount namespace: by its `/proc`, in full view, the kernel would let a user namespace inside
//! mount one that has no masks. So everything that lies on the old root is detached. A tree that came from a more privileged mount
//! namespace is locked together: of that each `/proc` and `/sys` is covered, and whatever else lies on the old root.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, UnmountFlags};

use super::filesystem::Filesystem;
use super::mounts::attach;
use crate::error::{Context, Error, Stage};
use crate::host::Host;

/// In the child, whose `/` is the old root still, with the new one mounted on it.
pub(super) fn hide(host: &Host, root: BorrowedFd<'_>) -> Result<(), Error> {
    let listed = older(host, root)?;
    // What was mounted last in a place is what its path finds.
    for mount in listed.iter().rev().filter(|mount| mount.on_old_root) {
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        match rustix::mount::unmount(&mount.place, flags) {
            Ok(()) | Err(Errno::INVAL | Errno::PERM) => {}
            Err(error) => return Err(error).at(Stage::Pivot, mount.words("detach")),
        }
    }
    let left = older(host, root)?;
    let revealing = left.iter().filter(|mount| mount.is_revealing);
    // What lies on the old root hides the others' paths, and comes last.
    for mount in revealing.chain(left.iter().filter(|mount| mount.on_old_root)) {
        cover(mount)?;
    }
    Ok(())
}

/// A mount of the old tree, other than its root.
#[derive(Debug, PartialEq, Eq)]
struct Old {
    place: PathBuf,
    on_old_root: bool,
    /// A `/proc` or `/sys` as a whole.
    is_revealing: bool,
}

impl Old {
    fn words(&self, what: &str) -> String {
        format!("({what} the old {})", self.place.display())
    }
}

fn older(host: &Host, root: BorrowedFd<'_>) -> Result<Vec<Old>, Error> {
    let read = || {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let table = rustix::fs::openat(host.proc(), "self/mountinfo", flags, Mode::empty())?;
        let mut text = Vec::new();
        let read = File::from(table).read_to_end(&mut text);
        read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        let new = rustix::fs::statx(root, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
        Ok((text, new.stx_mnt_id))
    };
    let (text, new) = read().at(Stage::Pivot, "(what the old one holds)")?;
    Ok(parse(&String::from_utf8_lossy(&text), new))
}

/// All of `mountinfo` but the mount `new`, what is below it, and what it lies on.
fn parse(mountinfo: &str, new: u64) -> Vec<Old> {
    let lines: Vec<Line> = mountinfo.lines().filter_map(Line::of).collect();
    let parents: HashMap<u64, u64> = lines.iter().map(|line| (line.id, line.parent)).collect();
    let old_root = parents.get(&new).copied();
    let is_new = |mut id: u64| {
        // A table that was changed while it was read may not be a tree.
        for _ in 0..=parents.len() {
            match parents.get(&id) {
                _ if id == new => return true,
                Some(parent) => id = *parent,
                None => return false,
            }
        }
        false
    };
    let old = lines
        .iter()
        .filter(|line| Some(line.id) != old_root && !is_new(line.id));
    old.map(|line| Old {
        place: cgroup::unescape(line.place),
        on_old_root: Some(line.parent) == old_root,
        is_revealing: line.root == "/" && ["proc", "sysfs"].contains(&line.fs_type),
    })
    .collect()
}

/// `proc_pid_mountinfo(5)`.
struct Line<'a> {
    id: u64,
    parent: u64,
    root: &'a str,
    place: &'a str,
    fs_type: &'a str,
}

impl<'a> Line<'a> {
    fn of(line: &'a str) -> Option<Self> {
        // A variable number of optional fields ends at a lone hyphen.
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut fields = mount.split(' ');
        Some(Self {
            id: fields.next()?.parse().ok()?,
            parent: fields.next()?.parse().ok()?,
            root: fields.nth(1)?,
            place: fields.next()?,
            fs_type: filesystem.split(' ').next()?,
        })
    }
}

/// By a file system that is empty. What is no directory is left: it has nothing below it.
fn cover(mount: &Old) -> Result<(), Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = match rustix::fs::openat(CWD, &mount.place, flags, Mode::empty()) {
        Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => return Ok(()),
        place => place.at(Stage::Pivot, mount.words("cover"))?,
    };
    let empty = Filesystem {
        fs_type: "tmpfs",
        source: "tmpfs",
        data: &[("size".to_owned(), Some("0".to_owned()))],
    };
    let empty = empty.mount(MountAttrFlags::MOUNT_ATTR_RDONLY, mount.words("cover"))?;
    attach(empty.as_fd(), place.as_fd()).at(Stage::Pivot, mount.words("cover"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_the_new_root_is_not_the_old_tree() {
        let text = "\
20 1 0:2 / / rw - rootfs rootfs rw
21 20 0:5 / /proc rw,nosuid - proc proc rw
22 20 0:6 / /var\\040lib rw shared:1 - ext4 /dev/vda rw
23 22 0:7 / /var\\040lib/sys rw - sysfs sysfs rw
24 22 0:5 /sys /var\\040lib/part rw - proc proc rw
40 20 0:9 / / rw - overlay overlay rw
41 40 0:10 / /proc rw - proc proc rw
42 41 0:10 /bus /proc/bus ro - proc proc rw
nonsense
";
        let old = parse(text, 40);
        let seen: Vec<_> = old
            .iter()
            .map(|old| {
                let place = old.place.display().to_string();
                (place, old.on_old_root, old.is_revealing)
            })
            .collect();
        let expected = [
            ("/proc", true, true),
            ("/var lib", true, false),
            ("/var lib/sys", false, true),
            ("/var lib/part", false, false),
        ];
        let expected = expected.map(|(place, on, revealing)| (place.to_owned(), on, revealing));
        assert_eq!(seen, expected);
    }
}
