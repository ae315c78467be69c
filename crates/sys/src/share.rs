//! A child that borrows its parent's memory for its way to `execve(2)`.

use std::ffi::c_void;

use rustix::io::Errno;

use crate::clone::CloneArgs;

/// What the child runs. It must end in `execve(2)` or `_exit(2)`.
pub(crate) type Errand = extern "C" fn(*const c_void) -> !;

/// `clone3(2)` like `vfork(2)`: the child runs `errand` on a stack of its own in the caller's memory, of which nothing is copied, and the caller
/// goes on once the child has run another program or ended. Returns the child's number.
///
/// # Safety
///
/// All signals are blocked, so that no handler runs in the child. `errand` may read what `argument` points to, and make system calls. It takes no
/// lock, allocates nothing, owns nothing that is dropped, and leaves the C library's state alone, `errno` aside.
///
/// # Errors
///
/// What the kernel says.
pub(crate) unsafe fn clone_sharing_memory(
    args: &mut CloneArgs,
    errand: Errand,
    argument: *const c_void,
) -> Result<i32, Errno> {
    // SAFETY: the caller vouches for `errand`.
    let result = unsafe { clone_and_run(args, errand, argument) };
    match i32::try_from(result) {
        Ok(pid @ 1..) => Ok(pid),
        Ok(error) => Err(Errno::from_raw_os_error(-error)),
        Err(_) => Err(Errno::IO),
    }
}

/// Returns, in the parent, what the kernel returns.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
unsafe fn clone_and_run(args: &mut CloneArgs, errand: Errand, argument: *const c_void) -> isize {
    use std::mem::MaybeUninit;
    /// The child's stack, a part of its parent's. No page of it is touched before it is needed; an unoptimized child's way takes 2 KiB.
    #[repr(C, align(16))]
    struct Stack([MaybeUninit<u8>; 32 * 1024]);
    let mut stack = Stack([MaybeUninit::uninit(); _]);
    args.share_memory(stack.0.as_mut_ptr() as u64, size_of::<Stack>() as u64);
    // SAFETY: `args` is a valid `struct clone_args`. CLONE_VFORK suspends the caller until the child is done with this memory, so `args`, `stack` and
    // what the caller has borrowed outlive its use of them. The caller vouches for `errand`.
    unsafe { clone_onto_stack(args, errand, argument) }
}

/// Elsewhere the child has a copy, like that of `fork(2)`: slower, and otherwise the same.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn clone_and_run(args: &mut CloneArgs, errand: Errand, argument: *const c_void) -> isize {
    // SAFETY: `args` is a valid `struct clone_args` of the size given, and without CLONE_VM or a stack the child runs on its own copy of this
    // stack. Locks that other threads hold stay locked in the copy; `errand` takes none.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut *args, size_of::<CloneArgs>()) };
    match result {
        0 => errand(argument),
        -1 => -(crate::clone::last_error().raw_os_error() as isize),
        pid => pid as isize,
    }
}

/// The child must not return: the frames above are its parent's. So it calls `errand` from here, where it has but registers.
#[cfg(target_arch = "x86_64")]
unsafe fn clone_onto_stack(args: &CloneArgs, errand: Errand, argument: *const c_void) -> isize {
    let result: isize;
    // SAFETY: the system call clobbers rax, rcx and r11. The child has an empty, aligned stack, and never comes to the label.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, {argument}",
            "call {errand}",
            "ud2",
            "2:",
            errand = in(reg) errand,
            argument = in(reg) argument,
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") args,
            in("rsi") size_of::<CloneArgs>(),
            out("rcx") _,
            out("r11") _,
        );
    }
    result
}

#[cfg(target_arch = "aarch64")]
unsafe fn clone_onto_stack(args: &CloneArgs, errand: Errand, argument: *const c_void) -> isize {
    let result: isize;
    // SAFETY: the system call clobbers x0. The child has an empty, aligned stack, and never comes to the label.
    unsafe {
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, {argument}",
            "blr {errand}",
            "brk #1",
            "2:",
            errand = in(reg) errand,
            argument = in(reg) argument,
            inlateout("x0") args => result,
            in("x1") size_of::<CloneArgs>(),
            in("x8") libc::SYS_clone3,
        );
    }
    result
}
