use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::clone::{check, last_error};

/// Makes `number` name what `descriptor` names, closing what `number` named; inherited by programs where `inherited`.
///
/// For the child of a clone on its way to `execve(2)`, where numbers are the interface: whoever owned `number` in this process must not use it
/// afterwards. Numbers above 255 are refused with `EBADF`.
pub fn place_descriptor(
    descriptor: BorrowedFd<'_>,
    number: i32,
    inherited: bool,
) -> Result<BorrowedFd<'static>, Errno> {
    if !(0..=255).contains(&number) {
        return Err(Errno::BADF);
    }
    let flags = match inherited {
        true => 0,
        false => libc::O_CLOEXEC,
    };
    if descriptor.as_raw_fd() == number {
        let flag = match inherited {
            true => rustix::io::FdFlags::empty(),
            false => rustix::io::FdFlags::CLOEXEC,
        };
        rustix::io::fcntl_setfd(descriptor, flag)?;
    } else {
        // SAFETY: `dup3(2)` touches no memory; that `number` changes its meaning is what the caller asks for.
        check(unsafe { libc::syscall(libc::SYS_dup3, descriptor.as_raw_fd(), number, flags) })?;
    }
    // SAFETY: `number` is open, not −1, and from now on the program's: nothing here owns or closes it.
    Ok(unsafe { BorrowedFd::borrow_raw(number) })
}

/// Closes every descriptor from `first` on (`close_range(2)`).
///
/// For the child of a clone on its way to `execve(2)`: values that own such descriptors must not be dropped or used afterwards.
pub fn close_from(first: u32) -> Result<(), Errno> {
    // SAFETY: `close_range(2)` touches no memory; that descriptors vanish is what the caller asks for.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) })
}

/// As [`close_from`], but spares one descriptor.
pub fn close_from_except(first: u32, spared: BorrowedFd<'_>) -> Result<(), Errno> {
    let spared = spared.as_raw_fd().unsigned_abs();
    if spared > first {
        // SAFETY: as in `close_from`.
        check(unsafe { libc::syscall(libc::SYS_close_range, first, spared - 1, 0) })?;
    }
    close_from(first.max(spared + 1))
}

/// A copy of a descriptor that this process was started with, for protocols that name descriptors by their numbers
/// (`sd_listen_fds(3)`). Copy and original are close-on-exec from now on. `EBADF` if there is none.
pub fn inherited_descriptor(number: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: `fcntl(2)` with F_SETFD touches no memory, and a number that is not open is refused.
    check(unsafe { libc::syscall(libc::SYS_fcntl, number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: `fcntl(2)` with F_DUPFD_CLOEXEC touches no memory.
    let copy = unsafe { libc::syscall(libc::SYS_fcntl, number, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(last_error());
    }
    // SAFETY: the kernel has just returned it, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy as i32) })
}
