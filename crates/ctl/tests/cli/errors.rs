use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::thread;

use crate::fake::{Extras, Fake};
use crate::{Bench, Outcome, longshore};

fn against(socket: &std::path::Path, arguments: &[&str]) -> Outcome {
    let mut command = longshore();
    command.arg("-r").arg(socket).args(arguments);
    Outcome::of(command.output().unwrap())
}

#[test]
fn a_runtime_that_is_not_there_is_said_so() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("cri.sock");
    let shown = socket.display();
    let missing = against(&socket, &["ps"]);
    assert_eq!(missing.code, 1);
    assert_eq!(
        missing.stderr,
        format!("longshore: connect to {shown}: no such file (is longshored running?)\n")
    );
    drop(UnixListener::bind(&socket).unwrap());
    assert_eq!(
        against(&socket, &["stop", "a", "b"]).stderr,
        format!("longshore: connect to {shown}: nobody listens there (is longshored running?)\n")
    );
    let scheme = longshore()
        .args(["-r", "tcp://1.2.3.4:5", "ps"])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(scheme.stderr).unwrap(),
        "longshore: runtime endpoint: endpoint \"tcp://1.2.3.4:5\": scheme \"tcp\" is not supported, use unix:///PATH\n"
    );
}

#[test]
fn a_runtime_that_is_being_started_is_waited_for_where_that_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("cri.sock");
    let child = longshore()
        .arg("-r")
        .arg(&socket)
        .args(["--max-retries", "-1", "version"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Whether it comes before or after the first attempt is left to chance; without the attempts it would hardly ever succeed.
    thread::sleep(std::time::Duration::from_millis(700));
    let _fake = Fake::start(&socket, directory.path(), Extras::None);
    let outcome = Outcome::of(child.wait_with_output().unwrap());
    assert_eq!(outcome.code, 0);
    let tried = against(
        &directory.path().join("none.sock"),
        &["--max-retries=1", "ps"],
    );
    assert_eq!((tried.code, tried.stderr.lines().count()), (1, 1));
}

#[test]
fn a_socket_that_hangs_or_talks_nonsense_ends_in_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let silent = directory.path().join("silent.sock");
    // Accepted by the kernel, answered by nobody.
    let listener = UnixListener::bind(&silent).unwrap();
    let outcome = against(&silent, &["-t", "300ms", "version"]);
    assert_eq!(
        (outcome.code, outcome.stderr.lines().count()),
        (1, 1),
        "{}",
        outcome.stderr
    );
    assert_eq!(
        outcome.stderr,
        "longshore: get the runtime's version: DEADLINE_EXCEEDED: no answer within 300ms\n"
    );
    drop(listener);

    let loud = directory.path().join("loud.sock");
    let listener = UnixListener::bind(&loud).unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut greeting = [0; 24];
        stream.read_exact(&mut greeting).unwrap();
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .unwrap();
    });
    let outcome = against(&loud, &["-t", "5s", "version"]);
    assert_eq!(
        (outcome.code, outcome.stderr.lines().count()),
        (1, 1),
        "{}",
        outcome.stderr
    );
    server.join().unwrap();
}

#[test]
fn what_the_runtime_does_not_do_is_named() {
    let bench = Bench::start();
    let outcome = bench.run(&["statsp"]);
    assert_eq!(outcome.code, 1);
    assert_eq!(
        outcome.stderr,
        "longshore: list the pods' statistics: UNIMPLEMENTED: not implemented: list_pod_sandbox_stats\n"
    );
    for (command, operation) in [
        ("metricsp", "list the pods' metrics"),
        ("metricdescs", "list what metrics there are"),
        ("events", "ask for events"),
        ("event", "ask for events"),
    ] {
        let outcome = bench.run(&[command]);
        assert_eq!(outcome.code, 1);
        let begin = format!("longshore: {operation}: UNIMPLEMENTED");
        assert!(outcome.stderr.starts_with(&begin), "{}", outcome.stderr);
    }
    for usage in [
        &["events", "-o", "table"][..],
        &["metricsp", "-o", "table"],
        &["metricdescs", "-o", "table"],
        &["pods", "-o", "go-template"],
        &["pods", "--name", "("],
        &["nonsense"],
        &["ps", "--nonsense"],
        &[],
    ] {
        assert_eq!(bench.run(usage).code, 2, "{usage:?}");
    }
    let help = bench.run(&["--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
}

#[test]
fn a_closed_pipe_is_no_error() {
    let bench = Bench::start();
    let mut child = bench
        .command(&["pods"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let outcome = Outcome::of(child.wait_with_output().unwrap());
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
}
