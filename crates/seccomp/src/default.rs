//! Our own profile: CRI's `RuntimeDefault`.
//!
//! An allow-list. Allowed is what works on things that a namespace confines or that belong to the caller: its files,
//! memory, processes, sockets, timers, limits. Left out is what reaches the node as a whole, what namespaces do not
//! divide, and what had more holes than uses: it is refused with EPERM, or given to those whose capabilities already
//! mean as much. Every call of our table is on one side or the other, which a test holds.

mod allowed;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator, LinuxSyscall,
};

use self::allowed::ALLOWED;

const ENOSYS: u32 = 38;
const EPERM: u32 = 1;

/// Calls that mean no more than the capability does: bit `n` is capability `n` (`linux/capability.h`), any of which will do.
const BY_CAPABILITY: &[(u64, &[&str])] = &[
    // DAC_READ_SEARCH: a handle opens any file, whatever the path to it.
    (1 << 2, &["open_by_handle_at"]),
    // SYS_MODULE.
    (1 << 16, &["delete_module", "finit_module", "init_module"]),
    // SYS_RAWIO.
    (1 << 17, &["ioperm", "iopl"]),
    // SYS_CHROOT.
    (1 << 18, &["chroot"]),
    // SYS_PTRACE: into other processes beyond what ptrace(2) itself checks for.
    (1 << 19, &["kcmp", "pidfd_getfd", "process_madvise"]),
    // SYS_PACCT.
    (1 << 20, &["acct"]),
    // SYS_ADMIN: new namespaces, mounts and what else makes a container in a container.
    (
        1 << 21,
        &[
            "bpf",
            "clone",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "open_tree_attr",
            "perf_event_open",
            "pivot_root",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "syslog",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    // SYS_BOOT: in a PID namespace it ends that namespace.
    (1 << 22, &["reboot"]),
    // SYS_NICE: whose memory lies where.
    (
        1 << 23,
        &[
            "get_mempolicy",
            "mbind",
            "migrate_pages",
            "move_pages",
            "set_mempolicy",
            "set_mempolicy_home_node",
        ],
    ),
    // SYS_TIME.
    (
        1 << 25,
        &["clock_settime", "clock_settime64", "settimeofday", "stime"],
    ),
    // SYS_TTY_CONFIG.
    (1 << 26, &["vhangup"]),
    // SYSLOG.
    (1 << 34, &["syslog"]),
    // PERFMON.
    (1 << 38, &["perf_event_open"]),
    // BPF.
    (1 << 39, &["bpf"]),
];

const SYS_ADMIN: u64 = 1 << 21;

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET. (NEWTIME's bit is the exit signal's here.)
const NEW_NAMESPACES: u64 = 0x7e02_0000;

/// `personality(2)` that changes nothing dangerous: PER_LINUX, PER_LINUX32, both with UNAME26, and "tell me".
const PERSONALITIES: [u64; 5] = [0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// AF_VSOCK: virtual machine sockets have no namespace, and reach the node's hypervisor.
const AF_VSOCK: u64 = 40;

/// The profile for a container with these capabilities (bit `n` is capability `n`) in its bounding set.
pub fn default_profile(capabilities: u64) -> LinuxSeccomp {
    let mut permitted: Vec<String> = ALLOWED
        .iter()
        .flat_map(|group| group.iter())
        .map(|name| (*name).to_owned())
        .collect();
    for (any_of, names) in BY_CAPABILITY {
        if capabilities & any_of != 0 {
            permitted.extend(names.iter().map(|name| (*name).to_owned()));
        }
    }
    let mut syscalls = vec![
        allow(permitted, Vec::new()),
        allow(
            vec!["socket".to_owned()],
            vec![argument(0, LinuxSeccompOperator::ScmpCmpNe, AF_VSOCK, 0)],
        ),
    ];
    for persona in PERSONALITIES {
        let same = argument(0, LinuxSeccompOperator::ScmpCmpEq, persona, 0);
        syscalls.push(allow(vec!["personality".to_owned()], vec![same]));
    }
    if capabilities & SYS_ADMIN == 0 {
        let no_namespace = argument(0, LinuxSeccompOperator::ScmpCmpMaskedEq, NEW_NAMESPACES, 0);
        syscalls.push(allow(vec!["clone".to_owned()], vec![no_namespace]));
        // Its flags are in memory, where a filter cannot look; C libraries fall back to clone on ENOSYS.
        let mut clone3 = rule(LinuxSeccompAction::ScmpActErrno, vec!["clone3".to_owned()]);
        clone3.set_errno_ret(Some(ENOSYS));
        syscalls.push(clone3);
    }
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(EPERM))
        // 32-bit programs run; x32 is gone from distributions, and a second set of numbers is a second set of holes.
        .set_architectures(Some(vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86]))
        .set_flags(None)
        .set_listener_path(None)
        .set_listener_metadata(None)
        .set_syscalls(Some(syscalls));
    profile
}

fn allow(names: Vec<String>, args: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    let mut allowed = rule(LinuxSeccompAction::ScmpActAllow, names);
    allowed.set_args((!args.is_empty()).then_some(args));
    allowed
}

fn rule(action: LinuxSeccompAction, names: Vec<String>) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names)
        .set_action(action)
        .set_errno_ret(None)
        .set_args(None);
    rule
}

