use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

/// `CLONE_*` of `clone(2)`, those that make sense for a new process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CloneFlags(u64);

impl CloneFlags {
    pub const NEWNS: Self = Self(libc::CLONE_NEWNS as u64);
    pub const NEWUTS: Self = Self(libc::CLONE_NEWUTS as u64);
    pub const NEWIPC: Self = Self(libc::CLONE_NEWIPC as u64);
    pub const NEWUSER: Self = Self(libc::CLONE_NEWUSER as u64);
    pub const NEWPID: Self = Self(libc::CLONE_NEWPID as u64);
    pub const NEWNET: Self = Self(libc::CLONE_NEWNET as u64);
    pub const NEWCGROUP: Self = Self(libc::CLONE_NEWCGROUP as u64);
    /// Of `unshare(2)` alone: `clone3(2)` would take it for its children only.
    pub const NEWTIME: Self = Self(0x80);
    /// The child's parent is the caller's parent.
    pub const PARENT: Self = Self(libc::CLONE_PARENT as u64);

    #[must_use]
    pub const fn empty() -> Self {
        Self(0)
    }

    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }
}

/// Which side of a clone this is.
#[derive(Debug)]
pub enum Clone {
    Parent { pid: i32, pidfd: OwnedFd },
    Child,
}

/// The `libc` crate's constant is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args` as of Linux 5.7, which added `cgroup`.
#[repr(C, align(8))]
#[derive(Default)]
pub(crate) struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

impl CloneArgs {
    /// A new process, born in `cgroup` where that is given, whose descriptor goes to `pidfd`.
    pub(crate) fn new(
        flags: CloneFlags,
        pidfd: &mut libc::c_int,
        cgroup: Option<BorrowedFd<'_>>,
    ) -> Self {
        let mut args = Self {
            flags: flags.bits() | libc::CLONE_PIDFD as u64,
            pidfd: std::ptr::from_mut(pidfd) as u64,
            // A sibling inherits the signal of the caller, and the kernel refuses another.
            exit_signal: match flags.contains(CloneFlags::PARENT) {
                true => 0,
                false => libc::SIGCHLD as u64,
            },
            ..Self::default()
        };
        if let Some(cgroup) = cgroup {
            args.flags |= CLONE_INTO_CGROUP;
            args.cgroup = cgroup.as_raw_fd() as u64;
        }
        args
    }

    /// As with `vfork(2)`: the child uses the caller's memory, and this part of it as its stack, while the caller waits.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    pub(crate) fn share_memory(&mut self, stack: u64, bytes: u64) {
        self.flags |= (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
        self.stack = stack;
        self.stack_size = bytes;
    }
}

/// `clone3(2)` like `fork(2)`: the child has a copy of the memory and goes on where the caller was. It is born in `cgroup` (a
/// directory of a cgroup2 file system) where that is given, and its parent gets SIGCHLD when it ends.
///
/// # Errors
///
/// `EDEADLK` where the caller has other threads: the copy could hold their locks for ever. Else what the kernel says.
pub fn clone_process(flags: CloneFlags, cgroup: Option<BorrowedFd<'_>>) -> Result<Clone, Errno> {
    only_thread()?;
    let mut pidfd: libc::c_int = -1;
    let mut args = CloneArgs::new(flags, &mut pidfd, cgroup);
    // SAFETY: `args` is a valid `struct clone_args` of the size given, and without CLONE_VM or a stack the child runs on its own copy of
    // this stack. The caller is the only thread, so no lock is held by a thread that the copy lacks.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut args,
            std::mem::size_of::<CloneArgs>(),
        )
    };
    match pid {
        -1 => Err(last_error()),
        0 => Ok(Clone::Child),
        pid => {
            // SAFETY: the kernel has stored a new descriptor, which nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Clone::Parent {
                pid: pid as i32,
                pidfd,
            })
        }
    }
}

/// Makes a panic end this process at once. For the child of [`clone_process`]: its C library believes that it is still the parent, and
/// `abort(3)` would send SIGABRT to the parent's thread.
pub fn exit_at_panic() {
    std::panic::set_hook(Box::new(|_| exit_process(101)));
}

/// Ends the process without running exit handlers or destructors, which belong to the parent.
pub fn exit_process(status: i32) -> ! {
    // SAFETY: `_exit(2)` takes any status and touches no memory.
    unsafe { libc::_exit(status) }
}

/// `unshare(2)` refuses CLONE_THREAD to a process with several threads and does nothing for one with one.
fn only_thread() -> Result<(), Errno> {
    // SAFETY: no memory is passed, and the flag changes nothing.
    match unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_THREAD) } {
        0 => Ok(()),
        _ => Err(Errno::DEADLK),
    }
}

pub(crate) fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// The result of a system call that answers 0 or −1.
pub(crate) fn check(result: libc::c_long) -> Result<(), Errno> {
    match result {
        -1 => Err(last_error()),
        _ => Ok(()),
    }
}
