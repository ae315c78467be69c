use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;

use crate::Bench;
use crate::fake::{CLIENT, DB_POD, SERVER, WEB_POD};
use crate::terminal::OnTerminal;

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
        logs(&["--until", "2026-11-21T08:00:01.5Z"]),
        both("one\n", "oops\n")
    );
    let between = &[
        "--since",
        "2026-11-21T08:00:01Z",
        "--until",
        "2026-11-21T08:00:01.5Z",
    ];
    assert_eq!(logs(between), both("", "oops\n"));
    assert_eq!(logs(&["--until", "20000h"]), both("", ""));
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

/// Adds to a log, which need not be there.
fn append(path: &str, text: &str) {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

#[test]
fn a_follower_sees_rotation_and_ends_with_the_container() {
    let bench = Bench::start();
    let path = bench.write("server.log", LOG);
    let append = |text: &str| append(&path, text);
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

#[test]
fn several_logs_say_whose_a_line_is() {
    let bench = Bench::start();
    bench.write("server.log", LOG);
    bench.write(
        "client.log",
        "2026-11-21T08:00:00.5Z stdout F hello\n2026-11-21T08:00:01Z stdout P no end",
    );
    let one_after_the_other = "server | one\nserver | two\nclient | hello\nclient | no end";
    for arguments in [
        &[SERVER, CLIENT][..],
        &["--pod", "web"],
        &["--pod", WEB_POD],
    ] {
        let shown = bench.run(&[&["logs", "--stream", "stdout"], arguments].concat());
        assert_eq!(shown.stdout, one_after_the_other);
        assert_eq!((shown.code, shown.stderr.as_str()), (0, ""));
    }
    let all = bench.run(&["logs", "--pod", "web"]);
    assert_eq!(all.stderr, "server | oops\n");

    std::fs::remove_file(bench.path("client.log")).unwrap();
    let partly = bench.run(&["logs", "--stream", "stdout", SERVER, "nobody", CLIENT]);
    assert_eq!(partly.code, 1);
    assert_eq!(partly.stdout, "server | one\nserver | two\n");
    let complaints: Vec<_> = partly.stderr.lines().collect();
    assert_eq!(complaints.len(), 2, "{}", partly.stderr);
    assert!(complaints[0].contains("nobody"), "{}", complaints[0]);
    assert!(
        complaints[1].contains("client.log: No such file"),
        "{}",
        complaints[1]
    );

    let both = bench.run(&["logs", "--pod", "web", SERVER]);
    assert_eq!(both.code, 2);
    let neither = bench.run(&["logs"]);
    assert_eq!(neither.code, 2);
    let of_another = bench.run(&["logs", "--pod", DB_POD, "-p"]);
    assert!(
        of_another.stderr.contains("/0.log"),
        "{}",
        of_another.stderr
    );
}

/// On a terminal names have colours, unless `NO_COLOR` is set; elsewhere there are none.
#[test]
fn names_have_colours_on_a_terminal_alone() {
    let bench = Bench::start();
    bench.write("server.log", LOG);
    bench.write("client.log", "2026-11-21T08:00:00.5Z stdout F hello\n");
    let drawn = |no_color: Option<&str>| {
        let mut terminal = OnTerminal::start(|inner| {
            let mut command = bench.command(&["logs", "--pod", "web"]);
            command.env_remove("NO_COLOR");
            command.envs(no_color.map(|value| ("NO_COLOR", value)));
            command
                .stdin(inner.try_clone().unwrap())
                .stdout(inner.try_clone().unwrap())
                .stderr(inner);
            command
        });
        terminal.end().1
    };
    let coloured = "\x1b[36mserver |\x1b[0m one";
    assert!(drawn(None).contains(coloured), "{:?}", drawn(None));
    // Empty is not set (no-color.org).
    assert!(drawn(Some("")).contains(coloured));
    let plain = drawn(Some("1"));
    assert!(
        plain.contains("server | one") && !plain.contains('\x1b'),
        "{plain:?}"
    );
    let elsewhere = bench.run(&["logs", "--pod", "web"]);
    assert!(!elsewhere.stdout.contains('\x1b'), "{}", elsewhere.stdout);
}

#[test]
fn several_are_followed_until_each_has_ended() {
    let bench = Bench::start();
    let path = bench.write("server.log", LOG);
    let other = bench.write("client.log", "");
    let mut child = bench
        .command(&["logs", "-f", SERVER, CLIENT])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = || {
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        line
    };
    assert_eq!(
        (line(), line()),
        ("server | one\n".into(), "server | two\n".into())
    );
    append(&other, "t stdout F from the client\n");
    assert_eq!(line(), "client | from the client\n");
    bench.fake.exit_server();
    append(&path, "t stdout F last\n");
    assert_eq!(line(), "server | last\n");
    // One has ended, and the other goes on.
    append(&other, "t stdout F still here\n");
    assert_eq!(line(), "client | still here\n");
    child.kill().unwrap();
    child.wait().unwrap();
}
