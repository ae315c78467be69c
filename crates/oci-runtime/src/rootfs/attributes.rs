use oci_plan::{MountFlags, Propagation};
use rustix::mount::{MountAttrFlags, MountPropagationFlags};

/// What a mount gets, and what must be cleared for it. Only the times of access exclude each other; a restriction that the source has is never
/// lifted.
pub(crate) fn attributes(flags: MountFlags) -> (MountAttrFlags, MountAttrFlags) {
    let mut set = MountAttrFlags::empty();
    for (wanted, flag) in [
        (
            flags.readonly || flags.recursive_readonly,
            MountAttrFlags::MOUNT_ATTR_RDONLY,
        ),
        (flags.nosuid, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (flags.nodev, MountAttrFlags::MOUNT_ATTR_NODEV),
        (flags.noexec, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (flags.nodiratime, MountAttrFlags::MOUNT_ATTR_NODIRATIME),
        (flags.nosymfollow, MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW),
    ] {
        if wanted {
            set |= flag;
        }
    }
    let times = if flags.noatime {
        Some(MountAttrFlags::MOUNT_ATTR_NOATIME)
    } else if flags.strictatime {
        Some(MountAttrFlags::MOUNT_ATTR_STRICTATIME)
    } else if flags.relatime {
        Some(MountAttrFlags::MOUNT_ATTR_RELATIME)
    } else {
        None
    };
    match times {
        Some(times) => (set | times, MountAttrFlags::MOUNT_ATTR__ATIME),
        None => (set, MountAttrFlags::empty()),
    }
}

pub(crate) fn propagation(propagation: Propagation) -> MountPropagationFlags {
    match propagation {
        Propagation::Private => MountPropagationFlags::PRIVATE,
        Propagation::Slave => MountPropagationFlags::DOWNSTREAM,
        Propagation::Shared => MountPropagationFlags::SHARED,
        Propagation::Unbindable => MountPropagationFlags::UNBINDABLE,
    }
}
