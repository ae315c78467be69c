use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;

use crate::Bench;
use crate::fake::SERVER;

const LOG: &str = "\
2026-11-21T08:00:00.000000001Z stdout F one
2026-11-21T08:00:01.000000001Z stderr F oops
2026-11-21T08:00:02.000000001Z stdout P tw
2026-11-21T08:00:03.000000001Z stdout F o
";

#[test]
fn logs_are_joined_and_cut() {
    let bench = Bench::start();
    bench.write("server.log", LOG);
    let logs = |arguments: &[&str]| {
        let outcome = bench.run(&[&["logs", SERVER], arguments].concat());
        assert_eq!(outcome.code, 0);
        (outcome.stdout, outcome.stderr)
    };
    let both = |out: &str, err: &str| (out.to_owned(), err.to_owned());
    assert_eq!(logs(&[]), both("one\ntwo\n", "oops\n"));
    assert_eq!(logs(&["--tail", "1"]), both("two\n", ""));
    assert_eq!(logs(&["--tail", "0"]), both("", ""));
    assert_eq!(logs(&["--stream", "stderr"]), both("", "oops\n"));
    assert_eq!(
        logs(&["--since", "2026-11-21T08:00:01Z"]),
        both("two\n", "oops\n")
    );
    assert_eq!(
        logs(&["-t", "--tail", "1"]),
        both("2026-11-21T08:00:02.000000001Z two\n", "")
    );
    let previous = bench.run(&["logs", "-p", SERVER]);
    assert!(
        previous.stderr.starts_with("longshore: read log "),
        "{}",
        previous.stderr
    );
    assert!(
        previous.stderr.contains("/0.log: No such file"),
        "{}",
        previous.stderr
    );
}

#[test]
fn a_follower_sees_rotation_and_ends_with_the_container() {
    let bench = Bench::start();
    let path = bench.write("server.log", LOG);
    let append = |text: &str| {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .unwrap();
        file.write_all(text.as_bytes()).unwrap();
    };
    let mut child = bench
        .command(&["logs", "-f", "--tail", "1", SERVER])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = || {
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        line
    };
    assert_eq!(line(), "two\n");
    append("t stdout F three\n");
    assert_eq!(line(), "three\n");
    fs::rename(&path, bench.path("server.log.1")).unwrap();
    append("t stdout F four\n");
    assert_eq!(line(), "four\n");
    append("t stdout F last\nt stdout P unfinished");
    bench.fake.exit_server();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "last\nunfinished");
    assert!(child.wait().unwrap().success());
}
