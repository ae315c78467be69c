use supervisor_api::*;

use crate::harness::*;

const CAPACITY: usize = 64 * 1024;

fn start(pod: &mut Pod, script: &str, once: bool) -> i32 {
    let plan = pod.plan("c", script);
    let log = pod.log_file("c");
    let pid = pod.create_with_stdin(plan, log, true, once).unwrap();
    pod.start("c").unwrap();
    pid
}

/// What the supervisor and its log process have open.
fn open_descriptors(pod: &Pod) -> usize {
    let supervisor = pod.process.id() as i32;
    // It has its name a moment after it was made.
    let log_process = within(|| {
        let children = children(supervisor);
        children
            .into_iter()
            .find(|pid| name_of(*pid) == "longshore-log")
    });
    [supervisor, log_process]
        .into_iter()
        .map(|pid| {
            std::fs::read_dir(format!("/proc/{pid}/fd"))
                .unwrap()
                .count()
        })
        .sum()
}

#[test]
fn output_fans_out_and_nothing_is_replayed() {
    let mut pod = Pod::ready();
    let script = "echo before; read a; echo out; echo err >&2; read b; exit 4";
    start(&mut pod, script, false);
    within(|| (pod.log("c").shown("stdout") == "before\n").then_some(()));
    let descriptors = open_descriptors(&pod);
    let one = pod.attach("c", "one", CAPACITY);
    let two = pod.attach("c", "two", CAPACITY);
    one.write("go\n");
    for attached in [&one, &two] {
        assert_eq!(attached.stdout.read_until("out\n"), "out\n");
        assert_eq!(attached.stderr.read_until("err\n"), "err\n");
    }
    // Who detaches leaves no trace, and the others and the container go on.
    drop(two);
    assert_eq!(pod.client.attach_end("two"), AttachEnd::Detached);
    one.write("go\n");
    assert_eq!(pod.client.attach_end("one"), AttachEnd::Output);
    assert_eq!(one.stdout.read_to_end(), "");
    assert_eq!(one.stderr.read_to_end(), "");
    drop(one.descriptor);
    assert_eq!(pod.client.exit("c").exit_code, 4);
    within(|| (open_descriptors(&pod) <= descriptors).then_some(()));
    assert_eq!(pod.log("c").shown("stdout"), "before\nout\n");
    pod.finish();
}

#[test]
fn output_at_the_very_end_arrives() {
    let mut pod = Pod::ready();
    start(&mut pod, "read a; seq 1 5000", false);
    let attached = pod.attach("c", "a", CAPACITY);
    attached.write("go\n");
    let expected: String = (1..=5000).map(|number| format!("{number}\n")).collect();
    assert_eq!(attached.stdout.read_to_end(), expected);
    assert_eq!(pod.client.attach_end("a"), AttachEnd::Output);
    pod.client.exit("c");
    pod.finish();
}

#[test]
fn a_laggard_is_disconnected_and_stalls_nobody() {
    let mut pod = Pod::ready();
    start(
        &mut pod,
        "read a; seq 1 30000; echo last >&2; read b",
        false,
    );
    let laggard = pod.attach("c", "laggard", 4096);
    let reader = pod.attach("c", "reader", 1 << 20);
    reader.write("go\n");
    assert_eq!(pod.client.attach_end("laggard"), AttachEnd::Lagged);
    // It still gets what fitted, and then the end of both streams.
    let seen = laggard.stdout.read_to_end();
    assert!(
        seen.starts_with("1\n2\n") && seen.len() <= 4096,
        "{}",
        seen.len()
    );
    assert_eq!(laggard.stderr.read_to_end(), "");
    let expected: String = (1..=30_000).map(|number| format!("{number}\n")).collect();
    assert_eq!(reader.stdout.read_until("\n30000\n"), expected);
    reader.stderr.read_until("last\n");
    within(|| (pod.log("c").shown("stdout") == expected).then_some(()));
    reader.write("go\n");
    assert_eq!(pod.client.exit("c").exit_code, 0);
    pod.finish();
}

#[test]
fn stdin_once_closes_after_the_first_attach() {
    let mut pod = Pod::ready();
    start(&mut pod, "cat; echo end; sleep 1000", true);
    let first = pod.attach("c", "first", CAPACITY);
    let second = pod.attach("c", "second", CAPACITY);
    assert!(first.input && !second.input);
    assert!(second.descriptor.is_none());
    first.write("words\n");
    assert_eq!(first.stdout.read_until("words\n"), "words\n");
    // Only the first one's end counts.
    let end = |attach_id: &str| RequestBody::EndInput {
        attach_id: attach_id.to_owned(),
    };
    pod.order(end("second"));
    first.write("more\n");
    assert_eq!(first.stdout.read_until("more\n"), "more\n");
    pod.order(end("first"));
    drop(first.descriptor);
    assert_eq!(first.stdout.read_until("end\n"), "end\n");
    assert_eq!(second.stdout.read_until("end\n"), "words\nmore\nend\n");
    assert!(!pod.attach("c", "third", CAPACITY).input);
    pod.finish();
}

