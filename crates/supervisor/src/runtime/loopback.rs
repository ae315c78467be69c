use std::os::fd::{AsFd, BorrowedFd};

use oci_runtime::Host;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST_ACK: u16 = 1 | 4;
const IFF_UP: u32 = 1;

/// A network namespace's first interface is its loopback.
const LOOPBACK: i32 = 1;

/// Brings the loopback interface of a new network namespace up. The calling thread, the only one, visits the namespace for that.
pub(super) fn bring_up(host: &Host, network: BorrowedFd<'_>) -> Result<(), Errno> {
    let own = rustix::fs::openat(
        host.proc(),
        "self/ns/net",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    move_into_link_name_space(network, Some(LinkNameSpaceType::Network))?;
    let done = set_up();
    move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Network))?;
    done
}

/// One `struct nlmsghdr` and one `struct ifinfomsg`; the answer is a `struct nlmsgerr`.
fn set_up() -> Result<(), Errno> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // NETLINK_ROUTE is protocol 0.
        None,
    )?;
    let mut message = Vec::with_capacity(32);
    message.extend_from_slice(&32_u32.to_ne_bytes());
    message.extend_from_slice(&RTM_NEWLINK.to_ne_bytes());
    message.extend_from_slice(&NLM_F_REQUEST_ACK.to_ne_bytes());
    // Sequence and sender, then family and type.
    message.extend_from_slice(&[0; 12]);
    message.extend_from_slice(&LOOPBACK.to_ne_bytes());
    message.extend_from_slice(&IFF_UP.to_ne_bytes());
    message.extend_from_slice(&IFF_UP.to_ne_bytes());
    send(&socket, &message, SendFlags::empty())?;
    let mut answer = [0_u8; 64];
    let (length, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
    match answer[..length].get(16..20) {
        Some(&[a, b, c, d]) => match i32::from_ne_bytes([a, b, c, d]) {
            0 => Ok(()),
            error => Err(Errno::from_raw_os_error(-error)),
        },
        _ => Err(Errno::BADMSG),
    }
}
