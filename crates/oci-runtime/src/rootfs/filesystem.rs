use std::fmt::Display;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use crate::error::{Error, Stage};

/// A new instance of a file system, as `fsopen(2)` makes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filesystem<'a> {
    pub(crate) fs_type: &'a str,
    pub(crate) source: &'a str,
    pub(crate) data: &'a [(String, Option<String>)],
}

impl Filesystem<'_> {
    /// A detached mount of it. `subject` is for the error, which has the kernel's own words where it left any.
    pub(crate) fn mount(
        self,
        attributes: MountAttrFlags,
        subject: impl Display,
    ) -> Result<OwnedFd, Error> {
        let error = |source, words: &str| Error::Step {
            stage: Stage::Mount,
            subject: match words {
                "" => subject.to_string(),
                words => format!("{subject} ({words})"),
            },
            source,
        };
        let context = fsopen(self.fs_type, FsOpenFlags::FSOPEN_CLOEXEC)
            .map_err(|source| error(source, "unknown type of file system"))?;
        self.configure(&context)
            .and_then(|()| fsconfig_create(context.as_fd()))
            .and_then(|()| fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes))
            .map_err(|source| error(source, &kernel_words(&context)))
    }

    fn configure(self, context: &OwnedFd) -> Result<(), Errno> {
        if !self.source.is_empty() {
            fsconfig_set_string(context.as_fd(), "source", self.source)?;
        }
        for (key, value) in self.data {
            match value {
                Some(value) => {
                    fsconfig_set_string(context.as_fd(), key.as_str(), value.as_str())?;
                }
                None => fsconfig_set_flag(context.as_fd(), key.as_str())?,
            }
        }
        Ok(())
    }
}

/// The first line that the kernel logged to the context, `e tmpfs: Bad value for 'size'` say, without its class.
fn kernel_words(context: &OwnedFd) -> String {
    let mut line = [0_u8; 256];
    let count = rustix::io::read(context, &mut line).unwrap_or(0);
    let line = line.get(..count).unwrap_or_default();
    String::from_utf8_lossy(line.strip_prefix(b"e ").unwrap_or(line))
        .trim()
        .to_owned()
}
