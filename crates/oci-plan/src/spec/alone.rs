//! What is translated only for a plan that is executed where it is made.

use std::path::PathBuf;

use oci_spec::runtime::{
    IOPriorityClass, Linux, LinuxNamespaceType, LinuxPersonality, LinuxPersonalityDomain,
    LinuxSchedulerFlag, LinuxSchedulerPolicy, Process, Scheduler, Spec,
};

use super::{SpecError, invalid};
use crate::{Alone, ClockOffset, Habits, NamespaceSource, Scheduling};

pub(super) fn alone(
    spec: &Spec,
    linux: &Linux,
    known: &[(PathBuf, NamespaceSource)],
) -> Result<Alone, SpecError> {
    let find = |kind| {
        let mut namespaces = linux.namespaces().iter().flatten();
        namespaces.find(|one| one.typ() == kind)
    };
    let time = find(LinuxNamespaceType::Time);
    let offsets = offsets(linux);
    let path = time.and_then(|time| time.path().as_ref());
    if !offsets.is_empty() && (time.is_none() || path.is_some()) {
        return Err(invalid(
            "linux.timeOffsets",
            "set",
            "offsets need a new time namespace",
        ));
    }
    let opened = |path: &PathBuf| {
        known.iter().find_map(|(listed, source)| match source {
            NamespaceSource::Fd(slot) if listed == path => Some(*slot),
            _ => None,
        })
    };
    let mount = find(LinuxNamespaceType::Mount).and_then(|mount| mount.path().as_ref());
    Ok(Alone {
        domainname: spec.domainname().clone().filter(|name| !name.is_empty()),
        time: (time.is_some() && path.is_none()).then_some(offsets),
        time_namespace: path.and_then(opened),
        mount_namespace: mount.and_then(opened),
    })
}

fn offsets(linux: &Linux) -> Vec<ClockOffset> {
    let given = linux.time_offsets().iter().flatten();
    let mut offsets: Vec<_> = given
        .map(|(clock, offset)| ClockOffset {
            clock: clock.clone(),
            seconds: offset.secs().unwrap_or(0),
            nanoseconds: offset.nanosecs().unwrap_or(0),
        })
        .collect();
    offsets.sort_unstable_by(|one, other| one.clock.cmp(&other.clock));
    offsets
}

pub(super) fn habits(process: &Process) -> Result<Habits, SpecError> {
    Ok(Habits {
        personality: None,
        scheduling: process.scheduler().as_ref().map(scheduling),
        io_priority: process
            .io_priority()
            .as_ref()
            .map(|given| {
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
            })
            .transpose()?,
    })
}

fn scheduling(given: &Scheduler) -> Scheduling {
    let policy = match given.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flags = given.flags().iter().flatten().map(|flag| match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    });
    Scheduling {
        policy,
        flags: flags.fold(0, |all, one| all | one),
        nice: given.nice().unwrap_or(0),
        priority: given
            .priority()
            .and_then(|priority| u32::try_from(priority).ok())
            .unwrap_or(0),
        runtime: given.runtime().unwrap_or(0),
        deadline: given.deadline().unwrap_or(0),
        period: given.period().unwrap_or(0),
    }
}

/// As `linux/personality.h` numbers them.
pub(super) fn personality(given: &LinuxPersonality) -> Result<u32, SpecError> {
    if let Some(flag) = given.flags().iter().flatten().next() {
        return Err(invalid(
            "linux.personality.flags",
            flag,
            "no flag is defined",
        ));
    }
    Ok(match given.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    })
}
