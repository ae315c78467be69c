use std::os::fd::{AsFd, OwnedFd};

use oci_plan::{TerminalSize, User};
use rustix::fs::{OFlags, ResolveFlags, fstatfs};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use rustix::thread::Uid;

use crate::error::{Context, Error, Stage};
use crate::rootfs::{Leaf, Root, attach};

/// `DEVPTS_SUPER_MAGIC` of `linux/magic.h`.
const DEVPTS: rustix::fs::FsWord = 0x1cd1;

/// A pseudo-terminal of the container's own devpts.
#[derive(Debug)]
pub(crate) struct Terminal {
    /// Non-blocking.
    pub(crate) master: OwnedFd,
    pub(crate) slave: OwnedFd,
}

/// Opens one that belongs to the user, as the container's root.
pub(crate) fn open(root: &Root<'_>, size: TerminalSize, user: &User) -> Result<Terminal, Error> {
    let path = "/dev/pts/ptmx";
    // What is there may be a container's doing by the time of an exec: a FIFO would block, a link would lead elsewhere.
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK;
    let master = root
        .open(path, flags, ResolveFlags::NO_SYMLINKS)
        .at(Stage::Terminal, path)?;
    if fstatfs(&master).at(Stage::Terminal, path)?.f_type != DEVPTS {
        return Err(Errno::NOTTY).at(Stage::Terminal, format_args!("{path} (it is no devpts)"));
    }
    rustix::pty::unlockpt(&master).at(Stage::Terminal, "(unlock)")?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).at(Stage::Terminal, "(slave)")?;
    let size = Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&master, size).at(Stage::Terminal, "(size)")?;
    rustix::fs::fchown(&slave, Some(Uid::from_raw(user.uid)), None)
        .at(Stage::Terminal, "(owner)")?;
    Ok(Terminal { master, slave })
}

/// Makes the terminal the container's `/dev/console`.
pub(crate) fn mount_console(root: &Root<'_>, terminal: &Terminal) -> Result<(), Error> {
    let path = "/dev/console";
    let place = root
        .ensure(path, Leaf::File, None)
        .at(Stage::MountPoint, path)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(&terminal.slave, "", flags)
        .and_then(|console| attach(console.as_fd(), place.as_fd()))
        .at(Stage::Mount, format_args!("the terminal on {path}"))
}

impl Terminal {
    pub(crate) fn master_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.master.as_fd()
    }
}
