//! `longshore-pod --path`: looks at one path for the daemon, which may wait for ever for a file server that has gone. The daemon kills
//! this process then; nothing of its own hangs, and nobody else waits.

mod nodes;
mod relabel;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FsWord, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::{Signal, set_parent_process_death_signal};
use supervisor_api::{Outgoing, PathAnswer, PathRequest};

use crate::start::StartError;

/// Answers the request on standard input. Ends with the daemon.
pub(crate) fn answer() -> Result<(), StartError> {
    let at = |what: &'static str| move |error: Errno| StartError::new(what, error);
    sys::close_from(3).map_err(at("close inherited descriptors"))?;
    rustix::thread::set_name(c"longshore-path").map_err(at("set the process's name"))?;
    // A daemon that died before this has closed the socket, which ends us as well.
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(at("ask to end with the daemon"))?;
    let socket = rustix::stdio::stdin();
    let request = supervisor_api::receive(socket)
        .map_err(|error| StartError::new("receive the request", error))?;
    let Some((request, _)) = request else {
        return Ok(());
    };
    let (answer, descriptors) = look(&request);
    Outgoing::new(&answer, descriptors)
        .map_err(|error| StartError::new("prepare the answer", error))?
        .send(socket)
        .map_err(at("send the answer"))
}

fn look(request: &PathRequest) -> (PathAnswer, Vec<OwnedFd>) {
    let opened = match request {
        PathRequest::Tree { path, recursive } => tree(path, *recursive),
        PathRequest::Name { path } => name(path),
        PathRequest::Log { path } => log(path),
        PathRequest::Text { path, most } => return (text(path, *most), Vec::new()),
        PathRequest::Nodes { paths } => return (nodes::find(paths), Vec::new()),
        PathRequest::Relabel { path, label } => {
            let answer = match relabel::relabel(path, label) {
                Ok(()) => PathAnswer::Relabelled,
                Err((path, error)) => PathAnswer::NotRelabelled {
                    path,
                    errno: error.raw_os_error(),
                },
            };
            return (answer, Vec::new());
        }
        PathRequest::Directory { path } => make_directory(path).and_then(|()| name(path)),
    };
    match opened {
        Ok(descriptor) => {
            let local = local_device(&descriptor);
            (PathAnswer::Opened { local }, vec![descriptor])
        }
        Err(error) => (PathAnswer::Failed(error.raw_os_error()), Vec::new()),
    }
}

fn tree(path: &Path, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = open_tree(CWD, path, flags)?;
    // The root of a mount is in memory even if its server has gone.
    rustix::fs::statx(
        &tree,
        "",
        AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC,
        StatxFlags::BASIC_STATS,
    )?;
    Ok(tree)
}

fn name(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

fn log(path: &Path) -> Result<OwnedFd, Errno> {
    let open = || {
        // O_NONBLOCK: a FIFO in the log's place must not wait for a reader.
        let flags =
            OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::from_raw_mode(0o640))
    };
    match (open(), path.parent()) {
        (Err(Errno::NOENT), Some(directory)) => {
            make_directory(directory)?;
            open()
        }
        (result, _) => result,
    }
}

fn make_directory(path: &Path) -> Result<(), Errno> {
    let mut make = std::fs::DirBuilder::new();
    make.recursive(true).mode(0o755);
    make.create(path).map_err(errno)
}

fn text(path: &Path, most: u64) -> PathAnswer {
    match read(path, most) {
        Ok(Some(bytes)) => PathAnswer::Text(bytes),
        Ok(None) => PathAnswer::NotAText,
        Err(error) => PathAnswer::Failed(errno(error).raw_os_error()),
    }
}

fn read(path: &Path, most: u64) -> std::io::Result<Option<Vec<u8>>> {
    // Without O_NONBLOCK, a pipe in the file's place would wait for a writer.
    let nonblock = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options()
        .read(true)
        .custom_flags(nonblock)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= most).then_some(bytes))
}

/// File systems whose answers come from this machine alone (`statfs(2)`).
const LOCAL: [u32; 11] = [
    0xEF53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683E, // btrfs
    0x0102_1994, // tmpfs
    0x794c_7630, // overlay
    0x8584_58f6, // ramfs
    0xF2F5_2010, // f2fs
    0x2FC1_2FC1, // zfs
    0xCA45_1A4E, // bcachefs
    0x7371_7368, // squashfs
    0x9660,      // iso9660
];

fn local_device(file: &OwnedFd) -> Option<u64> {
    let kind = rustix::fs::fstatfs(file).ok()?.f_type;
    let local = LOCAL.iter().any(|magic| FsWord::from(*magic) == kind);
    local
        .then(|| rustix::fs::fstat(file.as_fd()).ok().map(|stat| stat.st_dev))
        .flatten()
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
