//! `top`, on a terminal and elsewhere.

use crate::Bench;
use crate::fake::SERVER;
use crate::terminal::OnTerminal;

fn top(bench: &Bench, arguments: &[&str]) -> OnTerminal {
    OnTerminal::start(|terminal| {
        let mut command = bench.command(&[&["top"], arguments].concat());
        command
            .stdin(terminal.try_clone().unwrap())
            .stdout(terminal.try_clone().unwrap())
            .stderr(terminal);
        command
    })
}

#[test]
fn elsewhere_than_on_a_terminal_tables_are_printed() {
    let bench = Bench::start();
    let lines = |arguments: &[&str]| -> Vec<Vec<String>> {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
        let all = [&["top", "-d", "1"], arguments].concat();
        bench.output(&all).lines().map(words).collect()
    };
    let containers = lines(&["--sort", "name"]);
    assert_eq!(
        containers[0].join(" "),
        "ID CONTAINER POD CPU % MEMORY DISK"
    );
    // The fake's containers use a quarter of a CPU between two samples.
    assert_eq!(
        containers[1..],
        [
            [
                "d333333333333",
                "client",
                "default/web",
                "25.0",
                "4.57MB",
                "8.19kB"
            ],
            [
                "c111111111111",
                "server",
                "default/web",
                "25.0",
                "4.57MB",
                "8.19kB"
            ]
        ]
    );
    let pods = lines(&["--pods", "-n", "2"]);
    assert_eq!(pods.len(), 4);
    assert_eq!(
        pods[3],
        ["aa11111111111", "default/web", "50.0", "9.13MB", "16.4kB"]
    );
    assert_eq!(bench.run(&["top", "-d", "0"]).code, 2);
}

#[test]
fn keys_choose_stop_and_show_logs_and_the_terminal_comes_back() {
    let bench = Bench::start();
    bench.write("server.log", "t stdout F a line of the log\n");
    let mut top = top(&bench, &["-d", "1"]);
    top.read_until("containers running: 2");
    // Of the client's line, which comes first, in reverse.
    top.read_until("\x1b[7md333333333333");
    top.type_in(b"p");
    top.read_until("pods running: 1");
    top.type_in(b"e");
    top.read_until("a shell is in a container");
    top.type_in(b"p\x1b[B");
    top.read_until("\x1b[7mc111111111111");

    top.type_in(b"s");
    top.read_until("stop server?");
    top.type_in(b"n");
    top.type_in(b"sy");
    top.read_until("server has stopped");
    let calls = bench.fake.calls();
    let stops: Vec<_> = calls
        .iter()
        .filter(|call| call.starts_with("stop"))
        .collect();
    assert_eq!(stops, [&format!("stop {SERVER} 30")]);

    top.forget();
    top.type_in(b"l");
    top.read_until("a line of the log");
    bench.fake.exit_server();
    // The log has ended, and the container is no longer shown.
    top.read_until("containers running: 1");
    top.type_in(b"q");
    let (_, drawn) = top.end();
    assert!(drawn.ends_with("\x1b[?25h\x1b[?1049l"), "{drawn:?}");
    assert!(top.is_restored());
}
