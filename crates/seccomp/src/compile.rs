//! Compiling a profile.

use std::collections::{BTreeMap, BTreeSet};

use oci_spec::runtime::{
    Arch as SpecArch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSyscall,
};

use crate::{
    Arch,
    bpf::{self, ARCH, IF_EQUAL, Instruction, LOAD, NUMBER, RETURN, plain},
    condition::{Condition, Operator, guarded},
    syscalls::{X32_BIT, number},
};

/// A compiled profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// An array of `struct sock_filter` in native byte order.
    pub instructions: Vec<u8>,
    /// SECCOMP_FILTER_FLAG_* for `seccomp(2)`.
    pub flags: u32,
}

/// Why a profile cannot be compiled. Field paths are those of `linux.seccomp`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    #[error("{field}: {value} is not supported: {reason}")]
    Unsupported {
        field: String,
        value: String,
        reason: &'static str,
    },
    #[error("{field}: {value}: {reason}")]
    Invalid {
        field: String,
        value: String,
        reason: &'static str,
    },
    #[error("the filter has {0} instructions, and the kernel takes {MOST}")]
    TooLong(usize),
}

/// BPF_MAXINSNS.
const MOST: usize = 4096;

const KILL_THREAD: u32 = 0;
const KILL_PROCESS: u32 = 0x8000_0000;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// The kernel cuts larger numbers down to this.
const LAST_ERRNO: u32 = 4095;

/// What a call of an architecture that the profile does not list gets.
const OTHER_ARCH: u32 = KILL_THREAD;

/// Compiles a profile for this machine's kernel, which also runs i386 and x32 programs where the profile lists those
/// architectures. No input or output.
pub fn compile(profile: &LinuxSeccomp) -> Result<Program, CompileError> {
    let default = action(
        "defaultAction",
        profile.default_action(),
        profile.default_errno_ret(),
    )?;
    if profile.listener_path().is_some() {
        return Err(notify("listenerPath"));
    }
    if profile
        .listener_metadata()
        .as_ref()
        .is_some_and(|metadata| !metadata.is_empty())
    {
        return Err(notify("listenerMetadata"));
    }
    let flags = flags(profile)?;
    let rules = rules(profile, default)?;
    let program = program(&architectures(profile)?, &rules, default);
    if program.len() > MOST {
        return Err(CompileError::TooLong(program.len()));
    }
    Ok(Program {
        instructions: bpf::bytes(&program),
        flags,
    })
}

fn notify(field: &str) -> CompileError {
    CompileError::Unsupported {
        field: field.to_owned(),
        value: "a listener".to_owned(),
        reason: "seccomp notification is not implemented",
    }
}

/// The program's return value.
fn action(
    field: &str,
    action: LinuxSeccompAction,
    errno: Option<u32>,
) -> Result<u32, CompileError> {
    let data = |least: u32, most: u32| match errno {
        None => Ok(EPERM),
        Some(errno) if (least..=most).contains(&errno) => Ok(errno),
        Some(errno) => Err(CompileError::Invalid {
            field: format!("{field} (errnoRet)"),
            value: errno.to_string(),
            reason: "out of the kernel's range",
        }),
    };
    let value = match action {
        LinuxSeccompAction::ScmpActErrno => return Ok(ERRNO | data(0, LAST_ERRNO)?),
        LinuxSeccompAction::ScmpActTrace => return Ok(TRACE | data(0, 0xffff)?),
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess => KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => TRAP,
        LinuxSeccompAction::ScmpActLog => LOG,
        LinuxSeccompAction::ScmpActAllow => ALLOW,
        LinuxSeccompAction::ScmpActNotify => return Err(notify(field)),
    };
    match errno {
        None => Ok(value),
        // The specification: "the runtime MUST […] fail" where an action takes no errno.
        Some(errno) => Err(CompileError::Invalid {
            field: format!("{field} (errnoRet)"),
            value: errno.to_string(),
            reason: "only SCMP_ACT_ERRNO and SCMP_ACT_TRACE take one",
        }),
    }
}

fn flags(profile: &LinuxSeccomp) -> Result<u32, CompileError> {
    let mut bits = 0;
    for flag in profile.flags().iter().flatten() {
        bits |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => 1 << 1,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => 1 << 2,
            // The process that loads the filter has one thread, which is all of them.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                return Err(CompileError::Unsupported {
                    field: "flags".to_owned(),
                    value: flag.to_string(),
                    reason: "it is for seccomp notification, which is not implemented",
                });
            }
        };
    }
    Ok(bits)
}

