use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, makedev, statat};

use crate::error::{Context, Error, Stage};
use crate::launch::ChildStdio;
use crate::terminal::Terminal;

/// The container's own `/dev/null`, seen from its root, if it is one: the host's lies in no mount of the container, and whoever writes its
/// processes down (CRIU) does not find it.
pub(crate) fn own_null() -> Option<OwnedFd> {
    const NULL: &str = "/dev/null";
    let stat = statat(CWD, NULL, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == makedev(1, 3);
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    is_null.then(|| rustix::fs::open(NULL, flags, Mode::empty()).ok())?
}

/// In the child: puts the streams at 0, 1 and 2, the handshake at 3, and closes everything else, so that neither the wait for the start
/// nor the program holds anything of the caller's. No descriptor made before is valid afterwards; the handshake's new one is returned.
pub(crate) fn settle(
    null: BorrowedFd<'_>,
    stdio: ChildStdio<'_>,
    terminal: Option<&Terminal>,
    socket: BorrowedFd<'_>,
) -> Result<BorrowedFd<'static>, Error> {
    let [stdin, stdout, stderr] = match terminal {
        Some(terminal) => [terminal.slave.as_fd(); 3],
        None => [stdio.stdin, stdio.stdout, stdio.stderr].map(|stream| stream.unwrap_or(null)),
    };
    // Out of the way first: a source may be at a number that another is to get.
    let (stdin, stdout) = (aside(stdin)?, aside(stdout)?);
    let (stderr, socket) = (aside(stderr)?, aside(socket)?);
    for (number, source) in [(0, &stdin), (1, &stdout), (2, &stderr)] {
        sys::place_descriptor(source.as_fd(), number, true)
            .at(Stage::Stdio, format_args!("descriptor {number}"))?;
    }
    let settled = sys::place_descriptor(socket.as_fd(), 3, false)
        .at(Stage::Stdio, "the handshake's descriptor")?;
    drop((stdin, stdout, stderr, socket));
    if terminal.is_some() {
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())
            .at(Stage::Terminal, "(controlling terminal)")?;
    }
    sys::close_from(4).at(Stage::Stdio, "the other descriptors (close)")?;
    Ok(settled)
}

fn aside(source: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    rustix::io::fcntl_dupfd_cloexec(source, 10).at(Stage::Stdio, "the standard streams")
}
