use rustix::io::Errno;

/// A system call without which nothing works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Required {
    /// As its manual page is called.
    pub name: &'static str,
    /// The first Linux that has it.
    pub since: &'static str,
    number: libc::c_long,
    /// With these it is refused whatever the state of the process.
    nonsense: [libc::c_long; 5],
}

/// No flag that any of them knows, no address of anything, no descriptor.
const FLAGS: libc::c_long = 0xffff_ffff;
const NOWHERE: libc::c_long = 0;
const NONE: libc::c_long = -1;

const REQUIRED: [Required; 9] = [
    required(
        "open_tree",
        "5.2",
        libc::SYS_open_tree,
        [NONE, NOWHERE, FLAGS, 0, 0],
    ),
    required(
        "move_mount",
        "5.2",
        libc::SYS_move_mount,
        [NONE, NOWHERE, NONE, NOWHERE, FLAGS],
    ),
    required("fsopen", "5.2", libc::SYS_fsopen, [NOWHERE, FLAGS, 0, 0, 0]),
    required(
        "fsconfig",
        "5.2",
        libc::SYS_fsconfig,
        [NONE, FLAGS, NOWHERE, NOWHERE, 0],
    ),
    required(
        "fsmount",
        "5.2",
        libc::SYS_fsmount,
        [NONE, FLAGS, FLAGS, 0, 0],
    ),
    required("clone3", "5.3", libc::SYS_clone3, [NOWHERE, 0, 0, 0, 0]),
    required(
        "openat2",
        "5.6",
        libc::SYS_openat2,
        [NONE, NOWHERE, NOWHERE, 0, 0],
    ),
    required(
        "close_range",
        "5.9",
        libc::SYS_close_range,
        [1, 0, FLAGS, 0, 0],
    ),
    required(
        "mount_setattr",
        "5.12",
        libc::SYS_mount_setattr,
        [NONE, NOWHERE, FLAGS, NOWHERE, 0],
    ),
];

const fn required(
    name: &'static str,
    since: &'static str,
    number: libc::c_long,
    nonsense: [libc::c_long; 5],
) -> Required {
    Required {
        name,
        since,
        number,
        nonsense,
    }
}

/// Those of the system calls that Longshore cannot do without which this process does not have: the kernel is too old, or a seccomp filter
/// answers ENOSYS for it.
#[must_use]
pub fn missing_calls() -> Vec<Required> {
    let mut missing = REQUIRED.to_vec();
    missing.retain(|call| {
        let [a, b, c, d, e] = call.nonsense;
        // SAFETY: every call of the list refuses its nonsense (unknown flags, no descriptor, a size of 0) before it reads or writes memory or
        // changes anything, and null is no address that it could write to.
        let answer = unsafe { libc::syscall(call.number, a, b, c, d, e) };
        answer == -1
            && std::io::Error::last_os_error().raw_os_error() == Some(Errno::NOSYS.raw_os_error())
    });
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused_and_does_nothing() {
        assert_eq!(missing_calls(), []);
        for call in REQUIRED {
            let [a, b, c, d, e] = call.nonsense;
            // SAFETY: as above.
            let answer = unsafe { libc::syscall(call.number, a, b, c, d, e) };
            assert_eq!(answer, -1, "{}", call.name);
        }
    }
}
