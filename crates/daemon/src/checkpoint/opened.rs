//! Checkpoints as clients bring them: an archive, or an image whose layer is an archive's content. Nothing in them is trusted: what is taken
//! out of them are plain files, by names that a checkpoint has.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, BufReader, Read},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use image::Image;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde::Deserialize;
use tar::{Archive, EntryType};

use super::{
    manifest,
    metadata::{CONFIG, DELETED, IMAGES, LAYER, SPEC},
};
use crate::{paths::is_known_missing, runtime::Runtime};

/// Images of CRIU that every checkpoint has.
const ESSENTIAL: [&str; 2] = ["inventory.img", "pstree.img"];

/// A process has a dozen images.
const MOST_FILES: usize = 1 << 20;

/// What describes a container is small.
const MOST_JSON_BYTES: u64 = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("open it")]
    Open(#[source] io::Error),
    #[error("it is no file")]
    NoFile,
    #[error("it is compressed: uncompress it first")]
    Compressed,
    #[error("it is no whole tar archive")]
    Archive(#[source] io::Error),
    #[error("it is of version {found} of its format, and this daemon knows {known}")]
    Version { found: u32, known: u32 },
    #[error("it has a member {0:?}, which no checkpoint has")]
    Member(String),
    #[error("it is no checkpoint: it has no {0}")]
    NoCheckpoint(String),
    #[error("its {name} does not decode")]
    Decode {
        name: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("its {name} has more than {} bytes", MOST_JSON_BYTES)]
    TooLarge { name: &'static str },
    #[error("take {name} out of it")]
    Take {
        name: String,
        #[source]
        source: io::Error,
    },
}

/// Where a checkpoint comes from.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    Archive(PathBuf),
    Image(Arc<Image>),
    /// A container's part of a pod's checkpoint.
    Directory(PathBuf),
}

/// What `config.dump` says of the image below the container.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Described {
    rootfs_image: String,
    rootfs_image_ref: String,
    rootfs_image_name: String,
}

impl Described {
    /// Names of the image, the most exact first.
    pub(crate) fn images(&self) -> impl Iterator<Item = &str> {
        [
            &self.rootfs_image_ref,
            &self.rootfs_image,
            &self.rootfs_image_name,
        ]
        .into_iter()
        .map(String::as_str)
        .filter(|name| !name.is_empty())
    }
}

/// Whether an image may be a checkpoint, as far as the kernel's cache can tell: each container is asked for, and none waits for the disk to learn
/// that its image is one like others.
pub(super) fn may_be(runtime: &Runtime, image: &Image) -> bool {
    let [layer] = image.layers.as_slice() else {
        return false;
    };
    !is_known_missing(&runtime.overlay.found_dir(layer).join(CONFIG))
}

/// Reads what a checkpoint says of itself. Blocks. `None`: the image is no checkpoint.
pub(crate) fn describe(runtime: &Runtime, origin: &Origin) -> Result<Option<Described>, OpenError> {
    let json = match origin {
        Origin::Archive(path) => {
            let mut found = None;
            each(path, |name, entry| {
                if name == Path::new(CONFIG) && found.is_none() {
                    found = Some(small(CONFIG, entry)?);
                }
                Ok(found.is_none())
            })?;
            found.ok_or_else(|| OpenError::NoCheckpoint(CONFIG.to_owned()))?
        }
        Origin::Image(image) => {
            let [layer] = image.layers.as_slice() else {
                return Ok(None);
            };
            // The view of one layer is its directory, which costs no mount.
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let view = rustix::fs::open(runtime.overlay.found_dir(layer), flags, Mode::empty());
            let view = view.map_err(|error| OpenError::Open(error.into()))?;
            match described(&view)? {
                Some(json) => json,
                None => return Ok(None),
            }
        }
        Origin::Directory(path) => described(&manifest::open(path)?)?
            .ok_or_else(|| OpenError::NoCheckpoint(CONFIG.to_owned()))?,
    };
    let described = serde_json::from_slice(&json).map_err(|source| OpenError::Decode {
        name: CONFIG,
        source,
    })?;
    Ok(Some(described))
}

/// What describes the container, where a view holds a checkpoint: it has both that and CRIU's inventory.
fn described(view: &OwnedFd) -> Result<Option<Vec<u8>>, OpenError> {
    let inventory = Path::new(IMAGES).join(ESSENTIAL[0]);
    match (plain(view, Path::new(CONFIG))?, plain(view, &inventory)?) {
        (Some(mut config), Some(_)) => small(CONFIG, &mut config).map(Some),
        _ => Ok(None),
    }
}

