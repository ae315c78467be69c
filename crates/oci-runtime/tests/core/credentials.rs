//! Users, capabilities, no_new_privs and seccomp.

use oci_plan::{Capabilities, Seccomp};
use oci_runtime::Kind;

use crate::bench::{Bench, USUAL, plan, rootfs};

pub(crate) const CASES: &[crate::Case] = &[
    ("credentials::ids_and_groups", ids_and_groups),
    ("credentials::five_sets", five_sets),
    (
        "credentials::never_more_than_the_callers",
        never_more_than_the_callers,
    ),
    ("credentials::no_new_privs", no_new_privs),
    ("credentials::seccomp_denies", seccomp_denies),
    ("credentials::seccomp_is_checked", seccomp_is_checked),
];

const STATUS: &str = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status | tr '\\t' ' '";

fn ids_and_groups() {
    let outcome = Bench::new().shell("id -u; id -g; id -G", |plan| {
        plan.process.user.uid = 1000;
        plan.process.user.gid = 2000;
        plan.process.user.additional_gids = vec![3000, 4000];
    });
    assert_eq!(outcome.lines(), ["1000", "2000", "2000 3000 4000"]);
}

fn five_sets() {
    let bench = Bench::new();
    let sets = Capabilities {
        bounding: 0b1110_0001,
        effective: 0b1100_0001,
        permitted: 0b1110_0001,
        inheritable: 0b0110_0000,
        ambient: 0b0100_0000,
    };
    // A user's program keeps the ambient set; root's gets the bounding set.
    let show = |uid| {
        bench.shell(STATUS, |plan| {
            plan.process.user.uid = uid;
            plan.process.capabilities = sets;
        })
    };
    assert_eq!(
        show(1000).lines()[..5],
        [
            "CapInh: 0000000000000060",
            "CapPrm: 0000000000000040",
            "CapEff: 0000000000000040",
            "CapBnd: 00000000000000e1",
            "CapAmb: 0000000000000040"
        ]
    );
    assert_eq!(
        show(0).lines()[1..4],
        [
            "CapPrm: 00000000000000e1",
            "CapEff: 00000000000000e1",
            "CapBnd: 00000000000000e1"
        ]
    );
    let none = bench.shell(STATUS, |plan| {
        plan.process.capabilities = Capabilities::default()
    });
    assert!(
        none.lines()[..5]
            .iter()
            .all(|line| line.ends_with("0000000000000000")),
        "{none:?}"
    );

    let refused = |change: fn(&mut Capabilities)| {
        let mut plan = plan(&["/bin/true"]);
        change(&mut plan.process.capabilities);
        bench.run(&plan, &[rootfs()]).unwrap_err().to_string()
    };
    assert_eq!(
        refused(|sets| sets.permitted = 0),
        "process.capabilities.effective: has capabilities that are not in `permitted`"
    );
    assert_eq!(
        refused(|sets| sets.ambient = 1),
        "process.capabilities.ambient: has capabilities that are not in both `permitted` and `inheritable`"
    );
}

fn never_more_than_the_callers() {
    // SYS_TIME, say, is not ours to give.
    let time = 1 << 25;
    rustix::thread::remove_capability_from_bounding_set(rustix::thread::CapabilitySet::SYS_TIME)
        .unwrap();
    let bench = Bench::new();
    assert_eq!(bench.host.bounding() & time, 0);
    let outcome = bench.shell(STATUS, |plan| {
        plan.process.capabilities = Capabilities {
            bounding: u64::MAX,
            effective: u64::MAX,
            permitted: u64::MAX,
            inheritable: 0,
            ambient: 0,
        };
    });
    let all = format!("CapBnd: {:016x}", bench.host.bounding());
    assert_eq!(outcome.lines()[3], all);
}

fn no_new_privs() {
    let bench = Bench::new();
    let show = |wanted| bench.shell(STATUS, |plan| plan.process.no_new_privileges = wanted);
    assert!(show(true).lines().contains(&"NoNewPrivs: 1"));
    assert!(show(false).lines().contains(&"NoNewPrivs: 0"));
}

/// Making a directory is EPERM, everything else is allowed.
pub(crate) fn no_mkdir() -> Seccomp {
    #[cfg(target_arch = "x86_64")]
    const MKDIR: [u32; 2] = [83, 258];
    #[cfg(target_arch = "aarch64")]
    const MKDIR: [u32; 2] = [34, 34];
    let instruction = |code: u16, yes: u8, no: u8, value: u32| {
        let mut bytes = code.to_ne_bytes().to_vec();
        bytes.extend([yes, no]);
        bytes.extend(value.to_ne_bytes());
        bytes
    };
    Seccomp {
        program: [
            instruction(0x20, 0, 0, 0),           // load the number
            instruction(0x15, 1, 0, MKDIR[0]),    // to the denial, or
            instruction(0x15, 0, 1, MKDIR[1]),    // past it
            instruction(0x06, 0, 0, 0x0005_0001), // SECCOMP_RET_ERRNO | EPERM
            instruction(0x06, 0, 0, 0x7fff_0000), // SECCOMP_RET_ALLOW
        ]
        .concat(),
        flags: 0,
    }
}

fn seccomp_denies() {
    let bench = Bench::new();
    for (no_new_privileges, uid) in [(true, 0), (false, 0), (true, 1000), (false, 1000)] {
        let outcome = bench.shell(&format!("mkdir /tmp/x 2>&1; {STATUS}"), |plan| {
            plan.process.seccomp = Some(no_mkdir());
            plan.process.no_new_privileges = no_new_privileges;
            plan.process.user.uid = uid;
        });
        let shown = outcome.lines();
        assert!(shown[0].contains("not permitted"), "{outcome:?}");
        assert!(shown.contains(&"Seccomp: 2"), "{outcome:?}");
        let bounding = format!("CapBnd: {USUAL:016x}");
        assert!(shown.contains(&bounding.as_str()), "{outcome:?}");
        let effective = if uid == 0 { USUAL } else { 0 };
        let effective = format!("CapEff: {effective:016x}");
        assert!(shown.contains(&effective.as_str()), "{outcome:?}");
    }
}

fn seccomp_is_checked() {
    let bench = Bench::new();
    let fail = |filter: Seccomp| {
        let mut plan = plan(&["/bin/true"]);
        plan.process.seccomp = Some(filter);
        let error = bench.run(&plan, &[rootfs()]).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        error.to_string()
    };
    let with = |program: Vec<u8>, flags| Seccomp { program, flags };
    assert_eq!(
        fail(with(vec![0; 9], 0)),
        "process.seccomp.program: 9 bytes are no filter"
    );
    assert_eq!(
        fail(with(vec![0; 8], 0)),
        "load the seccomp filter of 1 instructions"
    );
    // A flag that no kernel knows.
    assert_eq!(
        fail(with(no_mkdir().program, 1 << 30)),
        "load the seccomp filter of 5 instructions"
    );
}
