use rustix::io::Errno;

use crate::clone::check;

/// `personality(2)`: how the kernel behaves towards the calling thread and what it becomes.
pub fn set_personality(persona: u32) -> Result<(), Errno> {
    // SAFETY: a number, and no memory.
    let previous = unsafe { libc::syscall(libc::SYS_personality, libc::c_ulong::from(persona)) };
    check(previous.min(0))
}
