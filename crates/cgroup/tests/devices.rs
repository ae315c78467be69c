//! Device rules on cgroup v2, by real processes in a tree of its own, as on a machine that has nothing else; and against v1's controller
//! where this machine has that.
#![allow(clippy::unwrap_used)] // the lint's exemption ends at the helpers of tests

#[path = "devices/differential.rs"]
mod differential;
#[path = "devices/probe.rs"]
mod probe;

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use longshore_cgroup::{Cgroup, Error, Hierarchies};
use oci_plan::Resources;
use rustix::io::Errno;

use probe::{Pod, Verdicts, resources};

const BOUND: Duration = Duration::from_secs(60);

/// What a container gets that asks for nothing.
const CONTAINERS: &[&str] = &[
    "deny a *:* rwm",
    "allow c *:* m",
    "allow b *:* m",
    "allow c 1:3 rwm",
    "allow c 1:5 rwm",
    "allow c 1:7 rwm",
    "allow c 1:8 rwm",
    "allow c 1:9 rwm",
    "allow c 5:0 rwm",
    "allow c 5:1 rwm",
    "allow c 5:2 rwm",
    "allow c 136:* rwm",
];

fn programs(cgroup: &Cgroup) -> Vec<u32> {
    let dir = cgroup.unified_dir().unwrap().unwrap();
    sys::device_programs(dir.as_fd()).unwrap()
}

fn probe(rules: &[&str]) -> Verdicts {
    let pod = Pod::v2();
    let container = pod.create("c", &resources(rules)).unwrap();
    let verdicts = Verdicts::of(&container);
    container.remove().unwrap();
    verdicts
}

#[test]
fn a_container_has_its_usual_devices() {
    let verdicts = probe(CONTAINERS);
    for name in ["null", "zero", "full", "urandom"] {
        for how in ["r", "w", "rw"] {
            assert!(verdicts.may(name, how), "{name} {how}");
        }
    }
    assert!(!verdicts.may("loop0", "r"));
    assert!(verdicts.may("c:1:3", "m"));
    assert!(verdicts.may("b:7:0", "m"));
}

#[test]
fn what_is_not_allowed_is_refused() {
    let verdicts = probe(&["deny a *:* rwm", "allow c 1:3 rw"]);
    assert_eq!(verdicts.allowed(), ["null r", "null rw", "null w"]);
}

#[test]
fn all_is_allowed_but_what_is_denied() {
    let verdicts = probe(&["allow a *:* rwm", "deny c 1:* w", "deny b *:* m"]);
    assert!(verdicts.may("null", "r"));
    assert!(!verdicts.may("null", "w"));
    // Read and write are asked for together; runc's program lets this pass.
    assert!(!verdicts.may("null", "rw"));
    assert!(verdicts.may("c:1:3", "m"));
    assert!(!verdicts.may("b:7:0", "m"));
}

#[test]
fn the_last_match_wins_also_inside_a_wider_one() {
    let rules = [
        "deny a *:* rwm",
        "allow c 1:* rwm",
        "deny c *:5 w",
        "deny c 1:3 rwm",
        "allow c 1:3 r",
    ];
    let verdicts = probe(&rules);
    assert!(verdicts.may("zero", "r") && !verdicts.may("zero", "w"));
    assert!(verdicts.may("null", "r") && !verdicts.may("null", "w"));
    assert!(verdicts.may("full", "rw"));
    assert!(verdicts.may("c:1:5", "m") && !verdicts.may("c:1:3", "m"));
}

#[test]
fn two_rules_may_allow_an_access_each() {
    let verdicts = probe(&["deny a *:* rwm", "allow c 1:* r", "allow c 1:3 w"]);
    assert!(verdicts.may("null", "rw"));
    assert!(verdicts.may("zero", "r") && !verdicts.may("zero", "rw"));
}

#[test]
fn an_update_takes_the_place_of_the_rules_before() {
    let pod = Pod::v2();
    let container = pod
        .create("c", &resources(&["deny a *:* rwm", "allow c 1:3 rwm"]))
        .unwrap();
    let before = programs(&container);
    assert_eq!(before.len(), 1);
    // Somebody else's stays.
    let dir = container.unified_dir().unwrap().unwrap();
    let foreign = foreign_program();
    sys::attach_device_program(dir.as_fd(), foreign.as_fd(), None).unwrap();

    container
        .update(&resources(&["deny a *:* rwm", "allow c 1:5 rwm"]))
        .unwrap();
    let verdicts = Verdicts::of(&container);
    assert!(!verdicts.may("null", "r") && verdicts.may("zero", "r"));
    let after = programs(&container);
    assert_eq!(after.len(), 2);
    assert!(!after.contains(&before[0]));
    wait_freed(before[0]);

    // What changes other limits leaves the devices alone.
    container.update(&Resources::default()).unwrap();
    assert_eq!(programs(&container), after);

    let adds = container.update(&resources(&["allow c 1:3 rwm"]));
    assert!(
        matches!(adds, Err(Error::Unsupported { .. })),
        "it would lift the denial of everything: {adds:?}"
    );
    assert!(!Verdicts::of(&container).may("null", "r"));

    container.update(&resources(&["allow a *:* rwm"])).unwrap();
    assert!(Verdicts::of(&container).may("null", "rw"));
    assert_eq!(programs(&container).len(), 1);
    container.update(&resources(&["allow a *:* rwm"])).unwrap();
    sys::detach_device_program(dir.as_fd(), foreign.as_fd()).unwrap();
    container
        .update(&resources(&["deny a *:* rwm", "allow c 1:7 rwm"]))
        .unwrap();
    let verdicts = Verdicts::of(&container);
    assert_eq!(verdicts.of_opens(), ["full r", "full rw", "full w"]);
    container.remove().unwrap();
}

