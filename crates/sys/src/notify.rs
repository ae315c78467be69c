use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::clone::{check, last_error};
use crate::seccomp::{NEW_LISTENER, Program};

/// `_IOWR('!', 0, struct seccomp_notif)`.
const RECEIVE: libc::Ioctl = 0xc050_2100_u32 as libc::Ioctl;
/// `_IOWR('!', 1, struct seccomp_notif_resp)`.
const SEND: libc::Ioctl = 0xc018_2101_u32 as libc::Ioctl;

/// A system call that waits for its answer: `struct seccomp_notif`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Notification {
    /// Names the call until it is answered, or its process is gone.
    pub id: u64,
    /// The thread, in this process's PID namespace; 0 if it is not in there.
    pub pid: u32,
    flags: u32,
    /// `struct seccomp_data`: number and architecture, address, and arguments.
    pub data: [u32; 16],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Answer {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// As [`load_filter`](crate::load_filter), but calls for which the program returns `SECCOMP_RET_USER_NOTIF` wait for who holds the
/// descriptor that is returned, which closes at `execve(2)`. Once nobody holds it they fail with ENOSYS.
///
/// # Errors
///
/// As for `load_filter`. `EBUSY`: an earlier filter of the process has a listener.
pub fn load_filter_listening(program: &[u8], flags: u32) -> Result<OwnedFd, Errno> {
    let program = Program::of(program)?;
    // SAFETY: `program` has the layout of `struct sock_fprog`, and its pointer is to `length` instructions that the kernel copies.
    let listener = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags | NEW_LISTENER,
            &raw const program,
        )
    };
    match i32::try_from(listener) {
        // SAFETY: the kernel has just made it for this process, and nobody else knows it.
        Ok(listener) if listener >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(listener) }),
        Ok(_) | Err(_) => Err(last_error()),
    }
}

/// The next call that waits. Does not block where the descriptor polls as readable.
///
/// # Errors
///
/// `ENOENT`: its process has been killed meanwhile.
pub fn receive_notification(listener: BorrowedFd<'_>) -> Result<Notification, Errno> {
    let mut notification = Notification::default();
    // SAFETY: the request is for this structure, whose layout is the kernel's and which is all zeros, as the kernel demands.
    check(libc::c_long::from(unsafe {
        libc::ioctl(listener.as_raw_fd(), RECEIVE, &raw mut notification)
    }))?;
    Ok(notification)
}

/// Has a call that waits fail with this number; 0 has it do nothing and return 0.
///
/// # Errors
///
/// `ENOENT`: its process is gone, or a signal has interrupted the call.
pub fn refuse_call(listener: BorrowedFd<'_>, id: u64, error: u16) -> Result<(), Errno> {
    let answer = Answer {
        id,
        value: 0,
        error: -i32::from(error),
        flags: 0,
    };
    // SAFETY: the request is for this structure, whose layout is the kernel's, and which it only reads.
    check(libc::c_long::from(unsafe {
        libc::ioctl(listener.as_raw_fd(), SEND, &raw const answer)
    }))
}
