use std::fs;
use std::process::{Command, Stdio as ProcessStdio};

use supervisor_api::*;

use crate::harness::*;

#[test]
fn an_oom_kill_is_told() {
    let mut pod = Pod::ready();
    let mut plan = pod.plan("c", "exec tail /dev/zero");
    plan.resources.memory_limit_bytes = Some(16 << 20);
    // No swap, which would only put it off.
    plan.resources.memory_swap_bytes = Some(16 << 20);
    pod.create(plan).unwrap();
    pod.start("c").unwrap();
    let exit = pod.client.exit("c");
    assert_eq!((exit.exit_code, exit.oom_killed), (137, true));

    // A child's counts as well.
    let mut plan = pod.plan("d", "tail /dev/zero; exit 3");
    plan.resources.memory_limit_bytes = Some(16 << 20);
    // No swap, which would only put it off.
    plan.resources.memory_swap_bytes = Some(16 << 20);
    pod.create(plan).unwrap();
    pod.start("d").unwrap();
    let exit = pod.client.exit("d");
    assert_eq!((exit.exit_code, exit.oom_killed), (3, true));
    assert_eq!(pod.record("d"), Some(exit));
    pod.finish();
}

#[test]
fn stopping_kills_everything_and_keeps_the_records() {
    let mut pod = Pod::ready();
    let running = pod.run("running", "setsid sleep 1000 & sleep 1000");
    let plan = pod.plan("created", "true");
    let created = pod.create(plan).unwrap();
    let (request, output) = pod.exec("running", "e", "setsid sleep 1000 & sleep 1000");
    pod.client.start_exec(request).unwrap();
    pod.order(RequestBody::StopSandbox);
    assert!(!alive(running) && !alive(created));
    assert_eq!(output.read_to_end(), "");
    let state = pod.state();
    assert_eq!(state.sandbox, SandboxState::Stopped);
    for container in state.containers {
        let ContainerStatus::Exited(exit) = container.status else {
            panic!("{container:?}");
        };
        assert_eq!(exit.exit_code, 137);
        assert_eq!(pod.record(&container.id), Some(exit));
    }
    pod.order(RequestBody::StopSandbox);
    pod.finish();
}

#[test]
fn the_supervisor_leaves_the_host_alone() {
    let pod = Pod::ready();
    let pid = pod.process.id();
    // Its own nearly empty root: nothing of the host's is pinned.
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let points: Vec<&str> = mounts
        .lines()
        .map(|line| line.split(' ').nth(4).unwrap())
        .collect();
    assert_eq!(points, ["/", "/proc", "/sys", "/shm"]);
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session: u32 = status
        .rsplit(") ")
        .next()
        .unwrap()
        .split(' ')
        .nth(3)
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(session, pid);
    assert_eq!(name_of(pid as i32), "longshore-pod");
    let stdin = fs::read_link(format!("/proc/{pid}/fd/0")).unwrap();
    assert_eq!(stdin.to_str(), Some("/dev/null"));
    pod.finish();
}

#[test]
fn wrong_arguments_are_refused() {
    for (arguments, said) in [
        (&[][..], "--id is missing"),
        (&["--id", "x"], "--dir is missing"),
        (&["--id", "x", "--dir", "relative"], "not absolute"),
        (&["--wrong", "x"], "--wrong is unknown"),
        (&["--id"], "has no value"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_longshore-pod"))
            .args(arguments)
            .stdin(ProcessStdio::null())
            .output()
            .unwrap();
        assert!(!output.status.success());
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(
            text.starts_with("longshore-pod: ") && text.contains(said),
            "{text}"
        );
    }
}

#[test]
fn a_killed_supervisor_takes_the_pod_s_init_with_it_and_its_log_process_ends() {
    let mut pod = Pod::bare();
    let mut plan = pod.sandbox_plan();
    plan.namespaces.pid = true;
    pod.client
        .call(RequestBody::CreateSandbox(plan), vec![])
        .unwrap();
    let init = pod.state().init_pid.unwrap();
    let mut plan = pod.plan("c", "echo ready; read forever");
    plan.namespaces.pid = oci_plan::NamespaceSource::Pod;
    let log = pod.log_file("c");
    let container = pod.create_with(plan, log, true).unwrap();
    pod.start("c").unwrap();
    within(|| (pod.log("c").shown("stdout") == "ready\n").then_some(()));
    let family = children(pod.process.id() as i32);
    assert_eq!(family.len(), 3);
    pod.process.kill().unwrap();
    // The kernel ends the namespace with its init, and the log process has nothing more to read.
    for pid in family {
        within(|| (!alive(pid)).then_some(()));
    }
    assert!(!alive(init) && !alive(container));
}
