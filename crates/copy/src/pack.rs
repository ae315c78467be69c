use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header};

use crate::{Error, LeftOut, place};

/// Directories in each other; each is open while what is in it is read.
const MOST_LEVELS: usize = 400;

/// Of a file that says it is empty and is not, as those of `/proc` do.
const MOST_UNSIZED_BYTES: u64 = 16 << 20;

/// What of extended attributes travels: what overlayfs and the kernel's modules keep for themselves means nothing elsewhere.
const XATTRS: [&[u8]; 3] = [b"user.", b"security.capability", b"system.posix_acl_"];

/// File systems whose files are no files: `/proc`, `/sys` and what is below.
const OF_THE_KERNEL: [i64; 11] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x27_e0eb,   // cgroup
    0x6367_7270, // cgroup2
    0x1cd1,      // devpts
    0x1980_0202, // mqueue
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xcafe_4a11, // bpf
    0x6e73_6673, // namespaces
];

/// What is to be read.
#[derive(Debug, Clone)]
pub struct Source {
    pub path: PathBuf,
    /// Where the path is a link, what it leads to; links below it are copied as such.
    pub follow: bool,
    /// What is in the directory, without the directory's own name.
    pub contents: bool,
}

/// Writes what is at a path, with all that is below it, as a whole archive. Files on other file systems belong to it, but for those of the
/// kernel.
pub fn pack<W: Write>(root: BorrowedFd<'_>, source: &Source, to: W) -> Result<LeftOut, Error> {
    // A link that a path goes on behind is no matter of taste.
    let behind = source.contents || source.path.as_os_str().as_bytes().ends_with(b"/");
    let found = place::find(root, &source.path, source.follow || behind)?;
    let (name, shown) = (&found.name, &source.path);
    let stat = statat(&found.directory, name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(Error::at("look at", shown))?;
    let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if source.contents && !is_directory {
        return Err(Error::NoDirectory(source.path.clone()));
    }
    // What a link led to has the link's name, as the one that was asked for.
    let top = match source.path.file_name() {
        Some(name) if !source.contents => PathBuf::from(name),
        _ => PathBuf::new(),
    };
    let mut packer = Packer::new(to);
    packer.tree(found.directory.as_fd(), name, &top, 0)?;
    packer.finish().map(|(_, left_out)| left_out)
}

/// An archive that is being written.
#[expect(
    missing_debug_implementations,
    reason = "the builder of archives has none"
)]
pub struct Packer<W: Write> {
    archive: Builder<W>,
    /// Where an inode with several names has been put, by device and number.
    linked: BTreeMap<(u64, u64), PathBuf>,
    left_out: LeftOut,
}

impl<W: Write> Packer<W> {
    pub fn new(to: W) -> Self {
        Self {
            archive: Builder::new(to),
            linked: BTreeMap::new(),
            left_out: LeftOut::new(),
        }
    }

    /// Ends the archive.
    pub fn finish(self) -> Result<(W, LeftOut), Error> {
        let to = self.archive.into_inner().map_err(Error::Write)?;
        Ok((to, self.left_out))
    }

    /// What has a name in a directory, without what is below it, as `shown` in the archive. A link is written as such.
    pub fn entry(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &OsStr,
        shown: &Path,
    ) -> Result<(), Error> {
        self.add(directory, name, shown).map(drop)
    }

