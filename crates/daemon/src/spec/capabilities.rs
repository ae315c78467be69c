//! Which capabilities a container has.

use std::collections::HashSet;

use oci_spec::runtime::{Capability, LinuxCapabilities};

use super::SpecError;
use crate::container::config::ContainerSecurity;

/// Every capability, at the place of its number (`linux/capability.h`).
const BY_NUMBER: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// What a container has that asks for nothing: the field's common fourteen.
const DEFAULT: u64 = 1 << 0 // CHOWN
    | 1 << 1 // DAC_OVERRIDE
    | 1 << 3 // FOWNER
    | 1 << 4 // FSETID
    | 1 << 5 // KILL
    | 1 << 6 // SETGID
    | 1 << 7 // SETUID
    | 1 << 8 // SETPCAP
    | 1 << 10 // NET_BIND_SERVICE
    | 1 << 13 // NET_RAW
    | 1 << 18 // SYS_CHROOT
    | 1 << 27 // MKNOD
    | 1 << 29 // AUDIT_WRITE
    | 1 << 31; // SETFCAP

const PATH: &str = "config.linux.security_context.capabilities";

/// Sets as bit masks; the inheritable set is the ambient one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sets {
    pub(super) bounding: u64,
    pub(super) ambient: u64,
}

/// The defaults (all of them, when privileged), with what is added and without what is dropped; `available` is the daemon's own
/// bounding set. To `add` what the daemon itself does not have is an error; `ALL` is all that it has.
pub(super) fn resolve(security: &ContainerSecurity, available: u64) -> Result<Sets, SpecError> {
    if security.privileged {
        return Ok(Sets {
            bounding: available & ALL,
            ambient: 0,
        });
    }
    let changes = &security.capabilities;
    let add = Change::parse("add_capabilities", &changes.add_capabilities)?;
    let drop = Change::parse("drop_capabilities", &changes.drop_capabilities)?;
    let ambient = Change::parse(
        "add_ambient_capabilities",
        &changes.add_ambient_capabilities,
    )?;
    for (field, change) in [
        ("add_capabilities", add),
        ("add_ambient_capabilities", ambient),
    ] {
        if let Some(number) = numbers(change.named & !available).next() {
            return Err(SpecError::field(
                format!("{PATH}.{field}"),
                name(number),
                "this node's runtime does not have it itself, and cannot give it; leave it out",
            ));
        }
    }
    let base = match (add.all, drop.all) {
        // Both: what is named below still counts.
        (_, true) => 0,
        (true, false) => ALL,
        (false, false) => DEFAULT,
    };
    let ambient_all = if ambient.all { ALL } else { 0 };
    let wanted = (base | add.named | ambient.named | ambient_all) & !drop.named & available;
    Ok(Sets {
        bounding: wanted,
        ambient: (ambient.named | ambient_all) & wanted,
    })
}

const ALL: u64 = (1 << BY_NUMBER.len()) - 1;

#[derive(Clone, Copy)]
struct Change {
    all: bool,
    named: u64,
}

impl Change {
    fn parse(field: &str, names: &[String]) -> Result<Self, SpecError> {
        let mut change = Change {
            all: false,
            named: 0,
        };
        for (index, given) in names.iter().enumerate() {
            let upper = given.to_ascii_uppercase();
            let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
            if short == "ALL" {
                change.all = true;
                continue;
            }
            let number = (0..BY_NUMBER.len()).find(|number| name(*number) == short);
            change.named |= 1
                << number.ok_or_else(|| {
                    SpecError::field(
                        format!("{PATH}.{field}[{index}]"),
                        format_args!("{given:?}"),
                        "not a capability of Linux",
                    )
                })?;
        }
        Ok(change)
    }
}

/// Without `CAP_`.
fn name(number: usize) -> String {
    BY_NUMBER[number].to_string()
}

fn numbers(bits: u64) -> impl Iterator<Item = usize> {
    (0..BY_NUMBER.len()).filter(move |number| bits & (1 << number) != 0)
}

/// Nothing is inheritable but what is ambient, which the kernel requires: files' inheritable sets give nothing away.
pub(super) fn sets(sets: &Sets) -> LinuxCapabilities {
    let set = |bits: u64| {
        let named = numbers(bits).map(|number| BY_NUMBER[number]);
        Some(named.collect::<HashSet<_>>())
    };
    let mut capabilities = LinuxCapabilities::default();
    capabilities
        .set_bounding(set(sets.bounding))
        .set_effective(set(sets.bounding))
        .set_permitted(set(sets.bounding))
        .set_inheritable(set(sets.ambient))
        .set_ambient(set(sets.ambient));
    capabilities
}
