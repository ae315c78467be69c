//! Tests in virtual machines: Debian's cloud kernel, nothing but cgroup v2, once without systemd and once
//! with it; and two more for a moment, with SELinux and with AppArmor, which confine every container there.
//!
//! The processor is emulated (KVM is not to be had everywhere), thirty times as slow as a real one, so what runs unasked is a selection
//! that takes minutes: what meets the kernel. With a filter, every test of these packages whose name contains it. The two machines run
//! at once, with one processor each: two processors of one machine spend a good part of their time on waiting for each other.

mod debian;
mod machine;
mod payload;

use std::path::Path;

use anyhow::{bail, ensure};

use crate::{
    build::{self, Profile},
    packages,
    results::Count,
    step::Steps,
    workspace,
};

/// What starts the machine's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Boot {
    /// A script of ours.
    V2,
    Systemd,
    /// The script, on a kernel with that module: for the tests of that alone.
    SeLinux,
    AppArmor,
}

impl Boot {
    pub(crate) const ALL: [Boot; 4] = [Boot::V2, Boot::Systemd, Boot::SeLinux, Boot::AppArmor];

    pub(crate) fn describe(self) -> &'static str {
        match self {
            Boot::V2 => "cgroup v2 alone",
            Boot::Systemd => "systemd",
            Boot::SeLinux => "SELinux",
            Boot::AppArmor => "AppArmor",
        }
    }

    /// What its lines of output begin with.
    fn label(self) -> &'static str {
        match self {
            Boot::V2 => "v2      | ",
            Boot::Systemd => "systemd | ",
            Boot::SeLinux => "selinux | ",
            Boot::AppArmor => "apparmor| ",
        }
    }

    /// Its directory's name.
    fn name(self) -> &'static str {
        match self {
            Boot::V2 => "v2",
            Boot::Systemd => "systemd",
            Boot::SeLinux => "selinux",
            Boot::AppArmor => "apparmor",
        }
    }
}

/// A program of tests.
struct Suite {
    package: &'static str,
    /// Its file in `tests/`.
    target: &'static str,
    /// Names, or parts of names, of what is run unasked; all if there are none.
    v2: &'static [&'static str],
    systemd: &'static [&'static str],
    selinux: &'static [&'static str],
    apparmor: &'static [&'static str],
}

const EVERY: &[&str] = &[""];
const NONE: &[&str] = &[];

const SUITES: &[Suite] = &[
    Suite {
        package: "longshore-sys",
        target: "bpf",
        v2: EVERY,
        systemd: NONE,
        selinux: NONE,
        apparmor: NONE,
    },
    Suite {
        package: "longshore-cgroup",
        target: "v2_files",
        v2: EVERY,
        systemd: NONE,
        selinux: NONE,
        apparmor: NONE,
    },
    Suite {
        package: "longshore-cgroup",
        target: "devices",
        v2: EVERY,
        systemd: NONE,
        selinux: NONE,
        apparmor: NONE,
    },
    Suite {
        package: "longshore-cgroup",
        target: "hybrid",
        v2: EVERY,
        systemd: EVERY,
        selinux: NONE,
        apparmor: NONE,
    },
    Suite {
        package: "longshore-snapshot",
        target: "overlay",
        v2: EVERY,
        systemd: NONE,
        selinux: NONE,
        apparmor: NONE,
    },
    Suite {
        package: "longshore-snapshot",
        target: "quota",
        v2: EVERY,
        systemd: NONE,
        selinux: NONE,
        apparmor: NONE,
    },
    Suite {
        package: "longshore-oci-runtime",
        target: "core",
        v2: EVERY,
        systemd: NONE,
        selinux: NONE,
        apparmor: NONE,
    },
    Suite {
        package: "longshore-pod",
        target: "pod",
        // Cgroups; logs and terminals are the same on every kernel.
        v2: &["anchor::", "ends::", "execs::", "failures::"],
        systemd: NONE,
        selinux: NONE,
        apparmor: NONE,
    },
    Suite {
        package: "longshore-e2e",
        target: "e2e",
        v2: &[
            "with_criu_",
            "classes::a_class_of_block_io",
            "container::",
            "pod::",
            "resources::",
            "stats::a_pod",
            "stats::metrics",
            "stats::processors",
            "stats::what_was",
            // What the others look at is the same on every kernel.
            "isolation::a_pod_may_have_a_user",
            "isolation::a_user_namespace",
            "isolation::containers_may_share",
            "isolation::devices_and_limits",
            "isolation::mounts_propagate",
            "isolation::recursive_read_only",
            "kernel::nothing_newer",
            "kernel::layers",
            "kernel::a_file_system",
            "kernel::writable_layers",
            "node::an_exec",
            "node::cgroups",
            "recovery::",
            "service::supervisors",
            "service::nobody",
        ],
        systemd: &[
            "systemd::",
            "checkpoint::with_criu_a_checkpoint",
            "container::",
            "pod::",
            "stop::",
            "resources::",
            "exec::",
            // What the others look at knows no driver.
            "stats::a_pod",
            "stats::metrics",
            "isolation::devices_and_limits",
            "isolation::a_pod_may_have_a_user",
            "service::nobody",
        ],
        selinux: &["selinux::containers_are_confined"],
        apparmor: &["apparmor::", "security::without_apparmor"],
    },
];