    /// The same with what is below.
    fn tree(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &OsStr,
        shown: &Path,
        level: usize,
    ) -> Result<(), Error> {
        let Some(opened) = self.add(directory, name, shown)? else {
            return Ok(());
        };
        if level >= MOST_LEVELS {
            return Err(Error::TooDeep {
                path: shown.to_owned(),
                most: MOST_LEVELS,
            });
        }
        if level > 0 && is_of_the_kernel(&opened) {
            let line = format!("{}: what is in it is the kernel's", shown.display());
            self.left_out.push(line);
            return Ok(());
        }
        for name in names(&opened).map_err(Error::at("read", shown))? {
            match self.tree(opened.as_fd(), &name, &shown.join(&name), level + 1) {
                // It went away meanwhile.
                Err(error) if error.path_kind() == Some(io::ErrorKind::NotFound) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// The directory, opened, if it is one.
    fn add(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &OsStr,
        shown: &Path,
    ) -> Result<Option<OwnedFd>, Error> {
        let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(Error::at("look at", shown))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let mut header = header(&stat);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            let inode = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.linked.get(&inode) {
                header.set_entry_type(EntryType::Link);
                let linked = self.archive.append_link(&mut header, shown, first);
                return linked.map(|()| None).map_err(Error::Write);
            }
            self.linked.insert(inode, shown.to_owned());
        }
        let open = |flags| {
            let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(directory, name, flags, Mode::empty()).map_err(Error::at("open", shown))
        };
        match kind {
            FileType::Directory => {
                let opened = open(OFlags::DIRECTORY)?;
                header.set_entry_type(EntryType::Directory);
                self.attributes(opened.as_fd(), shown)?;
                let named = match shown.as_os_str().is_empty() {
                    true => Path::new("."),
                    false => shown,
                };
                self.append(&mut header, named, io::empty())?;
                Ok(Some(opened))
            }
            FileType::RegularFile => {
                // Without O_NONBLOCK, a pipe that has taken its place would wait for a writer.
                let file = File::from(open(OFlags::NONBLOCK)?);
                let stat = fstat(&file).map_err(Error::at("look at", shown))?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
                    self.attributes(file.as_fd(), shown)?;
                    self.file(header, file, &stat, shown)?;
                }
                Ok(None)
            }
            FileType::Symlink => {
                header.set_entry_type(EntryType::Symlink);
                let target = readlinkat(directory, name, Vec::new())
                    .map_err(Error::at("read the link", shown))?;
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                let linked = self.archive.append_link(&mut header, shown, target);
                linked.map(|()| None).map_err(Error::Write)
            }
            FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => {
                header.set_entry_type(match kind {
                    FileType::Fifo => EntryType::Fifo,
                    FileType::CharacterDevice => EntryType::Char,
                    _ => EntryType::Block,
                });
                let (major, minor) = (
                    rustix::fs::major(stat.st_rdev),
                    rustix::fs::minor(stat.st_rdev),
                );
                let numbers = header.set_device_major(major);
                numbers
                    .and_then(|()| header.set_device_minor(minor))
                    .map_err(Error::Write)?;
                self.append(&mut header, shown, io::empty())?;
                Ok(None)
            }
            // A socket's name means nothing without the process that listens there.
            FileType::Socket | FileType::Unknown => {
                self.left_out
                    .push(format!("{}: it is a socket", shown.display()));
                Ok(None)
            }
        }
    }

    fn file(
        &mut self,
        mut header: Header,
        mut file: File,
        stat: &Stat,
        shown: &Path,
    ) -> Result<(), Error> {
        header.set_entry_type(EntryType::Regular);
        let failed = |source| Error::Path {
            action: "read",
            path: shown.to_owned(),
            source,
        };
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if size > 0 {
            header.set_size(size);
            // One that shrinks meanwhile is filled up; a header cannot be taken back.
            let whole = file.chain(io::repeat(0)).take(size);
            return self.append(&mut header, shown, whole);
        }
        let mut bytes = Vec::new();
        let most = MOST_UNSIZED_BYTES;
        let read = (&mut file).take(most + 1).read_to_end(&mut bytes);
        read.map_err(failed)?;
        if bytes.len() as u64 > most {
            return Err(failed(io::ErrorKind::FileTooLarge.into()));
        }
        header.set_size(bytes.len() as u64);
        self.append(&mut header, shown, bytes.as_slice())
    }

    fn append(&mut self, header: &mut Header, shown: &Path, data: impl Read) -> Result<(), Error> {
        let appended = self.archive.append_data(header, shown, data);
        appended.map_err(Error::Write)
    }

    /// An extended header, for the entry that follows.
    fn attributes(&mut self, file: BorrowedFd<'_>, shown: &Path) -> Result<(), Error> {
        let failed = |error| Error::at("read the attributes of", shown)(error);
        let mut records = Vec::new();
        for name in attribute_names(file).map_err(failed)? {
            let mut value = vec![0; 64 * 1024];
            match rustix::fs::fgetxattr(file, &*name, &mut value) {
                Ok(length) => {
                    value.truncate(length);
                    records.push((format!("SCHILY.xattr.{name}"), value));
                }
                // Gone meanwhile, or not for us.
                Err(Errno::NODATA | Errno::PERM | Errno::ACCESS) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let records = records
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_slice()));
        self.archive
            .append_pax_extensions(records)
            .map_err(Error::Write)
    }
}

fn header(stat: &Stat) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(0);
    header
}

fn names(directory: &OwnedFd) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_owned();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(&name).to_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn is_of_the_kernel(directory: &OwnedFd) -> bool {
    let kind = rustix::fs::fstatfs(directory).map(|system| system.f_type);
    kind.is_ok_and(|kind| OF_THE_KERNEL.contains(&kind))
}

fn attribute_names(file: BorrowedFd<'_>) -> Result<Vec<String>, Errno> {
    let mut names = vec![0_u8; 64 * 1024];
    let length = match rustix::fs::flistxattr(file, &mut names) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP | Errno::PERM) => 0,
        Err(error) => return Err(error),
    };
    Ok(names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| XATTRS.iter().any(|kind| name.starts_with(kind)))
        .filter_map(|name| String::from_utf8(name.to_vec()).ok())
        .collect())
}
