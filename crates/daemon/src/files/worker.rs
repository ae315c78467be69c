//! The process that touches a container's files: one errand, received with its descriptors over standard input, one answer.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    process::ExitCode,
};

use rustix::{
    fs::{Gid, Uid},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use serde::{Deserialize, Serialize};
use supervisor_api::Outgoing;

use super::Trouble;

/// By which this program knows that it is to be that.
pub(crate) const WORKER_ARGUMENT: &str = "--copy-files";

/// With the container's root, the pipe of the archive and, if it has one, its user namespace.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Errand {
    Out {
        path: String,
        follow: bool,
        contents: bool,
    },
    In {
        path: String,
        directory: bool,
        contents: bool,
        keep: bool,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Done { left_out: Vec<String> },
    Failed { kind: Trouble, said: String },
}

/// Does what it is told, in a process that has no thread yet.
pub(crate) fn main() -> ExitCode {
    let socket = rustix::stdio::stdin();
    let Ok(Some((errand, descriptors))) = supervisor_api::receive::<Errand>(socket) else {
        return ExitCode::FAILURE;
    };
    let answer = match run(errand, descriptors) {
        Ok(left_out) => Answer::Done { left_out },
        Err(Failure(kind, said)) => Answer::Failed { kind, said },
    };
    let sent = Outgoing::new(&answer, Vec::new()).map(|answer| answer.send(socket));
    match sent {
        Ok(Ok(())) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

struct Failure(Trouble, String);

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self(Trouble::System, error.to_string())
    }
}

impl From<rustix::io::Errno> for Failure {
    fn from(error: rustix::io::Errno) -> Self {
        io::Error::from(error).into()
    }
}

impl From<copy::Error> for Failure {
    fn from(error: copy::Error) -> Self {
        use copy::Error as E;
        let kind = match &error {
            E::Path { source, .. }
                if source.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) =>
            {
                Trouble::Kind
            }
            E::Path { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => Trouble::NotFound,
                io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => Trouble::Kind,
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    Trouble::Denied
                }
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Trouble::Full,
                _ => Trouble::System,
            },
            E::NoDirectory(_) | E::IsDirectory(_) | E::TooDeep { .. } => Trouble::Kind,
            E::Member(_) | E::SeveralTops | E::Archive(_) => Trouble::Archive,
            E::Write(_) => Trouble::System,
        };
        Self(kind, crate::rpc::chain(&error))
    }
}

fn run(errand: Errand, descriptors: Vec<OwnedFd>) -> Result<Vec<String>, Failure> {
    let mut descriptors = descriptors.into_iter();
    let (Some(root), Some(pipe)) = (descriptors.next(), descriptors.next()) else {
        return Err(Failure(Trouble::System, "descriptors are missing".into()));
    };
    if let Some(namespace) = descriptors.next() {
        enter(&namespace)?;
    }
    // What is made is made as it is asked for.
    rustix::process::umask(rustix::fs::Mode::empty());
    let pipe = File::from(pipe);
    match errand {
        Errand::Out {
            path,
            follow,
            contents,
        } => {
            let source = copy::Source {
                path: path.into(),
                follow,
                contents,
            };
            let buffered = io::BufWriter::with_capacity(256 << 10, pipe);
            Ok(copy::pack(root.as_fd(), &source, buffered)?)
        }
        Errand::In {
            path,
            directory,
            contents,
            keep,
        } => {
            let target = copy::Target {
                path: path.into(),
                directory,
                contents,
                keep,
                owner: Some((0, 0)),
            };
            let buffered = io::BufReader::with_capacity(256 << 10, pipe);
            Ok(copy::unpack(root.as_fd(), &target, buffered)?)
        }
    }
}

/// Owners are then as the container sees them, and what its root may not do, this may not.
fn enter(namespace: &OwnedFd) -> Result<(), rustix::io::Errno> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::User))?;
    // Another order would take the right to do the rest away.
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)
}