impl Suite {
    fn name(&self) -> String {
        format!("{}-{}", self.package, self.target)
    }

    /// Parts of names of the tests to run; `None`: it is not run at all.
    fn filters(&self, boot: Boot, filter: Option<&str>) -> Option<Vec<String>> {
        if let Some(filter) = filter {
            return Some(vec![filter.to_owned()]);
        }
        let chosen = match boot {
            Boot::V2 => self.v2,
            Boot::Systemd => self.systemd,
            Boot::SeLinux => self.selinux,
            Boot::AppArmor => self.apparmor,
        };
        let filters = chosen.iter().filter(|one| !one.is_empty());
        (!chosen.is_empty()).then(|| filters.map(|one| (*one).to_owned()).collect())
    }
}

/// `cargo xtask vm [--v2|--systemd|--selinux|--apparmor] [FILTER]`.
pub(crate) fn run(arguments: &[&str]) -> anyhow::Result<()> {
    let mut boots = Boot::ALL.to_vec();
    let mut filter = None;
    for argument in arguments {
        match *argument {
            "--v2" => boots = vec![Boot::V2],
            "--systemd" => boots = vec![Boot::Systemd],
            "--selinux" => boots = vec![Boot::SeLinux],
            "--apparmor" => boots = vec![Boot::AppArmor],
            other if !other.starts_with('-') && filter.is_none() => filter = Some(other),
            other => bail!(
                "vm does not take {other}: cargo xtask vm [--v2|--systemd|--selinux|--apparmor] [FILTER]"
            ),
        }
    }
    let mut steps = Steps::default();
    let mut count = Count::default();
    let stage = steps.time("build the binaries", || build::run(Profile::Debug))?;
    let result = boot(&mut steps, &mut count, &boots, filter, &stage);
    steps.print();
    for note in count.notes() {
        println!("{note}");
    }
    println!("{} passed, {} failed", count.passed, count.failed);
    result?;
    ensure!(count.failed == 0, "tests failed");
    ensure!(count.passed > 0, "no test has that in its name");
    Ok(())
}

/// The selection, on both machines. Failed tests are in `count`; an error is what kept tests from being run.
pub(crate) fn test(steps: &mut Steps, count: &mut Count, stage: &Path) -> anyhow::Result<()> {
    boot(steps, count, &Boot::ALL, None, stage)
}

fn boot(
    steps: &mut Steps,
    count: &mut Count,
    boots: &[Boot],
    filter: Option<&str>,
    stage: &Path,
) -> anyhow::Result<()> {
    let system = steps.time("Debian for the virtual machines", || {
        packages::install(packages::Purpose::Machines)?;
        debian::System::get()
    })?;
    let payload = steps.time("the virtual machines' tests", || {
        payload::Payload::build(stage)
    })?;
    let names: Vec<&str> = boots.iter().map(|boot| boot.describe()).collect();
    let name = format!("virtual machines: {}", names.join(", "));
    steps.time(&name, || {
        machine::run(boots, filter, &system, &payload, count)
    })
}

/// Where the machine's parts are kept.
fn directory() -> anyhow::Result<std::path::PathBuf> {
    Ok(workspace::target()?.join("vm"))
}
