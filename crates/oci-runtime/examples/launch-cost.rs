//! What a container costs: create, start, run `true`, reap; and an exec of `true`. Medians over N rounds (default 200), each beside a bare
//! clone and exec of the same program, for scale.
//!
//! Run as root: `cargo run --release --example launch-cost -p longshore-oci-runtime`.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // A measuring program.

extern crate longshore_oci_runtime as oci_runtime;

#[path = "../tests/core/bench.rs"]
#[allow(dead_code)] // It uses a part.
mod bench;

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use bench::{Bench, mappings, plan, process, rootfs};
use oci_plan::{ContainerPlan, NamespaceSource, PodNamespaces};
use rustix::mount::{OpenTreeFlags, open_tree};

fn main() {
    let rounds = std::env::args()
        .nth(1)
        .and_then(|count| count.parse().ok())
        .unwrap_or(200);
    sys::unshare(sys::CloneFlags::NEWNS).unwrap();
    let private =
        rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).unwrap();

    // The root must be mounted somewhere to be cloned each time, as a snapshot is.
    let root = rootfs();
    let directory = tempfile::tempdir().unwrap();
    rustix::mount::move_mount(
        &root,
        "",
        rustix::fs::CWD,
        directory.path(),
        rustix::mount::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .unwrap();

    let own = PodNamespaces {
        net: true,
        ipc: true,
        uts: true,
        pid: false,
    };
    let bench = Bench::pod(own, None).with_cgroup();
    report("posix_spawn of busybox true", rounds, || {
        let mut command = std::process::Command::new("/bin/busybox");
        assert!(command.arg("true").status().unwrap().success());
    });
    measure("pod namespaces", &bench, &kubernetes(false), &root, rounds);
    measure(
        "the same with three mounts and no masks",
        &bench,
        &bare(),
        &root,
        rounds,
    );

    let container = bench.launch(&sleeper(), &[clone(&root)]).unwrap();
    let exec = process(&["/bin/true"]);
    report("exec of true", rounds.min(100), || {
        let outcome = bench.exec(container.launch.pidfd(), &exec).unwrap();
        assert_eq!(outcome.code, 0);
    });
    container.kill();

    drop(bench);
    let bench = Bench::pod(own, Some(mappings())).with_cgroup();
    measure(
        "pod namespaces with users",
        &bench,
        &kubernetes(true),
        &root,
        rounds,
    );
    drop(bench);
    rustix::mount::unmount(directory.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
}

fn measure(name: &str, bench: &Bench, plan: &ContainerPlan, root: &OwnedFd, rounds: usize) {
    report(name, rounds, || {
        let outcome = bench.run(plan, &[clone(root)]).unwrap();
        assert_eq!(outcome.code, 0, "{outcome:?}");
    });
}

fn report(name: &str, rounds: usize, mut once: impl FnMut()) {
    let mut times: Vec<Duration> = (0..rounds)
        .map(|_| {
            let begun = Instant::now();
            once();
            begun.elapsed()
        })
        .collect();
    times.sort();
    println!(
        "{name}: median {:.2} ms, p10 {:.2}, p90 {:.2}",
        times[rounds / 2].as_secs_f64() * 1e3,
        times[rounds / 10].as_secs_f64() * 1e3,
        times[rounds * 9 / 10].as_secs_f64() * 1e3
    );
}

fn clone(root: &OwnedFd) -> OwnedFd {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(root.as_fd(), "", flags).unwrap()
}

/// As the kubelet's containers are.
fn kubernetes(users: bool) -> ContainerPlan {
    let mut plan = plan(&["/bin/true"]);
    plan.namespaces.net = NamespaceSource::Pod;
    plan.namespaces.ipc = NamespaceSource::Pod;
    plan.namespaces.uts = NamespaceSource::Pod;
    if users {
        plan.namespaces.user = NamespaceSource::Pod;
    }
    let paths = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
    plan.masked_paths = paths(&[
        "/proc/acpi",
        "/proc/asound",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
    ]);
    plan.readonly_paths = paths(&[
        "/proc/bus",
        "/proc/fs",
        "/proc/irq",
        "/proc/sys",
        "/proc/sysrq-trigger",
    ]);
    plan
}

fn bare() -> ContainerPlan {
    let mut plan = kubernetes(false);
    plan.masked_paths.clear();
    plan.readonly_paths.clear();
    plan.mounts.truncate(3);
    plan
}

fn sleeper() -> ContainerPlan {
    let mut plan = kubernetes(false);
    plan.process = process(&["/bin/sleep", "1000"]);
    plan
}
