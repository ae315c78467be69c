use rustix::io::Errno;

use crate::clone::check;

/// `set_mempolicy(2)`: from which nodes the calling thread, and what it becomes and forks, gets its memory. `mode` is `MPOL_*` with its flags;
/// bit `n` of `nodes` is node `n`. One that the kernel does not know, or may not give, is `EINVAL`.
pub fn set_memory_policy(mode: u32, nodes: &[u64]) -> Result<(), Errno> {
    // The kernel takes one off again.
    let bits = nodes.len() * u64::BITS as usize + 1;
    let mask = match nodes {
        [] => std::ptr::null(),
        nodes => nodes.as_ptr(),
    };
    // SAFETY: `mask` has as many bits as the kernel is told, less the one that it takes off; with none it is null, which means no nodes.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) })
}