fn foreign_program() -> OwnedFd {
    let code = [
        sys::Instruction::new(0xb7, 0, 0, 0, 1),
        sys::Instruction::new(0x95, 0, 0, 0, 0),
    ];
    sys::load_device_program(c"somebody_else", &code).unwrap()
}

#[test]
fn no_rules_and_no_denial_are_no_program() {
    let pod = Pod::v2();
    for rules in [
        &[][..],
        &["allow a *:* rwm"],
        &["deny c 1:3 rwm", "allow a *:* rwm"],
    ] {
        let container = pod.create("c", &resources(rules)).unwrap();
        assert!(programs(&container).is_empty());
        container.remove().unwrap();
    }
}

#[test]
fn v1_stays_in_charge_where_it_is() {
    let hierarchies = Hierarchies::open().unwrap();
    let path = format!("longshore-test-{}-devices-hybrid", std::process::id());
    let cgroup = hierarchies.create(&path, &resources(CONTAINERS)).unwrap();
    let expected = match Pod::v1() {
        Some(_) => 0,
        None => 1,
    };
    assert_eq!(programs(&cgroup).len(), expected);
    assert!(!Verdicts::of(&cgroup).may("loop0", "r"));
    cgroup.remove().unwrap();
}

#[test]
fn what_is_below_may_do_no_more() {
    let pod = Pod::v2();
    let denied = resources(&["allow a *:* rwm", "deny c 1:5 rwm"]);
    let container = pod.create("c", &denied).unwrap();
    let exec = container.create_exec("e").unwrap();
    let nested = pod.create("c/n", &resources(CONTAINERS)).unwrap();
    for cgroup in [&exec, &nested] {
        let verdicts = Verdicts::of(cgroup);
        assert!(verdicts.may("null", "rw"));
        assert!(!verdicts.may("zero", "r"));
    }
    exec.remove().unwrap();
    nested.remove().unwrap();
    container.remove().unwrap();
}

#[test]
fn a_removed_cgroup_frees_its_program() {
    let pod = Pod::v2();
    let container = pod.create("c", &resources(CONTAINERS)).unwrap();
    let id = programs(&container)[0];
    drop(sys::open_program(id).unwrap());
    container.remove().unwrap();
    wait_freed(id);
}

/// The kernel frees it in the background.
fn wait_freed(id: u32) {
    let started = Instant::now();
    while sys::open_program(id).err() != Some(Errno::NOENT) {
        assert!(started.elapsed() < BOUND, "program {id} is left");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn long_lists_are_verified() {
    let pod = Pod::v2();
    for access in ["rwm", "r"] {
        let mut rules = vec!["deny a *:* rwm".to_owned()];
        rules.extend((0..1000).map(|n| format!("allow c {}:{n} {access}", n % 300)));
        rules.extend((0..100).map(|n| format!("deny c {n}:* w")));
        let rules: Vec<_> = rules.iter().map(String::as_str).collect();
        let container = pod.create("c", &resources(&rules)).unwrap();
        assert_eq!(programs(&container).len(), 1);
        container.remove().unwrap();
    }
}

#[test]
fn a_failure_leaves_nothing() {
    let pod = Pod::v2();
    let mut rules = vec!["deny a *:* rwm".to_owned()];
    rules.extend((0..40_000).map(|n| format!("allow c 5:{n} rwm")));
    let rules: Vec<_> = rules.iter().map(String::as_str).collect();
    let error = pod.create("c", &resources(&rules)).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert!(!pod.exists("c"));
}

#[test]
fn limits_without_a_controller_are_still_errors() {
    let pod = Pod::v2();
    let limited = Resources {
        pids_limit: Some(10),
        ..resources(CONTAINERS)
    };
    match pod.create("c", &limited) {
        // A machine whose v2 tree has it.
        Ok(container) => container.remove().unwrap(),
        Err(error) => {
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
            assert!(!pod.exists("c"));
        }
    }
}
