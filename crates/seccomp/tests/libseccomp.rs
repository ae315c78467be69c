//! Against libseccomp: the same profile, every number, arguments at the edges.

#![allow(clippy::unwrap_used)]

mod oracle;

use std::collections::BTreeMap;

use longshore_seccomp::{compile, default_profile, parse};
use oci_spec::runtime::LinuxSeccomp;
use oracle::ask;
use proptest::prelude::*;
use serde_json::json;
use testkit::seccomp::{
    action,
    bpf::{Call, I386, X86_64, run},
    rules,
};

const X32_BIT: u32 = 0x4000_0000;
const ENOSYS: u32 = 0x0005_0000 | 38;

/// Every value that a condition names, its neighbours, and it in the other half.
fn edges(profile: &LinuxSeccomp) -> Vec<u64> {
    let mut edges = vec![0, 1, u64::MAX, 1 << 32, 0xffff_ffff, 0x8000_0000];
    for rule in profile.syscalls().iter().flatten() {
        for arg in rule.args().iter().flatten() {
            let (value, second) = (arg.value(), arg.value_two().unwrap_or(0));
            for edge in [value, second, value & second, value | second] {
                edges.extend([
                    edge,
                    edge.wrapping_add(1),
                    edge.wrapping_sub(1),
                    edge.rotate_left(32),
                    edge ^ (1 << 32),
                    !edge,
                ]);
            }
        }
    }
    edges.sort_unstable();
    edges.dedup();
    edges
}

fn compare(profile: &LinuxSeccomp) {
    let ours = compile(profile).unwrap().instructions;
    let theirs = ask(&["filter"], &rules(profile));
    let default = action(profile.default_action(), profile.default_errno_ret());
    let edges = edges(profile);
    let named = Named::of(profile);
    let numbers = (0..600)
        .chain([9999, 0x3fff_ffff])
        .flat_map(|number| [number, number | X32_BIT])
        .chain([0x7fff_ffff, 0x8000_0000, u32::MAX - 1, u32::MAX]);
    let mut state = 0usize;
    let mut some = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        edges[(state >> 33) % edges.len()]
    };
    for number in numbers {
        for arch in [X86_64, I386, 0xc000_00b7] {
            // Most calls have no conditions; a few arguments tell that.
            let (uniform, various) = if named.with_conditions(arch, number) {
                (edges.len(), 200)
            } else {
                (1, 3)
            };
            let uniform = edges[..uniform].iter().map(|edge| [*edge; 6]);
            let various = (0..various).map(|_| std::array::from_fn(|_| some()));
            for args in uniform.chain(various) {
                // A 32-bit program's arguments have no upper half.
                let args = if arch == I386 {
                    args.map(|arg| arg & 0xffff_ffff)
                } else {
                    args
                };
                let call = Call { arch, number, args };
                let (mine, other) = (run(&ours, &call), run(&theirs, &call));
                let unheard_of = mine == ENOSYS && other == default && named.newer(arch, number);
                assert!(
                    mine == other || unheard_of,
                    "{call:x?}: {mine:#x}, libseccomp {other:#x}"
                );
            }
        }
    }
}

/// The numbers that rules name, and whether with conditions.
struct Named(Vec<([i64; 3], bool)>);

impl Named {
    fn of(profile: &LinuxSeccomp) -> Self {
        let rules = profile.syscalls().clone().unwrap_or_default();
        let names: Vec<&str> = rules
            .iter()
            .flat_map(|rule| rule.names())
            .map(String::as_str)
            .collect();
        let known = numbers(&names);
        let named = rules.iter().flat_map(|rule| {
            let conditions = rule.args().is_some();
            rule.names().iter().map(move |name| (name, conditions))
        });
        Self(
            named
                .map(|(name, conditions)| (known[name], conditions))
                .collect(),
        )
    }

