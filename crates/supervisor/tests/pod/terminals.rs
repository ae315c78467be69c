use oci_plan::TerminalSize;
use supervisor_api::*;

use crate::harness::*;

const SIZE: TerminalSize = TerminalSize {
    rows: 24,
    columns: 80,
};

fn resize(id: &str, rows: u16, columns: u16) -> RequestBody {
    RequestBody::ResizeTerminal {
        id: id.to_owned(),
        size: TerminalSize { rows, columns },
    }
}

#[test]
fn a_container_with_a_terminal() {
    let mut pod = Pod::ready();
    let mut plan = pod.plan(
        "c",
        "stty size; trap 'stty size; exit 2' WINCH; echo ready >&2; while :; do sleep 0.05; done",
    );
    plan.process.terminal = Some(SIZE);
    pod.create(plan).unwrap();
    pod.start("c").unwrap();
    // One stream, and lines end as a terminal ends them.
    within(|| (pod.log("c").shown("stdout") == "24 80\r\nready\r\n").then_some(()));
    pod.order(resize("c", 40, 132));
    assert_eq!(pod.client.exit("c").exit_code, 2);
    assert_eq!(pod.log("c").shown("stdout"), "24 80\r\nready\r\n40 132\r\n");
    assert_eq!(
        pod.client.error(resize("c", 1, 1)).kind,
        ErrorKind::FailedPrecondition
    );
    assert_eq!(
        pod.client.error(resize("nobody", 1, 1)).kind,
        ErrorKind::NotFound
    );
    pod.finish();
}

#[test]
fn no_byte_of_a_terminal_is_lost() {
    let mut pod = Pod::ready();
    let mut plan = pod.plan("c", "exec seq 1 20000");
    plan.process.terminal = Some(SIZE);
    pod.create(plan).unwrap();
    pod.start("c").unwrap();
    pod.client.exit("c");
    let expected: String = (1..=20_000).map(|number| format!("{number}\r\n")).collect();
    assert_eq!(pod.log("c").shown("stdout"), expected);
    pod.finish();
}

#[test]
fn an_exec_with_a_terminal() {
    let mut pod = Pod::ready();
    let plan = pod.plan("c", "read forever");
    let log = pod.log_file("c");
    pod.create_with(plan, log, true).unwrap();
    pod.start("c").unwrap();

    let script =
        "stty -echo; tty; echo ready; read line; echo \"got $line\"; stty size; seq 1 5000; exit 5";
    let (mut request, _none) = pod.exec("c", "e", script);
    on_terminal(&mut request);
    let (_, master) = pod.client.start_exec_on_terminal(request).unwrap();
    let master = Output(master.unwrap());
    let seen = master.read_until("ready\r\n");
    assert!(seen.starts_with("/dev/pts/"), "{seen}");
    let size = rustix::termios::Winsize {
        ws_row: 50,
        ws_col: 100,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&master.0, size).unwrap();
    rustix::io::write(&master.0, b"hello\n").unwrap();
    let numbers: String = (1..=5000).map(|number| format!("{number}\r\n")).collect();
    assert_eq!(
        master.read_terminal(),
        format!("got hello\r\n50 100\r\n{numbers}")
    );
    assert_eq!(pod.client.exec_exit("e"), (5, None));

    // Its terminal is all that it has.
    let (mut request, _output) = pod.exec("c", "e", "true");
    request.exec.process.terminal = Some(SIZE);
    assert_eq!(
        pod.client.start_exec(request).unwrap_err().kind,
        ErrorKind::InvalidArgument
    );
    pod.finish();
}

#[test]
fn a_terminal_that_the_daemon_lets_go_hangs_up() {
    let mut pod = Pod::ready();
    let plan = pod.plan("c", "read forever");
    let log = pod.log_file("c");
    pod.create_with(plan, log, true).unwrap();
    pod.start("c").unwrap();
    let (mut request, _none) = pod.exec("c", "e", "sleep 1000");
    on_terminal(&mut request);
    let (_, master) = pod.client.start_exec_on_terminal(request).unwrap();
    drop(master);
    assert_eq!(pod.client.exec_exit("e"), (129, None));
    pod.finish();
}

fn on_terminal(request: &mut ExecRequest) {
    request.exec.process.terminal = Some(SIZE);
    (request.exec.stdout, request.exec.stderr) = (None, None);
    request.descriptors.clear();
}

#[test]
fn stdin_is_kept_open_or_is_null() {
    let mut pod = Pod::ready();
    assert_eq!(
        pod.run_to_end("null", "readlink /proc/self/fd/0; read x || exit 3")
            .exit_code,
        3
    );
    assert_eq!(pod.log("null").shown("stdout"), "/dev/null\n");

    let plan = pod.plan("open", "echo ready; read line; echo got $line");
    let log = pod.log_file("open");
    let pid = pod.create_with(plan, log, true).unwrap();
    pod.start("open").unwrap();
    within(|| (pod.log("open").shown("stdout") == "ready\n").then_some(()));
    assert!(alive(pid));
    let attached = pod.attach("open", "a", 65536);
    assert!(attached.input && !attached.terminal);
    attached.write("words\n");
    assert_eq!(pod.client.exit("open").exit_code, 0);
    assert_eq!(pod.log("open").shown("stdout"), "ready\ngot words\n");
    pod.finish();
}
