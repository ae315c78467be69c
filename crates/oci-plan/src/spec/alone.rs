//! What is translated only for a plan that is executed where it is made.

use std::path::PathBuf;

use oci_spec::runtime::{
    Linux, LinuxNamespaceType, LinuxPersonality, LinuxPersonalityDomain, Spec,
};

use super::{SpecError, invalid};
use crate::{Alone, ClockOffset, NamespaceSource};

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
