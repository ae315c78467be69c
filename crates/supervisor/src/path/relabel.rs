use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;

const ATTRIBUTE: &str = "security.selinux";

/// More bytes than any label was seen to have.
const MOST_BYTES: usize = 4096;

/// A directory that is gone through.
struct Level {
    path: PathBuf,
    entries: Dir,
}

/// Labels a file, or a directory and all that is below it, mounts included; follows no link. What has the label already is not touched, so
/// that a second time costs no writing. Files that come and go meanwhile are theirs who make them. A file system without labels of its own
/// has one that the policy gives it, which stays. Fails with the path that could not be labelled.
pub(super) fn relabel(path: &Path, label: &str) -> Result<(), (PathBuf, Errno)> {
    let at = |error| (path.to_owned(), error);
    let top = rustix::fs::openat2(
        CWD,
        path,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS,
    )
    .map_err(at)?;
    set(top.as_fd(), label).map_err(at)?;
    // One descriptor a level, and no recursion: users' trees may be deep.
    let mut levels = Vec::new();
    levels.extend(descend(&top, path).map_err(at)?);
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.entries.read() else {
            levels.pop();
            continue;
        };
        let failed = |error| (level.path.clone(), error);
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let below = level
            .path
            .join(std::ffi::OsStr::from_bytes(name.to_bytes()));
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = level.entries.fd().map_err(failed)?;
        let opened = rustix::fs::openat(directory, name, flags, Mode::empty());
        let down = match opened {
            Err(Errno::NOENT) => None,
            Err(error) => return Err((below, error)),
            Ok(file) => set(file.as_fd(), label)
                .and_then(|()| descend(&file, &below))
                .map_err(|error| (below, error))?,
        };
        levels.extend(down);
    }
    Ok(())
}

/// What is in a directory; `None` for anything else.
fn descend(file: &OwnedFd, path: &Path) -> Result<Option<Level>, Errno> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode);
    if kind != FileType::Directory {
        return Ok(None);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(file, ".", flags, Mode::empty())?;
    Ok(Some(Level {
        path: path.to_owned(),
        entries: Dir::new(directory)?,
    }))
}

fn set(file: BorrowedFd<'_>, label: &str) -> Result<(), Errno> {
    // The file itself, whatever it is: this leads to what is open, and no further.
    let place = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mut has = [0_u8; MOST_BYTES];
    if let Ok(length) = rustix::fs::getxattr(&place, ATTRIBUTE, &mut has) {
        let has = has[..length].strip_suffix(b"\0").unwrap_or(&has[..length]);
        if has == label.as_bytes() {
            return Ok(());
        }
    }
    match rustix::fs::setxattr(&place, ATTRIBUTE, label.as_bytes(), XattrFlags::empty()) {
        Err(Errno::OPNOTSUPP) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn label_of(path: &Path) -> Option<String> {
        let mut has = [0_u8; MOST_BYTES];
        let length = rustix::fs::lgetxattr(path, ATTRIBUTE, &mut has).ok()?;
        Some(String::from_utf8(has[..length].to_vec()).unwrap())
    }

    #[test]
    fn everything_below_is_labelled_and_nothing_that_a_link_leads_to() {
        let directory = tempfile::tempdir().unwrap();
        // A directory of the machine's may be reached through links.
        let root = directory.path().canonicalize().unwrap();
        let tree = root.join("volume");
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fs::create_dir(root.join("outside")).unwrap();
        fs::write(root.join("outside/file"), "").unwrap();
        fs::write(tree.join("a/b/file"), "").unwrap();
        symlink(root.join("outside"), tree.join("a/link")).unwrap();
        relabel(&tree, "u:o:f_t:s0:c1,c2").unwrap();
        for path in ["", "a", "a/b", "a/b/c", "a/b/file", "a/link"] {
            let label = label_of(&tree.join(path));
            assert_eq!(label.as_deref(), Some("u:o:f_t:s0:c1,c2"), "{path}");
        }
        for path in ["outside", "outside/file"] {
            assert_eq!(label_of(&root.join(path)), None, "{path}");
        }
        relabel(&tree.join("a/b/file"), "u:o:f_t:s0").unwrap();
        assert_eq!(
            label_of(&tree.join("a/b/file")).as_deref(),
            Some("u:o:f_t:s0")
        );
        assert_eq!(
            label_of(&tree.join("a/b")).as_deref(),
            Some("u:o:f_t:s0:c1,c2")
        );
        let (path, error) = relabel(&tree.join("a/link/file"), "u:o:f_t:s0").unwrap_err();
        assert_eq!((path, error), (tree.join("a/link/file"), Errno::LOOP));
    }

    #[test]
    fn what_has_the_label_is_not_touched() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        fs::write(root.join("file"), "").unwrap();
        relabel(&root, "u:o:f_t:s0").unwrap();
        let changed = |path: &Path| {
            let stat = rustix::fs::stat(path).unwrap();
            (stat.st_ctime, stat.st_ctime_nsec)
        };
        let before = changed(&root.join("file"));
        relabel(&root, "u:o:f_t:s0").unwrap();
        assert_eq!(changed(&root.join("file")), before);
    }

    #[test]
    fn what_fails_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let missing = root.join("missing");
        let (path, error) = relabel(&missing, "u:o:f_t:s0").unwrap_err();
        assert_eq!((path, error), (missing, Errno::NOENT));
        // No labels there, and none needed.
        relabel(
            Path::new("/proc/self/net/dev")
                .canonicalize()
                .unwrap()
                .as_path(),
            "u:o:f_t:s0",
        )
        .unwrap();
    }
}
