//! The archive: a tar file that is complete or is not there.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use rustix::io::Errno;
use tar::{Builder, EntryType, Header};

use crate::id::random_hex;

/// A file beside its place, taken away again unless it is put there.
#[derive(Debug)]
pub(super) struct Partial {
    path: PathBuf,
    place: PathBuf,
    kept: bool,
}

impl Partial {
    /// A path for it that no other one has.
    pub(super) fn beside(place: &Path) -> io::Result<PathBuf> {
        if place.is_dir() {
            return Err(Errno::ISDIR.into());
        }
        let name = place.file_name().ok_or(Errno::ISDIR)?;
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.partial", &random_hex()?[..12]));
        Ok(place.with_file_name(hidden))
    }

    pub(super) fn create(path: PathBuf, place: &Path) -> io::Result<(Self, File)> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            // Memory holds secrets.
            .mode(0o600)
            .open(&path)?;
        let partial = Self {
            path,
            place: place.to_owned(),
            kept: false,
        };
        Ok((partial, file))
    }

    /// What was in its place before is replaced, as on the peers.
    pub(super) fn put(mut self, file: &File) -> io::Result<()> {
        file.sync_all()?;
        std::fs::rename(&self.path, &self.place)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.kept {
            // It may have been taken away already.
            let _gone = std::fs::remove_file(&self.path);
        }
    }
}

/// Reads or writes until its time is over.
pub(super) struct Timely<R> {
    pub(super) inner: R,
    pub(super) until: Instant,
}

impl<R: Read> Read for Timely<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match Instant::now() < self.until {
            true => self.inner.read(buffer),
            false => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl<W: Write> Write for Timely<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match Instant::now() < self.until {
            true => self.inner.write(buffer),
            false => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Everything in a directory, by its name there: files and directories, the only things that a checkpoint consists of.
pub(super) fn add_all(
    archive: &mut Builder<&File>,
    directory: &Path,
    below: &Path,
    until: Instant,
) -> io::Result<()> {
    let mut names: Vec<OsString> = std::fs::read_dir(directory.join(below))?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<_>>()?;
    names.sort();
    for name in names {
        let name = below.join(name);
        let path = directory.join(&name);
        let found = path.symlink_metadata()?;
        let mut header = header();
        if found.is_dir() {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(0o700);
            header.set_size(0);
            archive.append_data(&mut header, &name, io::empty())?;
            add_all(archive, directory, &name, until)?;
        } else if found.is_file() {
            let inner = File::open(&path)?;
            header.set_entry_type(EntryType::Regular);
            header.set_mode(0o600);
            header.set_size(found.len());
            archive.append_data(&mut header, &name, Timely { inner, until })?;
        }
    }
    Ok(())
}

/// A file of root's, from now.
fn header() -> Header {
    let mut header = Header::new_gnu();
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    header.set_mtime(now.map_or(0, |now| now.as_secs()));
    header.set_uid(0);
    header.set_gid(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_whole_or_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("c.tar");
        std::fs::write(&place, "before").unwrap();
        let path = Partial::beside(&place).unwrap();
        assert_ne!(path, Partial::beside(&place).unwrap());
        let (partial, _file) = Partial::create(path.clone(), &place).unwrap();
        drop(partial);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        assert_eq!(std::fs::read(&place).unwrap(), b"before");

        let (partial, file) = Partial::create(path.clone(), &place).unwrap();
        let again = Partial::create(path, &place).map(drop);
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        partial.put(&file).unwrap();
        assert_eq!(std::fs::read(&place).unwrap(), b"");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(Partial::beside(directory.path()).is_err());
        assert!(Partial::beside(Path::new("/")).is_err());
    }

    #[test]
    fn what_takes_too_long_ends() {
        let mut late = Timely {
            inner: io::repeat(0),
            until: Instant::now(),
        };
        let ended = io::copy(&mut late, &mut io::sink()).unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
    }
}