/// The native one is always there. Those of other machines are never seen here, and need no rules.
fn architectures(profile: &LinuxSeccomp) -> Result<BTreeSet<Arch>, CompileError> {
    if cfg!(not(target_arch = "x86_64")) {
        return Err(CompileError::Unsupported {
            field: "architectures".to_owned(),
            value: std::env::consts::ARCH.to_owned(),
            reason: "filters are compiled for x86-64 kernels only",
        });
    }
    let listed = profile
        .architectures()
        .iter()
        .flatten()
        .filter_map(|arch| match arch {
            SpecArch::ScmpArchX86 => Some(Arch::I386),
            SpecArch::ScmpArchX32 => Some(Arch::X32),
            _ => None,
        });
    Ok(listed.chain([Arch::X86_64]).collect())
}

/// Rules of one call, for `SYSCALL names[i]`.
#[derive(Debug)]
struct Rule {
    names: Vec<String>,
    /// All of them have to hold.
    conditions: Vec<Condition>,
    outcome: u32,
}

fn rules(profile: &LinuxSeccomp, default: u32) -> Result<Vec<Rule>, CompileError> {
    let mut rules = Vec::new();
    for (index, given) in profile.syscalls().iter().flatten().enumerate() {
        let field = format!("syscalls[{index}]");
        let outcome = action(&field, given.action(), given.errno_ret())?;
        if outcome == default {
            continue;
        }
        for conditions in alternatives(&field, given)? {
            rules.push(Rule {
                names: given.names().clone(),
                conditions,
                outcome,
            });
        }
    }
    Ok(rules)
}

/// Conditions of different arguments must all hold; where two are on one argument, each stands alone.
fn alternatives(field: &str, rule: &LinuxSyscall) -> Result<Vec<Vec<Condition>>, CompileError> {
    let mut conditions = Vec::new();
    for (index, arg) in rule.args().iter().flatten().enumerate() {
        conditions.push(Condition::new(arg).ok_or_else(|| CompileError::Invalid {
            field: format!("{field}.args[{index}].index"),
            value: arg.index().to_string(),
            reason: "a system call has arguments 0 to 5",
        })?);
    }
    let arguments: BTreeSet<u32> = conditions.iter().map(|condition| condition.index).collect();
    if arguments.len() < conditions.len() {
        return Ok(conditions
            .into_iter()
            .map(|condition| vec![condition])
            .collect());
    }
    Ok(vec![conditions])
}

/// What becomes of a call: the first of the guarded outcomes whose conditions hold, or the last resort.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Verdict {
    guarded: Vec<(Vec<Condition>, u32)>,
    otherwise: u32,
}

impl Verdict {
    fn always(outcome: u32) -> Self {
        Self {
            guarded: Vec::new(),
            otherwise: outcome,
        }
    }

    /// The most restrictive of the rules that match wins, as the kernel decides between filters.
    fn of(rules: &[(Vec<Condition>, u32)], default: u32) -> Self {
        let (unconditional, mut guarded): (Vec<_>, Vec<_>) = rules
            .iter()
            .cloned()
            .partition(|(conditions, _)| conditions.is_empty());
        let always = unconditional
            .into_iter()
            .map(|(_, outcome)| outcome)
            .min_by_key(rank);
        if let Some(always) = always {
            guarded.retain(|(_, outcome)| rank(outcome) < rank(&always));
        }
        guarded.sort_by_key(|(_, outcome)| rank(outcome));
        guarded.dedup();
        Self {
            guarded,
            otherwise: always.unwrap_or(default),
        }
    }

    fn code(&self, arch: Arch) -> Vec<Instruction> {
        let mut code = Vec::new();
        for (conditions, outcome) in &self.guarded {
            code.extend(guarded(arch, conditions, plain(RETURN, *outcome)));
        }
        code.push(plain(RETURN, self.otherwise));
        code
    }
}

/// Less is more restrictive: the kernel's own order, in which KILL_PROCESS is negative.
fn rank(outcome: &u32) -> i32 {
    (outcome & 0xffff_0000).cast_signed()
}

/// Whether a profile's default lets a call happen, so that it needs no help with calls it never heard of.
fn permissive(default: u32) -> bool {
    rank(&default) >= rank(&TRACE)
}

type Ranges = Vec<(u32, (Arch, Verdict))>;

