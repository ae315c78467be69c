use rustix::io::Errno;

use crate::clone::{CloneFlags, check};

/// `unshare(2)` of namespaces, for the calling thread; other flags are refused with `EINVAL`.
pub fn unshare(flags: CloneFlags) -> Result<(), Errno> {
    const NAMESPACES: u64 = (libc::CLONE_NEWNS
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWCGROUP) as u64;
    if flags.bits() & !(NAMESPACES | CloneFlags::NEWTIME.bits()) != 0 {
        return Err(Errno::INVAL);
    }
    // SAFETY: no memory is passed; namespaces alone change, not the descriptor table that other code might rely on.
    check(unsafe { libc::syscall(libc::SYS_unshare, flags.bits()) })
}
