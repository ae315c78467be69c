//! Terminals: the master goes to whoever asked for it.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, ensure};
use rustix::fs::OFlags;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};

/// `--console-socket` goes with a terminal that nobody here stays to serve, and with no other.
pub(crate) fn check(socket: Option<&Path>, terminal: bool, detached: bool) -> anyhow::Result<()> {
    let asked = socket.is_some();
    ensure!(
        !terminal || !detached || asked,
        "process.terminal needs --console-socket, as this command does not stay"
    );
    ensure!(
        !asked || (terminal && detached),
        "--console-socket needs process.terminal, and a command that does not stay"
    );
    Ok(())
}

/// One message with the descriptor, over a connection made for it.
pub(crate) fn send(master: &OwnedFd, socket: &Path) -> anyhow::Result<()> {
    // A caller may read it as it likes; the core's is its own.
    set_blocking(master.as_fd())?;
    let connection = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let address = SocketAddrUnix::new(socket)
        .with_context(|| format!("--console-socket {}", socket.display()))?;
    rustix::net::connect(&connection, &address)
        .with_context(|| format!("connect to {}", socket.display()))?;
    let descriptors = [master.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    ensure!(
        control.push(SendAncillaryMessage::ScmRights(&descriptors)),
        "no room for a descriptor"
    );
    let name = [IoSlice::new(b"/dev/ptmx")];
    rustix::net::sendmsg(&connection, &name, &mut control, SendFlags::NOSIGNAL)
        .with_context(|| format!("send the terminal to {}", socket.display()))?;
    Ok(())
}

fn set_blocking(master: BorrowedFd<'_>) -> anyhow::Result<()> {
    let flags = rustix::fs::fcntl_getfl(master)?;
    rustix::fs::fcntl_setfl(master, flags - OFlags::NONBLOCK)?;
    Ok(())
}