#[test]
fn a_daemon_that_dies_ends_its_attaches() {
    let mut pod = Pod::ready();
    let pid = start(&mut pod, "cat; echo end; read x", true);
    let descriptors = open_descriptors(&pod);
    let mut other = Client::connect(pod.directory.path());
    other.greet();
    std::mem::swap(&mut pod.client, &mut other);
    let attached = pod.attach("c", "a", CAPACITY);
    attached.write("words\n");
    attached.stdout.read_until("words\n");
    std::mem::swap(&mut pod.client, &mut other);
    drop((other, attached));
    assert_eq!(pod.client.attach_end("a"), AttachEnd::Detached);
    // The end of its input was that of its connection, and `read` finds it too.
    pod.client.exit("c");
    assert!(!alive(pid));
    assert_eq!(pod.log("c").shown("stdout"), "words\nend\n");
    within(|| (open_descriptors(&pod) <= descriptors).then_some(()));
    pod.finish();
}

#[test]
fn without_stdin_once_the_input_outlives_each_attach() {
    let mut pod = Pod::ready();
    start(&mut pod, "while read line; do echo got $line; done", false);
    for word in ["one", "two"] {
        let attached = pod.attach("c", word, CAPACITY);
        attached.write(&format!("{word}\n"));
        attached.stdout.read_until(&format!("got {word}\n"));
        pod.order(RequestBody::EndInput {
            attach_id: word.to_owned(),
        });
    }
    pod.finish();
}

#[test]
fn a_terminal_is_written_to_and_resized_directly() {
    let mut pod = Pod::ready();
    let script = "stty -echo; echo ready; while read line; do echo $line; stty size; done";
    let mut plan = pod.plan("c", script);
    plan.process.terminal = Some(oci_plan::TerminalSize {
        rows: 24,
        columns: 80,
    });
    pod.create(plan).unwrap();
    pod.start("c").unwrap();
    within(|| (pod.log("c").shown("stdout") == "ready\r\n").then_some(()));
    let attached = pod.attach("c", "a", CAPACITY);
    assert!(attached.terminal && attached.input);
    let master = attached.descriptor.as_ref().unwrap();
    for rows in 1..=50 {
        let size = rustix::termios::Winsize {
            ws_row: rows,
            ws_col: 100,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(master, size).unwrap();
    }
    attached.write("line\n");
    assert_eq!(attached.stdout.read_until("100\r\n"), "line\r\n50 100\r\n");
    pod.finish();
}

#[test]
fn a_log_process_that_dies_is_said() {
    let mut pod = Pod::ready();
    start(&mut pod, "while read line; do echo $line; done", false);
    // It must have lived long enough not to be replaced after a pause.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let attached = pod.attach("c", "a", CAPACITY);
    let log_process = children(pod.process.id() as i32)
        .into_iter()
        .find(|pid| name_of(*pid) == "longshore-log");
    kill(log_process.unwrap());
    assert_eq!(pod.client.attach_end("a"), AttachEnd::Interrupted);
    assert_eq!(attached.stdout.read_to_end(), "");
    // The next one serves again.
    let again = pod.attach("c", "b", CAPACITY);
    again.write("words\n");
    again.stdout.read_until("words\n");
    pod.finish();
}

#[test]
fn refusals() {
    let mut pod = Pod::ready();
    let request = |id: &str| {
        RequestBody::Attach(Attach {
            container_id: id.to_owned(),
            attach_id: "a".to_owned(),
            stdin: true,
            stdout: None,
            stderr: None,
        })
    };
    assert_eq!(
        pod.client.error(request("nobody")).kind,
        ErrorKind::NotFound
    );
    let plan = pod.plan("c", "read x");
    pod.create(plan).unwrap();
    let error = pod.client.error(request("c"));
    assert_eq!(error.kind, ErrorKind::FailedPrecondition);
    assert!(error.message.contains("container c"), "{error}");
    pod.start("c").unwrap();
    pod.client.exit("c");
    assert_eq!(
        pod.client.error(request("c")).kind,
        ErrorKind::FailedPrecondition
    );
    pod.finish();
}