fn argument(
    index: usize,
    operator: LinuxSeccompOperator,
    value: u64,
    value_two: u64,
) -> LinuxSeccompArg {
    LinuxSeccompArgBuilder::default()
        .index(index)
        .op(operator)
        .value(value)
        .value_two(value_two)
        .build()
        .expect("a builder whose every field is set does not fail")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::syscalls;

    /// Refused to everybody, and why.
    const REFUSED: &[(&str, &[&str])] = &[
        (
            "the kernel's keyrings have no namespace",
            &["add_key", "keyctl", "request_key"],
        ),
        (
            "they replace the running kernel",
            &["kexec_file_load", "kexec_load"],
        ),
        ("swap is the node's", &["swapoff", "swapon"]),
        (
            "its rings run calls that no filter sees, and were the way out of many containers",
            &["io_uring_enter", "io_uring_register", "io_uring_setup"],
        ),
        ("it makes races in the kernel winnable", &["userfaultfd"]),
        ("labels are the node's", &["lsm_set_self_attr"]),
        (
            "old, unused, and without a reason to be reachable",
            &[
                "_sysctl",
                "afs_syscall",
                "bdflush",
                "break",
                "create_module",
                "epoll_ctl_old",
                "epoll_wait_old",
                "ftime",
                "get_kernel_syms",
                "getpmsg",
                "gtty",
                "idle",
                "lock",
                "lookup_dcookie",
                "mpx",
                "nfsservctl",
                "oldfstat",
                "oldlstat",
                "oldolduname",
                "oldstat",
                "olduname",
                "prof",
                "profil",
                "putpmsg",
                "query_module",
                "security",
                "sgetmask",
                "ssetmask",
                "stty",
                "sysfs",
                "tuxcall",
                "ulimit",
                "uselib",
                "ustat",
                "vm86",
                "vm86old",
                "vserver",
            ],
        ),
    ];

    #[test]
    fn every_call_is_decided_once() {
        let allowed: Vec<&str> = ALLOWED
            .iter()
            .flat_map(|group| group.iter().copied())
            .collect();
        let unique: BTreeSet<&str> = allowed.iter().copied().collect();
        assert_eq!(allowed.len(), unique.len(), "a name is allowed twice");
        let conditional = ["clone", "clone3", "personality", "socket"];
        let by_capability: BTreeSet<&str> = BY_CAPABILITY
            .iter()
            .flat_map(|(_, names)| names.iter().copied())
            .collect();
        let refused: BTreeSet<&str> = REFUSED
            .iter()
            .flat_map(|(_, names)| names.iter().copied())
            .collect();
        let known: BTreeSet<&str> = syscalls::names().collect();
        for name in unique.iter().chain(&by_capability).chain(&refused) {
            assert!(known.contains(name), "{name} is no system call");
        }
        for name in known {
            let sides = [
                unique.contains(name),
                by_capability.contains(name) || conditional.contains(&name),
                refused.contains(name),
            ];
            let sides = sides.iter().filter(|side| **side).count();
            assert_eq!(sides, 1, "{name} is on {sides} sides");
        }
    }
}
