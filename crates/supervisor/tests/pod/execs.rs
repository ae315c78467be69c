use supervisor_api::*;

use crate::harness::*;

/// A pod with a container that runs until it is killed.
fn pod() -> Pod {
    let mut pod = Pod::ready();
    let plan = pod.plan("c", "read forever");
    let log = pod.log_file("c");
    pod.create_with(plan, log, true).unwrap();
    pod.start("c").unwrap();
    pod
}

#[test]
fn output_and_status_come_back() {
    let mut pod = pod();
    let (request, output) = pod.exec("c", "e1", "echo out; echo err >&2; exit 6");
    pod.client.start_exec(request).unwrap();
    assert_eq!(output.read_to_end(), "out\nerr\n");
    assert_eq!(pod.client.exec_exit("e1"), (6, None));
    assert_eq!(pod.log("c").0, []);
    // Its cgroup is gone, and its id is free again.
    assert!(
        cgroup_directories(&format!("{}/c", pod.cgroup))
            .iter()
            .all(|path| path.ends_with("c"))
    );
    let (mut request, output) = pod.exec("c", "e1", "cat /proc/self/cgroup; hostname");
    request.exec.timeout_ms = Some(u64::MAX);
    pod.client.start_exec(request).unwrap();
    let text = output.read_to_end();
    assert!(text.ends_with("the-pod\n"), "{text}");
    assert_eq!(pod.client.exec_exit("e1"), (0, None));
    pod.finish();
}

#[test]
fn a_program_that_is_not_there() {
    let mut pod = pod();
    let (mut request, _output) = pod.exec("c", "e1", "");
    request.exec.process.args = vec!["nosuchprogram".to_owned()];
    let error = pod.client.start_exec(request).unwrap_err();
    assert_eq!(error.kind, ErrorKind::CannotExecute, "{error}");
    assert!(error.message.contains("exec e1 in container c"), "{error}");
    assert!(error.message.contains("nosuchprogram"), "{error}");
    pod.finish();
}

#[test]
fn a_timeout_kills_the_tree() {
    let mut pod = pod();
    let script = "setsid sleep 1000 & sleep 1000 & echo started; wait";
    let (mut request, output) = pod.exec("c", "e1", script);
    request.exec.timeout_ms = Some(300);
    pod.client.start_exec(request).unwrap();
    assert_eq!(pod.client.exec_exit("e1"), (137, Some(ExecKilled::Timeout)));
    // The end of the pipe says that nobody is left; a slow machine may not have come as far as to start anybody.
    assert!(["", "started\n"].contains(&&*output.read_to_end()));
    assert!(pod.state().containers.len() == 1);
    pod.finish();
}

#[test]
fn a_timeout_that_falls_into_the_launch_is_one_all_the_same() {
    let mut pod = pod();
    let error = within(|| {
        let (mut request, _output) = pod.exec("c", "e1", "sleep 1000");
        request.exec.timeout_ms = Some(0);
        // A launch may be faster than that.
        let started = pod.client.start_exec(request);
        if started.is_ok() {
            pod.client.exec_exit("e1");
        }
        started.err()
    });
    assert_eq!(error.kind, ErrorKind::DeadlineExceeded, "{error}");
    assert!(error.message.contains("exec e1 in container c"), "{error}");
    pod.finish();
}

#[test]
fn one_that_left_processes_behind_is_over_all_the_same() {
    let mut pod = pod();
    let (request, output) = pod.exec("c", "e1", "sleep 1000 >/dev/null 2>&1 & echo started");
    pod.client.start_exec(request).unwrap();
    assert_eq!(pod.client.exec_exit("e1"), (0, None));
    assert_eq!(output.read_to_end(), "started\n");
    let (request, output) = pod.exec("c", "e2", "ps");
    pod.client.start_exec(request).unwrap();
    assert!(output.read_to_end().contains("sleep 1000"));
    pod.finish();
}

#[test]
fn killed_on_request() {
    let mut pod = pod();
    let (request, output) = pod.exec("c", "e1", "setsid sleep 1000 & sleep 1000");
    pod.client.start_exec(request).unwrap();
    let kill = || RequestBody::KillExec {
        exec_id: "e1".to_owned(),
    };
    pod.order(kill());
    assert_eq!(
        pod.client.exec_exit("e1"),
        (137, Some(ExecKilled::Requested))
    );
    assert_eq!(output.read_to_end(), "");
    pod.order(kill());
    pod.finish();
}

#[test]
fn a_connection_that_ends_takes_its_execs_with_it() {
    let mut pod = pod();
    let mut other = Client::connect(pod.directory.path());
    other.greet();
    let (mut request, bound) = pod.exec("c", "bound", "setsid sleep 1000 & sleep 1000");
    request.exec.bound_to_connection = true;
    other.start_exec(request).unwrap();
    let (request, free) = pod.exec("c", "free", "sleep 0.5; echo done");
    other.start_exec(request).unwrap();
    drop(other);
    assert_eq!(
        pod.client.exec_exit("bound"),
        (137, Some(ExecKilled::ConnectionClosed))
    );
    assert_eq!(bound.read_to_end(), "");
    assert_eq!(pod.client.exec_exit("free"), (0, None));
    assert_eq!(free.read_to_end(), "done\n");
    pod.finish();
}

#[test]
fn refusals() {
    let mut pod = pod();
    let (mut request, _) = pod.exec("nobody", "e1", "true");
    assert_eq!(
        pod.client.start_exec(request).unwrap_err().kind,
        ErrorKind::NotFound
    );
    (request, _) = pod.exec("c", "e1", "true");
    request.exec.stderr = Some(oci_plan::FdSlot(9));
    assert_eq!(
        pod.client.start_exec(request).unwrap_err().kind,
        ErrorKind::InvalidArgument
    );
    let (request, _output) = pod.exec("c", "e1", "sleep 1000");
    pod.client.start_exec(request).unwrap();
    let (request, _other) = pod.exec("c", "e1", "true");
    assert_eq!(
        pod.client.start_exec(request).unwrap_err().kind,
        ErrorKind::FailedPrecondition
    );
    // The container's end is that of its execs.
    pod.order(RequestBody::Signal {
        id: "c".to_owned(),
        signal: 9,
        all: false,
    });
    assert_eq!(pod.client.exec_exit("e1"), (137, None));
    pod.client.exit("c");
    let (request, _) = pod.exec("c", "e2", "true");
    assert_eq!(
        pod.client.start_exec(request).unwrap_err().kind,
        ErrorKind::FailedPrecondition
    );
    pod.finish();
}

#[test]
fn many_at_once() {
    let mut pod = pod();
    let mut outputs = Vec::new();
    for number in 0..20 {
        let (request, output) = pod.exec("c", &format!("e{number}"), &format!("echo {number}"));
        let body = RequestBody::Exec(Box::new(request.exec));
        let sequence = pod.client.send(body, request.descriptors);
        outputs.push((number, sequence, output));
    }
    for (number, sequence, output) in outputs {
        pod.client.reply(sequence).unwrap();
        assert_eq!(output.read_to_end(), format!("{number}\n"));
        assert_eq!(pod.client.exec_exit(&format!("e{number}")), (0, None));
    }
    pod.finish();
}
