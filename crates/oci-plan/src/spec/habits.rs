//! How a process lives with others, in the kernel's numbers.

use oci_spec::runtime::{
    IOPriorityClass, LinuxIOPriority, LinuxSchedulerFlag as Flag, LinuxSchedulerPolicy as Policy,
    Process, Scheduler,
};
use sys::Scheduling;

use super::{SpecError, invalid};
use crate::Habits;

/// Without the personality and the memory policy, which a specification has elsewhere.
pub(super) fn habits(process: &Process) -> Result<Habits, SpecError> {
    Ok(Habits {
        personality: None,
        memory_policy: None,
        scheduling: process.scheduler().as_ref().map(scheduling).transpose()?,
        io_priority: process
            .io_priority()
            .as_ref()
            .map(io_priority)
            .transpose()?,
    })
}

/// Class and level, as [`sys::set_io_priority`] takes them.
pub fn io_priority(given: &LinuxIOPriority) -> Result<(u8, u8), SpecError> {
    let class = match given.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u8::try_from(given.priority()) {
        Ok(level @ 0..=7) => Ok((class, level)),
        _ => Err(invalid(
            "process.ioPriority.priority",
            given.priority(),
            "use 0 to 7",
        )),
    }
}

/// As `linux/sched.h` numbers them.
pub fn scheduling(given: &Scheduler) -> Result<Scheduling, SpecError> {
    let policy = match given.policy() {
        Policy::SchedOther => 0,
        Policy::SchedFifo => 1,
        Policy::SchedRr => 2,
        Policy::SchedBatch => 3,
        Policy::SchedIso => 4,
        Policy::SchedIdle => 5,
        Policy::SchedDeadline => 6,
    };
    let flags = given.flags().iter().flatten().map(|flag| match flag {
        Flag::SchedResetOnFork => 0x01,
        Flag::SchedFlagReclaim => 0x02,
        Flag::SchedFlagDLOverrun => 0x04,
        Flag::SchedFlagKeepPolicy => 0x08,
        Flag::SchedFlagKeepParams => 0x10,
        Flag::SchedFlagUtilClampMin => 0x20,
        Flag::SchedFlagUtilClampMax => 0x40,
    });
    let priority = given.priority().unwrap_or_default();
    let priority = u32::try_from(priority)
        .map_err(|_negative| invalid("process.scheduler.priority", priority, "use 0 or more"))?;
    Ok(Scheduling {
        policy,
        flags: flags.fold(0, |all, flag| all | flag),
        nice: given.nice().unwrap_or_default(),
        priority,
        runtime: given.runtime().unwrap_or_default(),
        deadline: given.deadline().unwrap_or_default(),
        period: given.period().unwrap_or_default(),
    })
}
