use rustix::io::Errno;

use crate::clone::last_error;

/// `KEYCTL_JOIN_SESSION_KEYRING` of `keyctl(2)`.
const JOIN_SESSION_KEYRING: libc::c_ulong = 1;

/// Gives the process a new, empty session keyring, so that it no longer possesses the keys of the one that it inherited. A kernel without
/// keyrings has none to leave.
pub fn leave_session_keyring() -> Result<(), Errno> {
    let anonymous = std::ptr::null::<libc::c_char>();
    // SAFETY: a null name asks for an anonymous keyring; nothing is read or written.
    let serial = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, anonymous) };
    match serial {
        -1 => match last_error() {
            Errno::NOSYS => Ok(()),
            error => Err(error),
        },
        _ => Ok(()),
    }
}
