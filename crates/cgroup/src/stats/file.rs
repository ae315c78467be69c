//! A statistics file, kept open.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use crate::cgroup::Cgroup;
use crate::error::Error;
use crate::files;
use crate::hierarchy::Hierarchy;

/// `memory.stat` of a v1 cgroup is about 1,000 bytes, of a v2 one 1,600; new kernels add lines.
const LONGEST_FILE: usize = 16 * 1024;

/// What the kernel gives of a list at once.
const PIECE: usize = 4096;

/// A limit of at least this many bytes is no limit: v1 says "unlimited" as the largest multiple of the page size.
pub(super) const UNLIMITED: u64 = 1 << 62;

#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// The cgroup has been removed; the sampler is of no more use.
    #[error("the cgroup of {file} is gone")]
    Gone { file: String },
    #[error("read {file}")]
    Read {
        file: String,
        #[source]
        source: Errno,
    },
    #[error("read {file}: {text:?} is not what this file should hold")]
    Parse { file: String, text: String },
}

#[derive(Debug)]
pub(super) struct File {
    fd: OwnedFd,
    /// For messages.
    label: String,
}

pub(super) fn open(cgroup: &Cgroup, hierarchy: &Hierarchy, file: &str) -> Result<File, Error> {
    let path = files::join(&cgroup.path_in(hierarchy), file);
    let label = hierarchy.label(&path);
    match files::open_for_reading(hierarchy.dir(), &path) {
        Ok(fd) => Ok(File { fd, label }),
        Err(source) => Err(Error::Open {
            cgroup: label,
            source,
        }),
    }
}

/// `None` where this kernel, or this cgroup, has no such file.
pub(super) fn open_if_exists(
    cgroup: &Cgroup,
    hierarchy: &Hierarchy,
    file: &str,
) -> Result<Option<File>, Error> {
    match open(cgroup, hierarchy, file) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.errno() == Some(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

impl File {
    pub(super) fn text<'a>(&self, buffer: &'a mut Vec<u8>) -> Result<&'a str, SampleError> {
        loop {
            buffer.clear();
            let read =
                rustix::io::pread(self.fd.as_fd(), rustix::buffer::spare_capacity(buffer), 0);
            match read {
                // It may go on: read it again, whole, into more room.
                Ok(length) if length == buffer.capacity() && length < LONGEST_FILE => {
                    buffer.reserve(length * 2);
                }
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(Errno::NODEV) => {
                    return Err(SampleError::Gone {
                        file: self.label.clone(),
                    });
                }
                Err(source) => {
                    return Err(SampleError::Read {
                        file: self.label.clone(),
                        source,
                    });
                }
            }
        }
        std::str::from_utf8(buffer).map_err(|_| self.unexpected(""))
    }

    /// However long it is: the kernel gives a list in pieces of a page.
    pub(super) fn whole(&self) -> Result<String, Errno> {
        let mut text = Vec::with_capacity(PIECE);
        loop {
            text.reserve(PIECE);
            let at = text.len() as u64;
            let room = rustix::buffer::spare_capacity(&mut text);
            match rustix::io::pread(self.fd.as_fd(), room, at) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        String::from_utf8(text).map_err(|_| Errno::ILSEQ)
    }

    pub(super) fn number(&self, buffer: &mut Vec<u8>) -> Result<u64, SampleError> {
        let text = self.text(buffer)?;
        text.trim().parse().map_err(|_| self.unexpected(text))
    }

    pub(super) fn limit(&self, buffer: &mut Vec<u8>) -> Result<Option<u64>, SampleError> {
        let text = self.text(buffer)?;
        if text.trim() == "max" {
            return Ok(None);
        }
        let limit: u64 = text.trim().parse().map_err(|_| self.unexpected(text))?;
        Ok((limit < UNLIMITED).then_some(limit))
    }

    pub(super) fn unexpected(&self, text: &str) -> SampleError {
        SampleError::Parse {
            file: self.label.clone(),
            text: text.chars().take(80).collect(),
        }
    }
}
