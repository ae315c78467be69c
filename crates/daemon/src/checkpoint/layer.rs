//! What a container has changed in its image: new and changed files as a tar archive, and a list of those that it has deleted, as CRI-O and
//! podman have both.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::{File, Metadata},
    io,
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt,
            fs::{FileTypeExt, MetadataExt},
        },
    },
    path::{Path, PathBuf},
    time::Instant,
};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use tar::{Builder, EntryType, Header};

use super::archive::Timely;

/// What overlayfs keeps for itself.
const OVERLAY: &[u8] = b"trusted.overlay.";
const OPAQUE: &str = "trusted.overlay.opaque";

/// What of an entry travels beside its contents.
const XATTRS: [&[u8]; 3] = [b"user.", b"security.capability", b"system.posix_acl_"];

/// A walk through a writable layer that nobody changes meanwhile.
pub(super) struct Changes<'a> {
    /// The directory of the layer.
    pub(super) upper: &'a Path,
    /// The image below it.
    pub(super) image: &'a OwnedFd,
    pub(super) archive: Builder<&'a File>,
    /// Absolute in the container.
    pub(super) deleted: Vec<PathBuf>,
    pub(super) until: Instant,
    /// Where an inode with several names has been put, by device and number.
    pub(super) linked: BTreeMap<(u64, u64), PathBuf>,
}

impl Changes<'_> {
    /// Of the layer as a whole. Returns what is deleted.
    pub(super) fn write(mut self) -> io::Result<Vec<PathBuf>> {
        let opaque = is_opaque(self.upper)?;
        self.directory(Path::new(""), opaque)?;
        self.archive.finish()?;
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
            let found = path.symlink_metadata()?;
            if found.file_type().is_char_device() && found.rdev() == 0 {
                self.deleted.push(Path::new("/").join(&name));
                continue;
            }
            self.entry(&name, &path, &found)?;
            if found.is_dir() {
                let opaque = opaque || is_opaque(&path)?;
                self.directory(&name, opaque)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, name: &Path, path: &Path, found: &Metadata) -> io::Result<()> {
        let kind = found.file_type();
        let mut header = Header::new_gnu();
        header.set_mode(found.mode() & 0o7777);
        header.set_uid(found.uid().into());
        header.set_gid(found.gid().into());
        header.set_mtime(u64::try_from(found.mtime()).unwrap_or(0));
        header.set_size(0);
        if !kind.is_dir() && found.nlink() > 1 {
            let inode = (found.dev(), found.ino());
            if let Some(first) = self.linked.get(&inode) {
                header.set_entry_type(EntryType::Link);
                return self.archive.append_link(&mut header, name, first);
            }
            self.linked.insert(inode, name.to_owned());
        }
        let device = |header: &mut Header, kind| {
            header.set_entry_type(kind);
            header.set_device_major(rustix::fs::major(found.rdev()))?;
            header.set_device_minor(rustix::fs::minor(found.rdev()))
        };
        if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            let target = std::fs::read_link(path)?;
            return self.archive.append_link(&mut header, name, target);
        }
        if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
        } else if kind.is_fifo() {
            header.set_entry_type(EntryType::Fifo);
        } else if kind.is_char_device() {
            device(&mut header, EntryType::Char)?;
        } else if kind.is_block_device() {
            device(&mut header, EntryType::Block)?;
        } else if kind.is_file() {
            header.set_entry_type(EntryType::Regular);
            header.set_size(found.len());
        } else {
            // A socket's name means nothing without the process that listens there; CRIU makes it again for that.
            return Ok(());
        }
        self.attributes(path)?;
        if kind.is_file() {
            let inner = Timely {
                inner: File::open(path)?,
                until: self.until,
            };
            return self.archive.append_data(&mut header, name, inner);
        }
        self.archive.append_data(&mut header, name, io::empty())
    }

    /// An extended header, for the entry that follows.
    fn attributes(&mut self, path: &Path) -> io::Result<()> {
        let mut records = Vec::new();
        for name in attribute_names(path)? {
            if !XATTRS.iter().any(|kind| name.as_bytes().starts_with(kind)) {
                continue;
            }
            let mut value = vec![0; 64 * 1024];
            let length = rustix::fs::lgetxattr(path, name.as_os_str(), &mut value)?;
            let mut key = b"SCHILY.xattr.".to_vec();
            key.extend_from_slice(name.as_bytes());
            records.extend(record(&key, &value[..length]));
        }
        if records.is_empty() {
            return Ok(());
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_path("PaxHeaders.0/attributes")?;
        header.set_mode(0o600);
        header.set_size(records.len() as u64);
        header.set_cksum();
        self.archive.append(&header, records.as_slice())
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

fn is_opaque(directory: &Path) -> io::Result<bool> {
    use rustix::io::Errno;
    let mut value = [0; 8];
    match rustix::fs::lgetxattr(directory, OPAQUE, &mut value[..]) {
        Ok(length) => Ok(&value[..length] == b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn attribute_names(path: &Path) -> io::Result<Vec<OsString>> {
    use rustix::io::Errno;
    let mut names = vec![0_u8; 64 * 1024];
    let length = match rustix::fs::llistxattr(path, &mut names) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error.into()),
    };
    Ok(names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty() && !name.starts_with(OVERLAY))
        .map(|name| OsStr::from_bytes(name).to_owned())
        .collect())
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    let mut record = format!("{length} ").into_bytes();
    record.extend_from_slice(key);
    record.push(b'=');
    record.extend_from_slice(value);
    record.push(b'\n');
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_itself() {
        assert_eq!(record(b"k", b"v"), b"6 k=v\n");
        let long = record(b"key", &[b'x'; 92]);
        assert_eq!(long.len(), 101);
        assert!(long.starts_with(b"101 key="));
        let edge = record(b"key", &[b'x'; 91]);
        assert_eq!(edge.len(), 99);
    }
}
