//! What can go wrong, and what is said about it.

use oci_runtime::{Error, Kind, Progress};
use rustix::process::Signal;

use crate::bench::{Bench, plan, process, reap, rootfs, step, write_file};

pub(crate) const CASES: &[crate::Case] = &[
    (
        "failures::programs_that_cannot_run",
        programs_that_cannot_run,
    ),
    (
        "failures::a_child_that_dies_on_its_way",
        a_child_that_dies_on_its_way,
    ),
    (
        "failures::a_launch_that_is_dropped",
        a_launch_that_is_dropped,
    ),
    ("failures::a_parent_that_is_gone", a_parent_that_is_gone),
    ("failures::plans_that_are_refused", plans_that_are_refused),
    ("failures::a_caller_with_threads", a_caller_with_threads),
    ("failures::starting_twice", starting_twice),
    (
        "failures::no_way_out_by_a_descriptor",
        no_way_out_by_a_descriptor,
    ),
];

fn programs_that_cannot_run() {
    let bench = Bench::new();
    let fail = |args: &[&str]| {
        let root = rootfs();
        write_file(&root, "data/plain", b"#!/bin/sh\n", 0o644);
        write_file(&root, "data/script", b"#!/no/interpreter\n", 0o755);
        write_file(
            &root,
            "data/garbage",
            b"\x7fELF\x02\x01\x01garbage that is no program",
            0o755,
        );
        let error = bench.run(&plan(args), &[root]).unwrap_err();
        assert_eq!(error.kind(), Kind::CannotExecute, "{error:?}");
        let source = std::error::Error::source(&error).unwrap().to_string();
        format!("{error}: {source}")
    };
    assert_eq!(
        fail(&["/no/such"]),
        "execute /no/such: No such file or directory (os error 2)"
    );
    assert_eq!(
        fail(&["nothing"]),
        "execute nothing (not in the container's PATH): No such file or directory (os error 2)"
    );
    assert_eq!(
        fail(&["/data/plain"]),
        "execute /data/plain: Permission denied (os error 13)"
    );
    assert_eq!(
        fail(&["/data"]),
        "execute /data: Permission denied (os error 13)"
    );
    assert_eq!(
        fail(&["/data/script"]),
        "execute /data/script (the interpreter or loader that it names is missing): No such file or directory (os error 2)"
    );
    assert_eq!(
        fail(&["/data/garbage"]),
        "execute /data/garbage: Exec format error (os error 8)"
    );
    assert_eq!(
        fail(&["/bin/sh/x"]),
        "execute /bin/sh/x: No such file or directory (os error 2)"
    );
}

fn a_child_that_dies_on_its_way() {
    let bench = Bench::new();
    let root = [rootfs()];
    let plan = plan(&["/bin/sleep", "100"]);
    let (mut launch, _out, _err) = bench.begin(&plan, &root, &|_| None).unwrap();
    assert!(matches!(
        step(&mut launch).unwrap(),
        Progress::Created { console: None }
    ));
    rustix::process::pidfd_send_signal(launch.pidfd(), Signal::KILL).unwrap();
    let error = step(&mut launch).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the process ended while it was to wait for its start: signal 9"
    );
    reap(launch.pidfd());
}

fn a_launch_that_is_dropped() {
    let bench = Bench::new();
    let root = [rootfs()];
    let plan = plan(&["/bin/sleep", "100"]);
    let (launch, _out, _err) = bench.begin(&plan, &root, &|_| None).unwrap();
    let pidfd = launch.pidfd().try_clone_to_owned().unwrap();
    drop(launch);
    let status = reap(std::os::fd::AsFd::as_fd(&pidfd));
    assert_eq!(status.terminating_signal(), Some(9));
}

fn a_parent_that_is_gone() {
    let bench = Bench::new();
    let root = [rootfs()];
    let plan = plan(&["/bin/sleep", "100"]);
    let (mut launch, _out, _err) = bench.begin(&plan, &root, &|_| None).unwrap();
    assert!(matches!(
        step(&mut launch).unwrap(),
        Progress::Created { .. }
    ));
    // What closes when the supervisor dies.
    let pidfd = launch.pidfd().try_clone_to_owned().unwrap();
    let handshake = launch.handshake().try_clone_to_owned().unwrap();
    rustix::net::shutdown(&handshake, rustix::net::Shutdown::Both).unwrap();
    let status = reap(std::os::fd::AsFd::as_fd(&pidfd));
    assert_ne!(status.exit_status(), Some(0));
}