fn program(arches: &BTreeSet<Arch>, rules: &[Rule], default: u32) -> Vec<Instruction> {
    let leaf = |(arch, verdict): &(Arch, Verdict)| verdict.code(*arch);
    let mut native = ranges(Arch::X86_64, rules, default, X32_BIT - 1);
    if arches.contains(&Arch::X32) {
        native.extend(ranges(Arch::X32, rules, default, u32::MAX - 1));
    } else {
        native.push((X32_BIT, (Arch::X86_64, Verdict::always(OTHER_ARCH))));
    }
    // Number −1 is how a tracer says "skip this call".
    native.push((u32::MAX, (Arch::X86_64, Verdict::always(default))));
    let search = |ranges: &Ranges| {
        let mut program = vec![plain(LOAD, NUMBER)];
        program.extend(bpf::search(ranges, &leaf));
        program
    };

    let mut other = vec![plain(RETURN, OTHER_ARCH)];
    if arches.contains(&Arch::I386) {
        let mut i386 = ranges(Arch::I386, rules, default, u32::MAX - 1);
        i386.push((u32::MAX, (Arch::I386, Verdict::always(default))));
        other = bpf::choose(IF_EQUAL, Arch::I386.audit(), search(&i386), other);
    }
    let mut program = vec![plain(LOAD, ARCH)];
    program.extend(bpf::choose(
        IF_EQUAL,
        Arch::X86_64.audit(),
        search(&native),
        other,
    ));
    program
}

/// From the architecture's first number to `last`: neighbours with the same verdict share a range.
fn ranges(arch: Arch, rules: &[Rule], default: u32, last: u32) -> Ranges {
    let mut calls: BTreeMap<u32, Vec<(Vec<Condition>, u32)>> = BTreeMap::new();
    for rule in rules {
        for name in &rule.names {
            if let Some(number) = number(arch, name) {
                let listed = calls.entry(number).or_default();
                listed.push((rule.conditions.clone(), rule.outcome));
            }
            if arch == Arch::I386 {
                multiplexed(name, rule, &mut calls);
            }
        }
    }
    let first = if arch == Arch::X32 { X32_BIT } else { 0 };
    let newest = calls.keys().next_back().copied();
    let mut ranges: Ranges = Vec::new();
    let mut push = |start: u32, verdict: Verdict| {
        if ranges
            .last()
            .is_none_or(|(_, (_, before))| *before != verdict)
        {
            ranges.push((start, (arch, verdict)));
        }
    };
    let mut next = first;
    for (number, listed) in &calls {
        if *number > next {
            push(next, Verdict::always(default));
        }
        push(*number, Verdict::of(listed, default));
        next = number + 1;
    }
    if next <= last {
        let unheard_of = match newest {
            Some(_) if !permissive(default) => ERRNO | ENOSYS,
            Some(_) | None => default,
        };
        push(next, Verdict::always(unheard_of));
    }
    ranges
}

/// A call's name, the bits of its first argument that choose, and the names behind it by their choice.
type Door = (&'static str, u64, &'static [(&'static str, u64)]);

/// Calls that i386 programs also reach through one door, with their number there: `socketcall(2)` and `ipc(2)`.
const DOORS: [Door; 2] = [
    (
        "socketcall",
        u64::MAX,
        &[
            ("socket", 1),
            ("bind", 2),
            ("connect", 3),
            ("listen", 4),
            ("accept", 5),
            ("getsockname", 6),
            ("getpeername", 7),
            ("socketpair", 8),
            ("send", 9),
            ("recv", 10),
            ("sendto", 11),
            ("recvfrom", 12),
            ("shutdown", 13),
            ("setsockopt", 14),
            ("getsockopt", 15),
            ("sendmsg", 16),
            ("recvmsg", 17),
            ("accept4", 18),
            ("recvmmsg", 19),
            ("sendmmsg", 20),
        ],
    ),
    (
        // The upper half of its first argument is a version.
        "ipc",
        0xffff,
        &[
            ("semop", 1),
            ("semget", 2),
            ("semctl", 3),
            ("semtimedop", 4),
            ("msgsnd", 11),
            ("msgrcv", 12),
            ("msgget", 13),
            ("msgctl", 14),
            ("shmat", 21),
            ("shmdt", 22),
            ("shmget", 23),
            ("shmctl", 24),
        ],
    ),
];

/// The call's arguments are in memory behind the door, where no filter sees them: a rule with conditions that permits does not open
/// the door, and one that denies closes it.
fn multiplexed(name: &str, rule: &Rule, calls: &mut BTreeMap<u32, Vec<(Vec<Condition>, u32)>>) {
    if !rule.conditions.is_empty() && permissive(rule.outcome) {
        return;
    }
    for (door, mask, behind) in DOORS {
        let found = behind.iter().find(|(listed, _)| *listed == name);
        if let (Some((_, value)), Some(number)) = (found, number(Arch::I386, door)) {
            let condition = Condition {
                index: 0,
                operator: Operator::Equal,
                value: *value,
                mask,
            };
            calls
                .entry(number)
                .or_default()
                .push((vec![condition], rule.outcome));
        }
    }
}
