use rustix::io::Errno;

use crate::clone::check;

/// Size of `struct sock_filter`, bytes.
const INSTRUCTION_BYTES: usize = 8;

/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`.
pub(crate) const NEW_LISTENER: u32 = 1 << 3;

/// `struct sock_fprog`.
#[repr(C)]
pub(crate) struct Program {
    length: u16,
    filter: *const u8,
}

impl Program {
    /// `EINVAL` where it cannot be one. It is to be used while `program` lives.
    pub(crate) fn of(program: &[u8]) -> Result<Self, Errno> {
        if program.is_empty() || !program.len().is_multiple_of(INSTRUCTION_BYTES) {
            return Err(Errno::INVAL);
        }
        let length = u16::try_from(program.len() / INSTRUCTION_BYTES);
        Ok(Self {
            length: length.map_err(|_| Errno::INVAL)?,
            filter: program.as_ptr(),
        })
    }
}

/// `seccomp(2)` with SECCOMP_SET_MODE_FILTER: the calling thread's system calls go through `program` from now on, an array of
/// `struct sock_filter` in native byte order. Needs no_new_privs or CAP_SYS_ADMIN.
///
/// # Errors
///
/// `EINVAL` for a program that is empty, longer than 65,535 instructions or no multiple of one, and for flags that return a descriptor.
pub fn load_filter(program: &[u8], flags: u32) -> Result<(), Errno> {
    if flags & NEW_LISTENER != 0 {
        return Err(Errno::INVAL);
    }
    let program = Program::of(program)?;
    // SAFETY: `program` has the layout of `struct sock_fprog`, and its pointer is to `length` instructions that the kernel copies.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    })
}