fn plans_that_are_refused() {
    let bench = Bench::new();
    let fail = |change: fn(&mut oci_plan::ContainerPlan)| {
        let mut plan = plan(&["/bin/true"]);
        change(&mut plan);
        let error = bench.run(&plan, &[rootfs()]).unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error:?}");
        error.to_string()
    };
    assert_eq!(
        fail(|plan| plan.process.args.clear()),
        "process.args: is empty"
    );
    assert_eq!(
        fail(|plan| plan.process.args = vec![String::new()]),
        "process.args[0]: is empty"
    );
    assert_eq!(
        fail(|plan| plan.process.env.push("A=\0".to_owned())),
        "process.env: has a NUL byte"
    );
    assert_eq!(
        fail(|plan| plan.process.cwd = "tmp".to_owned()),
        "process.cwd: \"tmp\" is not absolute"
    );
    assert_eq!(
        fail(|plan| plan.rootfs.mount = oci_plan::FdSlot(3)),
        "rootfs.mount: slot 3 of 1 descriptors"
    );
    assert_eq!(
        fail(|plan| {
            plan.hostname = Some("x".to_owned());
            plan.namespaces.uts = oci_plan::NamespaceSource::Host;
        }),
        "hostname: needs an own UTS namespace"
    );
    assert_eq!(
        fail(|plan| plan.process.rlimits.push(oci_plan::Rlimit {
            resource: 7,
            soft: 2,
            hard: 1
        })),
        "process.rlimits[0]: soft 2 exceeds hard 1"
    );
    assert_eq!(
        fail(|plan| plan.masked_paths.push("proc".to_owned())),
        "masked_paths[0]: \"proc\" is not absolute"
    );
}

fn a_caller_with_threads() {
    let bench = Bench::new();
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || receiver.recv().is_ok());
    let error = bench.run(&plan(&["/bin/true"]), &[rootfs()]).unwrap_err();
    assert_eq!(error.to_string(), "clone the process in its namespaces");
    sender.send(()).unwrap();
    thread.join().unwrap();
}

fn starting_twice() {
    let bench = Bench::new();
    let root = [rootfs()];
    let plan = plan(&["/bin/true"]);
    let (mut launch, _out, _err) = bench.begin(&plan, &root, &|_| None).unwrap();
    assert_eq!(
        launch.start().unwrap_err().to_string(),
        "start: the container is not waiting for it"
    );
    assert!(matches!(
        step(&mut launch).unwrap(),
        Progress::Created { .. }
    ));
    launch.start().unwrap();
    assert!(launch.start().is_err());
    while !matches!(step(&mut launch).unwrap(), Progress::Started { .. }) {}
    reap(launch.pidfd());
}

/// CVE-2024-21626: a working directory that is a descriptor of the host's, left open.
fn no_way_out_by_a_descriptor() {
    let leak = std::fs::File::open("/").unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    let bench = Bench::new();
    let sleeper = plan(&["/bin/sh", "-c", "echo here; exec sleep 100"]);
    let mut running = bench.launch(&sleeper, &[rootfs()]).unwrap();
    running.line();
    for number in 0..40 {
        let cwd = format!("/proc/self/fd/{number}");
        let mut process = process(&["/bin/pwd"]);
        process.cwd.clone_from(&cwd);
        let error = bench
            .exec(running.launch.pidfd(), &process)
            .expect_err("no descriptor is a directory");
        assert_eq!(error.kind(), Kind::InvalidArgument, "{error:?}");
        let mut plan = plan(&["/bin/pwd"]);
        plan.process.cwd = cwd;
        let error = bench.run(&plan, &[rootfs()]).expect_err("nor here");
        assert_eq!(error.kind(), Kind::InvalidArgument, "{error:?}");
    }
    running.kill();
}
