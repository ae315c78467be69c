use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Why a copy ended early. What has been made by then stays.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path is the one inside of the root.
    #[error("{action} {}", path.display())]
    Path {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{}: it is no directory", .0.display())]
    NoDirectory(PathBuf),
    #[error("{}: it is a directory, and what comes is none", .0.display())]
    IsDirectory(PathBuf),
    #[error("{}: there are more than {most} directories in each other", path.display())]
    TooDeep { path: PathBuf, most: usize },
    #[error("the archive has a member {0:?}, which leads elsewhere")]
    Member(String),
    #[error(
        "the archive has more than one file or directory at its top, and the target is none that exists"
    )]
    SeveralTops,
    #[error("read the archive")]
    Archive(#[source] io::Error),
    #[error("write the archive")]
    Write(#[source] io::Error),
}

impl Error {
    pub(crate) fn at(action: &'static str, path: &Path) -> impl FnOnce(Errno) -> Self {
        let path = path.to_owned();
        move |source| Self::Path {
            action,
            path,
            source: source.into(),
        }
    }

    /// What the system said, where it was about a path.
    pub fn path_kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Path { source, .. } => Some(source.kind()),
            _ => None,
        }
    }
}