/// Takes out what a restore needs, into a new directory. Blocks; what is there after an error is the caller's to remove.
pub(super) fn unpack(
    runtime: &Runtime,
    origin: &Origin,
    directory: &Path,
) -> Result<(), OpenError> {
    let made = std::fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(directory.join(IMAGES));
    made.map_err(|source| take(directory, source))?;
    match origin {
        Origin::Archive(path) => {
            let mut count = 0;
            each(path, |name, entry| {
                count += 1;
                if count > MOST_FILES {
                    return Err(OpenError::Member(name.display().to_string()));
                }
                if is_needed(name) {
                    copy(entry, &directory.join(name))?;
                }
                Ok(true)
            })?;
        }
        Origin::Image(image) => {
            let view = runtime.overlay.view(&image.layers);
            let view = view.map_err(|error| OpenError::Open(io::Error::other(error)))?;
            take_from(&view, directory)?;
        }
        Origin::Directory(path) => take_from(&manifest::open(path)?, directory)?,
    }
    for name in ESSENTIAL {
        let name = Path::new(IMAGES).join(name);
        if !directory.join(&name).exists() {
            return Err(OpenError::NoCheckpoint(name.display().to_string()));
        }
    }
    Ok(())
}

fn take_from(view: &OwnedFd, directory: &Path) -> Result<(), OpenError> {
    for name in names(view)? {
        if let Some(mut file) = plain(view, &name)? {
            copy(&mut file, &directory.join(&name))?;
        }
    }
    Ok(())
}

/// A file of an unpacked checkpoint; `None` where it has none.
pub(super) fn json<T: serde::de::DeserializeOwned>(
    directory: &Path,
    name: &'static str,
) -> Result<Option<T>, OpenError> {
    let mut file = match File::open(directory.join(name)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(take(Path::new(name), source)),
    };
    let json = small(name, &mut file)?;
    let decoded = serde_json::from_slice(&json);
    decoded
        .map(Some)
        .map_err(|source| OpenError::Decode { name, source })
}

fn is_needed(name: &Path) -> bool {
    [CONFIG, SPEC, LAYER, DELETED]
        .iter()
        .any(|one| name == Path::new(one))
        || name.starts_with(IMAGES) && name.components().count() == 2
}

/// Shows every file of an archive, until it is told `false`.
fn each(
    path: &Path,
    mut show: impl FnMut(&Path, &mut dyn Read) -> Result<bool, OpenError>,
) -> Result<(), OpenError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty());
    let file = File::from(file.map_err(|error| OpenError::Open(error.into()))?);
    let found = file.metadata().map_err(OpenError::Open)?;
    if !found.is_file() {
        return Err(OpenError::NoFile);
    }
    let mut first = [0_u8; 4];
    let known = std::os::unix::fs::FileExt::read_at(&file, &mut first, 0);
    known.map_err(OpenError::Open)?;
    if first.starts_with(&[0x1f, 0x8b]) || first == [0x28, 0xb5, 0x2f, 0xfd] {
        return Err(OpenError::Compressed);
    }
    let mut archive = Archive::new(BufReader::with_capacity(256 << 10, file));
    for entry in archive.entries().map_err(OpenError::Archive)? {
        let mut entry = entry.map_err(OpenError::Archive)?;
        let raw = entry.path().map_err(OpenError::Archive)?.into_owned();
        let shown = || OpenError::Member(raw.display().to_string());
        let name = plain_name(&raw).ok_or_else(shown)?;
        match entry.header().entry_type() {
            EntryType::Directory => continue,
            EntryType::Regular | EntryType::Continuous => {}
            _ => return Err(shown()),
        }
        if !show(&name, &mut entry)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Without a `./` in front; `None` for what leads elsewhere.
fn plain_name(path: &Path) -> Option<PathBuf> {
    let mut name = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => name.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(name)
}

/// The files of an image that are a checkpoint's.
fn names(view: &OwnedFd) -> Result<Vec<PathBuf>, OpenError> {
    let mut names: Vec<PathBuf> = [CONFIG, SPEC, LAYER, DELETED].map(PathBuf::from).into();
    let failed = |error: rustix::io::Errno| take(Path::new(IMAGES), error.into());
    let directory = rustix::fs::openat(
        view,
        IMAGES,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(failed)?;
    for entry in rustix::fs::Dir::read_from(directory).map_err(failed)? {
        let name = entry.map_err(failed)?;
        let name = name.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            names.push(Path::new(IMAGES).join(name));
        }
    }
    Ok(names)
}

/// A regular file of an image, by a path without links; `None` where there is none.
pub(super) fn plain(view: &OwnedFd, name: &Path) -> Result<Option<File>, OpenError> {
    use rustix::io::Errno;
    let opened = rustix::fs::openat2(
        view,
        name,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    );
    let file = match opened {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        Err(error) => return Err(take(name, error.into())),
    };
    let found = file.metadata().map_err(|source| take(name, source))?;
    Ok(found.is_file().then_some(file))
}

pub(super) fn small(
    name: &'static str,
    from: &mut (impl Read + ?Sized),
) -> Result<Vec<u8>, OpenError> {
    let mut bytes = Vec::new();
    from.take(MOST_JSON_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(OpenError::Archive)?;
    match bytes.len() as u64 > MOST_JSON_BYTES {
        true => Err(OpenError::TooLarge { name }),
        false => Ok(bytes),
    }
}

fn copy(from: &mut (impl Read + ?Sized), to: &Path) -> Result<(), OpenError> {
    let failed = |source| take(to, source);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .map_err(failed)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(OpenError::Archive(error)),
        };
        io::Write::write_all(&mut file, &buffer[..count]).map_err(failed)?;
    }
}

