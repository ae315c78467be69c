use std::{
    fs::{self, OpenOptions},
    io,
    path::Path,
};

use crate::error::Error;

/// Writes a file that the user named.
pub(crate) fn write_file(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(|source| failed(path, source))
}

/// Whether [`write_file`] will find its way. What is there stays, and what is not there is not made.
pub(crate) fn writable(path: &Path) -> Result<(), Error> {
    match OpenOptions::new().append(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(failed(path, source)),
        Ok(_) => return Ok(()),
    }
    let made = OpenOptions::new().append(true).create_new(true).open(path);
    made.and_then(|_| fs::remove_file(path))
        .map_err(|source| failed(path, source))
}

fn failed(path: &Path, source: io::Error) -> Error {
    Error::Io {
        what: format!("write {}", path.display()),
        source,
    }
}
