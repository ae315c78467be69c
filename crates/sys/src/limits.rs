use rustix::io::Errno;

use crate::clone::check;

/// A resource limit; `u64::MAX` is unlimited.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limit {
    pub soft: u64,
    pub hard: u64,
}

/// `prlimit64(2)` by the kernel's number of the resource. Process 0 is the caller.
pub fn set_limit(pid: i32, resource: u32, limit: Limit) -> Result<(), Errno> {
    let old = std::ptr::null_mut::<Limit>();
    // SAFETY: `limit` has the layout of `struct rlimit64` and outlives the call; a null old limit is allowed.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, &raw const limit, old) })
}

/// The present limit. Process 0 is the caller.
pub fn get_limit(pid: i32, resource: u32) -> Result<Limit, Errno> {
    let mut limit = Limit::default();
    let new = std::ptr::null::<Limit>();
    // SAFETY: `limit` has the layout of `struct rlimit64` and may be written; a null new limit is allowed.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, new, &raw mut limit) })?;
    Ok(limit)
}
