//! Every test of the project: those of this machine, and then what meets the kernel again, in virtual machines.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::ensure;

use crate::{
    build::{self, Profile},
    packages,
    results::{self, Count},
    step::{self, Steps},
    vm, workspace,
};

const BUILD_LIMIT: Duration = Duration::from_secs(40 * 60);
const UNIT_LIMIT: Duration = Duration::from_secs(20 * 60);
const END_TO_END_LIMIT: Duration = Duration::from_secs(30 * 60);

/// So many failed tests are run once more: tests meet real kernels, clients and clocks on machines that others use. More of them are no accident.
const AGAIN_AT_MOST: usize = 4;

pub(crate) fn run() -> anyhow::Result<()> {
    let mut steps = Steps::default();
    let mut count = Count::default();
    let result = all(&mut steps, &mut count);
    steps.print();
    for note in count.notes() {
        println!("{note}");
    }
    if let Err(error) = &result {
        println!("{error:#}");
        // A part that broke before a test could fail must not look like success.
        count.failed = count.failed.max(1);
    }
    println!("{} passed, {} failed", count.passed, count.failed);
    ensure!(count.failed == 0, "tests failed");
    Ok(())
}

fn all(steps: &mut Steps, count: &mut Count) -> anyhow::Result<()> {
    steps.time("Debian packages, Rust target", || {
        packages::install(packages::Purpose::Tests)
    })?;
    let stage = steps.time("build the binaries", || build::run(Profile::Debug))?;
    steps.time("build the tests", || {
        step::run(
            workspace::cargo().args(["test", "--locked", "--workspace", "--no-run", "--quiet"]),
            BUILD_LIMIT,
        )
    })?;
    // Each part runs, whatever the others say.
    let unit = steps.time("unit and integration tests, documentation examples", || {
        let selection = ["--workspace", "--exclude=longshore-e2e"];
        cargo_test(&selection, &[], &stage, UNIT_LIMIT, count)
    });
    let end_to_end = steps.time("end-to-end tests", || {
        // Each test has a host of its own; two at a time keep two cores busy.
        let harness = ["--test-threads=2"];
        cargo_test(
            &["--package=longshore-e2e"],
            &harness,
            &stage,
            END_TO_END_LIMIT,
            count,
        )
    });
    // Last, when nothing else wants the processors.
    let machines = vm::test(steps, count, &stage);
    unit.and(end_to_end).and(machines)
}

fn cargo_test(
    selection: &[&str],
    harness: &[&str],
    stage: &Path,
    limit: Duration,
    count: &mut Count,
) -> anyhow::Result<()> {
    let run = |harness: &[&str], part: &mut Count| {
        let mut command = workspace::cargo();
        command
            .args(["test", "--locked", "--no-fail-fast"])
            .args(selection)
            .arg("--")
            .args(harness)
            .env("LONGSHORE_BIN_DIR", stage)
            .stdout(Stdio::piped());
        let child = step::start(&mut command)?;
        results::wait_counting(child, limit, "cargo test", "", part)
    };
    let mut part = Count::default();
    let status = run(harness, &mut part);
    let failed = part.failed;
    if (1..=AGAIN_AT_MOST).contains(&part.failures.len()) {
        println!("==> failed tests again, each alone");
        let mut again = Count::default();
        let names = part.failures.iter().map(String::as_str);
        let alone: Vec<&str> = ["--exact", "--test-threads=1"]
            .into_iter()
            .chain(names)
            .collect();
        run(&alone, &mut again)?;
        part.run_again(again);
    }
    count.add(part);
    let status = status?;
    // Without a failed test: something did not compile, or a test program was killed.
    ensure!(status.success() || failed > 0, "cargo test: {status}");
    Ok(())
}
