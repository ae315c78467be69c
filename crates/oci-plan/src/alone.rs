//! What only a plan may ask for that is executed by the process that made it: the command line's. None of it crosses a socket but the memory
//! policy, which travels beside the plan; whoever makes plans for another process refuses the others (`spec::Reach`).

use serde::{Deserialize, Serialize};

use sys::Scheduling;

/// Of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Alone {
    /// NIS domain, set in the UTS namespace.
    pub domainname: Option<String>,
    /// A time namespace of the container's own, with these offsets.
    pub time: Option<Vec<ClockOffset>>,
    /// An existing one.
    pub time_namespace: Option<crate::FdSlot>,
    /// An existing mount namespace, whose root becomes the container's.
    pub mount_namespace: Option<crate::FdSlot>,
}

/// One line of `timens_offsets`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClockOffset {
    /// `monotonic` or `boottime`.
    pub clock: String,
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// How a process lives with others, of init and of an exec.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Habits {
    /// As `personality(2)` takes it.
    pub personality: Option<u32>,
    pub scheduling: Option<Scheduling>,
    /// Class (1 real time, 2 best effort, 3 idle) and level, 0 to 7.
    pub io_priority: Option<(u8, u8)>,
    /// Travels as [labels](crate::Labels) do.
    pub memory_policy: Option<MemoryPolicy>,
}

/// From which nodes of the machine a process gets its memory, as `set_mempolicy(2)` takes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPolicy {
    /// `MPOL_*`, with its flags.
    pub mode: u32,
    /// Bit `n` is node `n`. Empty: none.
    pub nodes: Vec<u64>,
}