fn take(name: &Path, source: io::Error) -> OpenError {
    OpenError::Take {
        name: name.display().to_string(),
        source,
    }
}

/// Whiteouts of what a container has deleted of its image, as an archive without its end: the changes are to follow.
pub(super) fn whiteouts(deleted: &[PathBuf]) -> Result<Vec<u8>, OpenError> {
    let mut archive = tar::Builder::new(Vec::new());
    // By directory, as an unpacker likes them.
    let mut sorted: BTreeMap<PathBuf, ()> = BTreeMap::new();
    for path in deleted {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let shown = || OpenError::Member(path.display().to_string());
        let name = plain_name(relative).ok_or_else(shown)?;
        let file = name.file_name().ok_or_else(shown)?;
        let mut mark = std::ffi::OsString::from(".wh.");
        mark.push(file);
        sorted.insert(name.with_file_name(mark), ());
    }
    for name in sorted.into_keys() {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o600);
        header.set_entry_type(EntryType::Regular);
        archive
            .append_data(&mut header, &name, io::empty())
            .map_err(|source| take(&name, source))?;
    }
    let mut bytes = archive
        .into_inner()
        .map_err(|source| take(Path::new(DELETED), source))?;
    bytes.truncate(bytes.len().saturating_sub(1024));
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(members: &[(&str, &str)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, text) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o600);
            // Names that the builder would refuse.
            let bytes = name.as_bytes();
            header.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
            header.set_cksum();
            archive.append(&header, text.as_bytes()).unwrap();
        }
        archive.into_inner().unwrap()
    }

    fn shown(bytes: &[u8]) -> Result<Vec<String>, OpenError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let mut names = Vec::new();
        each(file.path(), |name, _| {
            names.push(name.display().to_string());
            Ok(true)
        })?;
        Ok(names)
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let good = archive(&[("./config.dump", "{}"), ("checkpoint/x.img", "x")]);
        assert_eq!(shown(&good).unwrap(), ["config.dump", "checkpoint/x.img"]);
        for bad in ["../config.dump", "/etc/shadow", "checkpoint/../../x"] {
            let refused = shown(&archive(&[(bad, "")])).unwrap_err();
            assert!(matches!(refused, OpenError::Member(_)), "{bad}: {refused}");
        }
        assert!(matches!(shown(&good[..700]), Err(OpenError::Archive(_))));
        assert!(matches!(
            shown(&[0x1f, 0x8b, 8, 0]),
            Err(OpenError::Compressed)
        ));
        assert!(is_needed(Path::new("checkpoint/pages-1.img")));
        assert!(!is_needed(Path::new("checkpoint/a/b")));
        assert!(!is_needed(Path::new("dump.log")));
    }

    /// What a checkpoint has are files; a link would lead CRIU, or whoever reads a description, elsewhere.
    #[test]
    fn what_is_no_file_is_refused() {
        for kind in [
            EntryType::Symlink,
            EntryType::Link,
            EntryType::Char,
            EntryType::Block,
            EntryType::Fifo,
        ] {
            let mut archive = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(0);
            header.set_path("checkpoint/inventory.img").unwrap();
            header.set_link_name("/etc/shadow").unwrap();
            header.set_cksum();
            archive.append(&header, std::io::empty()).unwrap();
            let refused = shown(&archive.into_inner().unwrap()).unwrap_err();
            assert!(matches!(refused, OpenError::Member(_)), "{kind:?}");
        }
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let mut endless = io::repeat(b' ');
        let refused = small(CONFIG, &mut endless).unwrap_err();
        assert!(matches!(refused, OpenError::TooLarge { .. }), "{refused}");
        // A member that says it is larger than the archive.
        let mut huge = tar::Header::new_gnu();
        huge.set_path("checkpoint/pages-1.img").unwrap();
        huge.set_size(1 << 62);
        huge.set_cksum();
        let refused = shown(huge.as_bytes()).unwrap_err();
        assert!(matches!(refused, OpenError::Archive(_)), "{refused}");
    }

    #[test]
    fn deletions_become_whiteouts() {
        let paths = ["/etc/gone", "/top"].map(PathBuf::from);
        let mut bytes = whiteouts(&paths).unwrap();
        bytes.extend(archive(&[("kept", "k")]));
        assert_eq!(shown(&bytes).unwrap(), [".wh.top", "etc/.wh.gone", "kept"]);
        for bad in ["/", "/a/../b"] {
            assert!(whiteouts(&[PathBuf::from(bad)]).is_err(), "{bad}");
        }
    }
}