    fn column(arch: u32, number: u32) -> usize {
        match (arch, number & X32_BIT != 0) {
            (X86_64, false) => 0,
            (X86_64, true) => 2,
            _ => 1,
        }
    }

    /// The doors of i386 count: they look at their first argument.
    fn with_conditions(&self, arch: u32, number: u32) -> bool {
        let column = Self::column(arch, number);
        let door = arch == I386 && (number == 102 || number == 117);
        let mut named = self.0.iter();
        door || named
            .any(|(numbers, conditions)| *conditions && numbers[column] == i64::from(number))
    }

    /// Whether no rule names a call of this number or a later one.
    fn newer(&self, arch: u32, number: u32) -> bool {
        let column = Self::column(arch, number);
        let listed = self.0.iter().map(|(numbers, _)| numbers[column]);
        listed
            .filter(|listed| *listed >= 0)
            .all(|listed| listed < i64::from(number))
    }
}

fn numbers(names: &[&str]) -> BTreeMap<String, [i64; 3]> {
    let answer = String::from_utf8(ask(&["numbers"], &names.join("\n"))).unwrap();
    let parsed = answer.lines().map(|line| {
        let mut words = line.split(' ');
        let name = words.next().unwrap().to_owned();
        (
            name,
            std::array::from_fn(|_| words.next().unwrap().parse().unwrap()),
        )
    });
    parsed.collect()
}

/// Without the calls that are newer than this libseccomp.
fn known_to_libseccomp(mut profile: LinuxSeccomp) -> LinuxSeccomp {
    let mut syscalls = profile.syscalls().clone().unwrap();
    for rule in &mut syscalls {
        let names: Vec<&str> = rule.names().iter().map(String::as_str).collect();
        let known = numbers(&names);
        let kept = rule
            .names()
            .iter()
            .filter(|name| known[*name].iter().any(|n| *n >= 0));
        let kept = kept.cloned().collect();
        rule.set_names(kept);
    }
    profile.set_syscalls(Some(syscalls));
    profile
}

fn from_json(value: serde_json::Value) -> LinuxSeccomp {
    parse(&serde_json::to_vec(&value).unwrap()).unwrap()
}

#[test]
fn numbers_of_every_name() {
    // Through the public interface: a profile of one name decides exactly its number.
    let profile = default_profile(u64::MAX);
    let rules = profile.syscalls().clone().unwrap();
    let names: Vec<&str> = rules
        .iter()
        .flat_map(|rule| rule.names())
        .map(String::as_str)
        .collect();
    for (name, expected) in numbers(&names) {
        let profile = from_json(json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [{"names": [name], "action": "SCMP_ACT_LOG"}],
        }));
        let program = compile(&profile).unwrap().instructions;
        let arches = [
            (X86_64, expected[0]),
            (I386, expected[1]),
            (X86_64, expected[2]),
        ];
        for (arch, number) in arches {
            // What libseccomp does not know yet is negative.
            if let Ok(number) = u32::try_from(number) {
                let call = Call {
                    arch,
                    number,
                    args: [0; 6],
                };
                assert_eq!(
                    run(&program, &call),
                    0x7ffc_0000,
                    "{name} {arch:x} {number}"
                );
            }
        }
    }
}

#[test]
fn the_default_profile() {
    for capabilities in [0, 1 << 21, 0xa804_25fb, u64::MAX] {
        compare(&known_to_libseccomp(default_profile(capabilities)));
    }
}

#[test]
fn a_profile_without_rules() {
    for default in [
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_KILL_PROCESS",
        "SCMP_ACT_LOG",
    ] {
        compare(&from_json(json!({ "defaultAction": default })));
    }
}

