use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, makedev, statat};

use crate::error::{Context, Error, Stage};
use crate::launch::ChildStdio;
use crate::launch::Standalone;
use crate::terminal::Terminal;

/// Where they are after [`settle`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settled {
    pub(crate) handshake: BorrowedFd<'static>,
    pub(crate) gate: Option<BorrowedFd<'static>>,
}

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
    alone: Standalone<'_>,
) -> Result<Settled, Error> {
    let first = 3 + i32::try_from(alone.preserved).unwrap_or(0);
    let aside = |source| aside(source, first + 4);
    let [stdin, stdout, stderr] = match terminal {
        Some(terminal) => [terminal.slave.as_fd(); 3],
        None => [stdio.stdin, stdio.stdout, stdio.stderr].map(|stream| stream.unwrap_or(null)),
    };
    // Out of the way first: a source may be at a number that another is to get.
    let (stdin, stdout) = (aside(stdin)?, aside(stdout)?);
    let (stderr, socket) = (aside(stderr)?, aside(socket)?);
    let gate = alone.gate.map(aside).transpose()?;
    for (number, source) in [(0, &stdin), (1, &stdout), (2, &stderr)] {
        sys::place_descriptor(source.as_fd(), number, true)
            .at(Stage::Stdio, format_args!("descriptor {number}"))?;
    }
    let handshake = sys::place_descriptor(socket.as_fd(), first, false)
        .at(Stage::Stdio, "the handshake's descriptor")?;
    let placed = gate
        .as_ref()
        .map(|gate| sys::place_descriptor(gate.as_fd(), first + 1, false))
        .transpose()
        .at(Stage::Stdio, "the gate's descriptor")?;
    drop((stdin, stdout, stderr, socket, gate));
    if terminal.is_some() {
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())
            .at(Stage::Terminal, "(controlling terminal)")?;
    }
    let rest = first.unsigned_abs() + 1 + u32::from(placed.is_some());
    sys::close_from(rest).at(Stage::Stdio, "the other descriptors (close)")?;
    Ok(Settled {
        handshake,
        gate: placed,
    })
}

/// Above what is about to be replaced.
fn aside(source: BorrowedFd<'_>, least: i32) -> Result<OwnedFd, Error> {
    rustix::io::fcntl_dupfd_cloexec(source, least.max(10)).at(Stage::Stdio, "the standard streams")
}
