//! What a container has changed in its image.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, openat, statat};
use rustix::io::Errno;

const OPAQUE: &str = "trusted.overlay.opaque";

/// Directories in each other; two descriptors are open for each.
const MOST_LEVELS: usize = 400;

/// A path that is other than in the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub kind: ChangeKind,
    /// From the container's root, `/` first.
    pub path: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// The image has nothing there.
    Added,
    /// Of a directory: its owner or mode is other, or something in it.
    Changed,
    /// With all that was below it.
    Deleted,
}

/// How far the owners of a writable layer are from those of the image below it, where a user namespace is between them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shift {
    pub uid: u32,
    pub gid: u32,
}

/// Whether nothing of the layers below shows through in a directory of a writable layer.
pub fn is_opaque(directory: impl AsFd) -> Result<bool, Errno> {
    let mut value = [0; 8];
    match rustix::fs::fgetxattr(directory, OPAQUE, &mut value[..]) {
        Ok(length) => Ok(&value[..length] == b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether this is how overlayfs says that something of the layers below is not there.
pub fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Compares a writable layer with the image below it.
pub(crate) struct Comparison<F> {
    shift: Shift,
    /// Where something is mounted, as the image's links lead there.
    mounts: Vec<PathBuf>,
    tell: F,
    /// Directories on the way to the next change that are not told of yet.
    pending: Vec<Change>,
}

impl<F: FnMut(Change) -> bool> Comparison<F> {
    pub(crate) fn new(shift: Shift, image: &OwnedFd, mounts: &[PathBuf], tell: F) -> Self {
        let mounts = mounts.iter().map(|mount| resolved(image, mount)).collect();
        Self {
            shift,
            mounts,
            tell,
            pending: Vec::new(),
        }
    }

    /// Of the layers as a whole. The writable one may change meanwhile.
    pub(crate) fn run(mut self, upper: OwnedFd, image: OwnedFd) -> Result<(), Errno> {
        let opaque = is_opaque(&upper)?;
        self.directory(&upper, Some(&image), opaque, Path::new("/"), 0)
            .map(drop)
    }

    /// Whether more is wanted.
    fn directory(
        &mut self,
        upper: &OwnedFd,
        lower: Option<&OwnedFd>,
        opaque: bool,
        path: &Path,
        level: usize,
    ) -> Result<bool, Errno> {
        if level >= MOST_LEVELS {
            return Err(Errno::NAMETOOLONG);
        }
        let mut names = names(upper)?;
        if let Some(lower) = lower
            && opaque
        {
            names.extend(self::names(lower)?);
        }
        names.sort();
        names.dedup();
        for name in names {
            let path = path.join(&name);
            if self.mounts.contains(&path) {
                continue;
            }
            let below = match lower {
                Some(lower) => found(lower.as_fd(), &name)?,
                None => None,
            };
            let more = match (found(upper.as_fd(), &name)?, below) {
                (None, Some(_)) if opaque => self.tell(ChangeKind::Deleted, path),
                // It went away meanwhile.
                (None, _) => true,
                (Some(above), below) if is_whiteout(&above) => {
                    below.is_none() || self.tell(ChangeKind::Deleted, path)
                }
                (Some(above), below) => {
                    self.entry((upper, lower), &name, above, below, opaque, path, level)?
                }
            };
            if !more {
                return Ok(false);
            }
        }
        Ok(true)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "an entry is what both sides say of it"
    )]
    fn entry(
        &mut self,
        (upper, lower): (&OwnedFd, Option<&OwnedFd>),
        name: &OsStr,
        above: Stat,
        below: Option<Stat>,
        opaque: bool,
        path: PathBuf,
        level: usize,
    ) -> Result<bool, Errno> {
        let is_directory =
            |stat: &Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let kind = match below {
            Some(_) => ChangeKind::Changed,
            None => ChangeKind::Added,
        };
        if !is_directory(&above) {
            return Ok(self.tell(kind, path));
        }
        let opened = match open_directory(upper.as_fd(), name) {
            Ok(opened) => opened,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(true),
            Err(error) => return Err(error),
        };
        let opaque_here = is_opaque(&opened)?;
        let in_image = below.filter(is_directory);
        let under = match (lower, &in_image) {
            (Some(lower), Some(_)) => Some(open_directory(lower.as_fd(), name)?),
            _ => None,
        };
        let told = match in_image {
            Some(below) => opaque_here || opaque || self.differs(&above, &below),
            // Made to have something mounted below it; what else is in it shows itself.
            None => below.is_some() || !self.leads_to_mount(&path),
        };
        let change = Change {
            kind,
            path: path.clone(),
        };
        let waiting = self.pending.len();
        if told {
            if !self.tell(change.kind, change.path) {
                return Ok(false);
            }
        } else {
            self.pending.push(change);
        }
        let more = self.directory(
            &opened,
            under.as_ref(),
            opaque || opaque_here,
            &path,
            level + 1,
        )?;
        self.pending.truncate(waiting.min(self.pending.len()));
        Ok(more)
    }

    fn tell(&mut self, kind: ChangeKind, path: PathBuf) -> bool {
        for change in std::mem::take(&mut self.pending) {
            if !(self.tell)(change) {
                return false;
            }
        }
        (self.tell)(Change { kind, path })
    }

    fn differs(&self, above: &Stat, below: &Stat) -> bool {
        above.st_mode != below.st_mode
            || above.st_uid != below.st_uid.saturating_add(self.shift.uid)
            || above.st_gid != below.st_gid.saturating_add(self.shift.gid)
    }

    fn leads_to_mount(&self, path: &Path) -> bool {
        self.mounts.iter().any(|mount| mount.starts_with(path))
    }
}

fn found(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Stat>, Errno> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn open_directory(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

fn names(directory: &OwnedFd) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

/// Where a path leads in the image: what of it is there, with its links followed, and the rest as it is.
fn resolved(image: &OwnedFd, path: &Path) -> PathBuf {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    for ancestor in path.ancestors() {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let Ok(opened) = rustix::fs::openat2(image, ancestor, flags, Mode::empty(), resolve) else {
            continue;
        };
        let rest = path.strip_prefix(ancestor).unwrap_or(Path::new(""));
        let link = format!("/proc/self/fd/{}", opened.as_raw_fd());
        // Of a detached mount, paths begin at its root.
        return match std::fs::read_link(link) {
            Ok(found) if rest.as_os_str().is_empty() => found,
            Ok(found) => found.join(rest),
            Err(_) => path.to_owned(),
        };
    }
    path.to_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn told(upper: &Path, image: &Path, mounts: &[&str]) -> Vec<String> {
        let open = |path: &Path| open_directory(rustix::fs::CWD, path.as_os_str()).unwrap();
        let image = open(image);
        let mut lines = Vec::new();
        let mut comparison = Comparison::new(Shift::default(), &image, &[], |change| {
            let kind = match change.kind {
                ChangeKind::Added => 'A',
                ChangeKind::Changed => 'C',
                ChangeKind::Deleted => 'D',
            };
            lines.push(format!("{kind} {}", change.path.display()));
            true
        });
        comparison.mounts = mounts.iter().map(PathBuf::from).collect();
        comparison
            .run(open(upper), image.try_clone().unwrap())
            .unwrap();
        lines
    }

    fn tree(top: &Path, files: &[&str]) {
        for file in files {
            let path = top.join(file);
            match file.ends_with('/') {
                true => fs::create_dir_all(path).unwrap(),
                false => {
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    fs::write(path, file).unwrap();
                }
            }
        }
    }

    /// As overlayfs writes it down; needs root for the marks.
    #[test]
    fn additions_changes_and_deletions_are_told_from_each_other() {
        let top = tempfile::tempdir().unwrap();
        let (upper, image) = (top.path().join("upper"), top.path().join("image"));
        tree(
            &image,
            &[
                "etc/kept",
                "etc/changed",
                "etc/gone",
                "replaced/old",
                "replaced/both",
                "touched/file",
                "modes/file",
                "was-directory/x",
                "was-file",
                "mnt/",
            ],
        );
        tree(
            &upper,
            &[
                "etc/changed",
                "etc/new/deep/file",
                "replaced/both",
                "replaced/fresh",
                "touched/",
                "modes/",
                "was-file/below",
                "mnt/point/hidden",
                "run/secrets/token",
                "run/other",
                "empty/",
            ],
        );
        let whiteout = |path: &str| {
            let mode = Mode::from_raw_mode(0);
            let path = upper.join(path);
            rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::CharacterDevice, mode, 0)
                .unwrap();
        };
        whiteout("etc/gone");
        whiteout("etc/never-was");
        symlink("etc", upper.join("was-directory")).unwrap();
        let opaque = open_directory(rustix::fs::CWD, upper.join("replaced").as_os_str()).unwrap();
        rustix::fs::fsetxattr(&opaque, OPAQUE, b"y", rustix::fs::XattrFlags::empty()).unwrap();
        fs::set_permissions(upper.join("modes"), fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(
            told(&upper, &image, &["/mnt/point", "/run/secrets"]),
            [
                "A /empty",
                "C /etc",
                "C /etc/changed",
                "D /etc/gone",
                "A /etc/new",
                "A /etc/new/deep",
                "A /etc/new/deep/file",
                "C /modes",
                "C /replaced",
                "C /replaced/both",
                "A /replaced/fresh",
                "D /replaced/old",
                "A /run",
                "A /run/other",
                "C /was-directory",
                "C /was-file",
                "A /was-file/below",
            ]
        );
    }

    #[test]
    fn mounts_are_where_the_image_leads() {
        let top = tempfile::tempdir().unwrap();
        tree(top.path(), &["run/", "etc/hosts"]);
        fs::create_dir(top.path().join("var")).unwrap();
        symlink("/run", top.path().join("var/run")).unwrap();
        let image = open_directory(rustix::fs::CWD, top.path().as_os_str()).unwrap();
        // Here the image is attached somewhere, and its root has a path.
        let shown = |path: &str| {
            let path = resolved(&image, Path::new(path));
            let inside = path.strip_prefix(top.path()).unwrap();
            inside.display().to_string()
        };
        assert_eq!(shown("/var/run/secrets/x"), "run/secrets/x");
        assert_eq!(shown("/etc/hosts"), "etc/hosts");
        assert_eq!(shown("/none/x"), "none/x");
    }
}