#[test]
fn a_deny_list_with_every_action() {
    compare(&from_json(json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"],
        "syscalls": [
            {"names": ["mkdir", "rmdir", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95},
            {"names": ["reboot"], "action": "SCMP_ACT_KILL_PROCESS"},
            {"names": ["kexec_load"], "action": "SCMP_ACT_KILL_THREAD"},
            {"names": ["swapon", "swapoff"], "action": "SCMP_ACT_KILL"},
            {"names": ["ptrace"], "action": "SCMP_ACT_TRACE", "errnoRet": 7},
            {"names": ["uname"], "action": "SCMP_ACT_TRAP"},
            {"names": ["getpid", "execve", "ioctl"], "action": "SCMP_ACT_LOG"},
            {"names": ["socket", "connect", "shmget"], "action": "SCMP_ACT_ERRNO"},
        ],
    })));
}

#[test]
fn every_operator() {
    let operators = [
        "SCMP_CMP_NE",
        "SCMP_CMP_LT",
        "SCMP_CMP_LE",
        "SCMP_CMP_EQ",
        "SCMP_CMP_GE",
        "SCMP_CMP_GT",
        "SCMP_CMP_MASKED_EQ",
    ];
    let values: [u64; 7] = [
        0,
        1,
        0x7e02_0000,
        0xffff_ffff,
        0x1_0000_0000,
        0x1234_5678_9abc_def0,
        u64::MAX,
    ];
    let calls = ["mount", "clone", "prctl", "fcntl", "mmap", "futex", "kcmp"];
    for second in [0u64, 0x1234_0000_0000_def0] {
        for value in values {
            let rules: Vec<_> = operators
                .iter()
                .zip(calls)
                .enumerate()
                .map(|(index, (operator, call))| {
                    json!({"names": [call], "action": "SCMP_ACT_ALLOW", "args": [
                        {"index": index % 5, "value": value, "valueTwo": second, "op": operator},
                        {"index": 5, "value": 3, "op": "SCMP_CMP_GE"},
                    ]})
                })
                .collect();
            compare(&from_json(
                json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}),
            ));
        }
    }
}

#[test]
fn two_conditions_on_one_argument_are_alternatives() {
    compare(&from_json(json!({
        "defaultAction": "SCMP_ACT_KILL_PROCESS",
        "syscalls": [{"names": ["personality", "mount"], "action": "SCMP_ACT_ALLOW", "args": [
            {"index": 0, "value": 0, "op": "SCMP_CMP_EQ"},
            {"index": 0, "value": 8, "op": "SCMP_CMP_EQ"},
            {"index": 1, "value": 9, "op": "SCMP_CMP_EQ"},
        ]}],
    })));
}

fn arbitrary_rule(name: &'static str) -> impl Strategy<Value = serde_json::Value> {
    let value = prop_oneof![
        0..16u64,
        any::<u64>(),
        Just(1 << 32),
        any::<u32>().prop_map(u64::from)
    ];
    let operator = prop::sample::select(vec![
        "SCMP_CMP_NE",
        "SCMP_CMP_LT",
        "SCMP_CMP_LE",
        "SCMP_CMP_EQ",
        "SCMP_CMP_GE",
        "SCMP_CMP_GT",
        "SCMP_CMP_MASKED_EQ",
    ]);
    let argument = (value.clone(), value, operator);
    let action = prop::sample::select(vec!["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRAP"]);
    (
        prop::collection::btree_map(0..6usize, argument, 0..4),
        action,
    )
        .prop_map(move |(arguments, action)| {
            let args: Vec<_> = arguments
                .into_iter()
                .map(|(index, (value, second, operator))| {
                    json!({"index": index, "value": value, "valueTwo": second, "op": operator})
                })
                .collect();
            json!({"names": [name], "action": action, "args": args})
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_profiles(
        rules in ["read", "write", "clone", "ioctl", "futex", "mount", "openat2"]
            .map(arbitrary_rule),
        default in prop::sample::select(vec!["SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_TRACE"]),
        arches in prop::sample::subsequence(vec!["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"], 0..=3),
    ) {
        compare(&from_json(json!({
            "defaultAction": default,
            "architectures": arches,
            "syscalls": rules,
        })));
    }
}
