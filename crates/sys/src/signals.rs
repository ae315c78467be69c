use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::clone::{check, last_error};

/// The highest signal number.
const LAST: i32 = 64;

/// A set of signals, in the kernel's own shape: bit `n − 1` is signal `n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Signals(u64);

impl Signals {
    /// Numbers outside 1 to 64 are left out.
    #[must_use]
    pub fn of(numbers: &[i32]) -> Self {
        Self(
            numbers
                .iter()
                .filter(|number| (1..=LAST).contains(number))
                .fold(0, |set, number| set | 1 << (number - 1)),
        )
    }

    #[must_use]
    pub const fn none() -> Self {
        Self(0)
    }

    pub(crate) const fn all() -> Self {
        Self(u64::MAX)
    }
}

/// `struct sigaction` as the kernel has it, with the default action.
#[repr(C)]
#[derive(Default)]
struct DefaultAction {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

/// Gives every signal its default action and unblocks all: what a fresh program expects. Handlers would not survive `execve(2)`, but
/// ignored signals do (Rust programs ignore SIGPIPE).
pub fn reset_signals() -> Result<(), Errno> {
    let action = DefaultAction::default();
    let old = std::ptr::null_mut::<DefaultAction>();
    for number in (1..=LAST).filter(|number| ![libc::SIGKILL, libc::SIGSTOP].contains(number)) {
        // SAFETY: `action` begins with the kernel's `struct sigaction` of every architecture (all zero: SIG_DFL), the mask's size is that of 64
        // signals, and a null old action is allowed.
        check(unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                &raw const action,
                old,
                size_of::<u64>(),
            )
        })?;
    }
    set_mask(libc::SIG_SETMASK, Signals::none())
}

/// Blocks these signals for the calling thread, beside those that it blocks already.
pub fn block_signals(signals: Signals) -> Result<(), Errno> {
    set_mask(libc::SIG_BLOCK, signals)
}

fn set_mask(how: libc::c_int, signals: Signals) -> Result<(), Errno> {
    change_mask(how, signals).map(drop)
}

/// Blocks exactly these signals for the calling thread; returns what was blocked before.
pub(crate) fn replace_mask(signals: Signals) -> Result<Signals, Errno> {
    change_mask(libc::SIG_SETMASK, signals)
}

fn change_mask(how: libc::c_int, signals: Signals) -> Result<Signals, Errno> {
    let mut old = Signals::none();
    // SAFETY: both sets are 64-bit masks of the size given, and the old one may be written.
    check(unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            how,
            &raw const signals.0,
            &raw mut old.0,
            size_of::<u64>(),
        )
    })?;
    Ok(old)
}

/// `signalfd(2)`, non-blocking and close-on-exec. Block the signals as well.
pub fn signal_descriptor(signals: Signals) -> Result<OwnedFd, Errno> {
    // SAFETY: the set is a 64-bit mask of the size given, and −1 asks for a new descriptor.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_signalfd4,
            -1,
            &raw const signals.0,
            size_of::<u64>(),
            libc::SFD_NONBLOCK | libc::SFD_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(last_error());
    }
    // SAFETY: the kernel has just returned it, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The number of the next signal that a [`signal_descriptor`] holds; `None` where there is none.
pub fn receive_signal(descriptor: BorrowedFd<'_>) -> Result<Option<i32>, Errno> {
    // `struct signalfd_siginfo`; its first field, `ssi_signo`, is all that is wanted.
    let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
    debug_assert!(descriptor.as_raw_fd() >= 0);
    match rustix::io::read(descriptor, &mut info) {
        Ok(count) if count == info.len() => {
            let number = u32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
            Ok(i32::try_from(number).ok())
        }
        Ok(_) | Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The signal of a number, also of the real-time ones; `None` for numbers that are none, and for 32 and 33, which the C library keeps to
/// itself.
#[must_use]
pub fn signal_from_number(number: i32) -> Option<rustix::process::Signal> {
    if !(1..=31).contains(&number) && !(34..=LAST).contains(&number) {
        return None;
    }
    // SAFETY: it is a signal of the kernel's, and not one that the C library reserves.
    Some(unsafe { rustix::process::Signal::from_raw_unchecked(number) })
}
