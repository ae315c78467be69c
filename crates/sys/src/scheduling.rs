use rustix::io::Errno;

use crate::clone::check;

/// How a process is scheduled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scheduling {
    /// `SCHED_OTHER` is 0.
    pub policy: u32,
    /// SCHED_FLAG_*.
    pub flags: u64,
    pub nice: i32,
    /// Of `SCHED_FIFO` and `SCHED_RR`, 1 to 99.
    pub priority: u32,
    /// Of `SCHED_DEADLINE`, nanoseconds, as the two below.
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

/// `struct sched_attr`, in its first version.
#[repr(C)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// `sched_setattr(2)`. Process 0 is the caller; what it forks has the same.
pub fn set_scheduling(pid: i32, scheduling: Scheduling) -> Result<(), Errno> {
    let attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        policy: scheduling.policy,
        flags: scheduling.flags,
        nice: scheduling.nice,
        priority: scheduling.priority,
        runtime: scheduling.runtime,
        deadline: scheduling.deadline,
        period: scheduling.period,
    };
    let flags = 0_u32;
    // SAFETY: `attributes` has the layout of `struct sched_attr`, says its own size, and outlives the call.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, pid, &raw const attributes, flags) })
}

/// `ioprio_set(2)` of one process. Class 1 is real time, 2 best effort, 3 idle; level 0, the first to be served, to 7.
pub fn set_io_priority(pid: i32, class: u8, level: u8) -> Result<(), Errno> {
    const WHO_PROCESS: i32 = 1;
    const CLASS_SHIFT: u32 = 13;
    let priority = (u32::from(class) << CLASS_SHIFT) | u32::from(level);
    // SAFETY: three numbers, and no memory.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, pid, priority) })
}
