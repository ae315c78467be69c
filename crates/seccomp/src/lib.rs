//! Seccomp: from a profile as the OCI runtime specification writes it (`linux.seccomp`) to a classic BPF program for
//! `seccomp(2)`.
//!
//! What the specification leaves open follows runc and libseccomp, against which this crate is tested: names that this table
//! does not know are skipped, the native architecture is always covered, a call of an architecture that the
//! profile does not list kills the thread, a rule whose action is the default one is no rule, and conditions on the same
//! argument are alternatives. A call newer than every call that the profile names gets ENOSYS, where the default would deny
//! it, so that C libraries fall back to what the profile's author knew.
//!
//! In one thing we differ: where several rules match one call, the most restrictive action applies, in whatever order they stand.
//! libseccomp lets the first one without conditions win, and drops the others in silence.

mod bpf;
mod cache;
mod compile;
mod condition;
mod default;
mod parse;
mod syscalls;

pub use cache::Cache;
pub use compile::{CompileError, Program, compile};
pub use default::default_profile;
pub use parse::{ParseError, parse};
pub use syscalls::call_name;

/// The architectures whose calls an x86-64 kernel can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Arch {
    X86_64,
    I386,
    X32,
}

impl Arch {
    /// `AUDIT_ARCH_*`; x32 is told by a bit of the number.
    fn audit(self) -> u32 {
        match self {
            Arch::X86_64 | Arch::X32 => 0xc000_003e,
            Arch::I386 => 0x4000_0003,
        }
    }

    /// Whether an argument has an upper half. On x32 it may be there and means nothing.
    fn wide(self) -> bool {
        matches!(self, Arch::X86_64)
    }
}
