use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use oci_plan::FdSlot;
use rustix::event::{PollFd, PollFlags, Timespec};
use supervisor_api::*;

use crate::harness::*;

fn log_process(pod: &Pod) -> Option<i32> {
    let children = children(pod.process.id() as i32);
    let log = |&pid: &i32| name_of(pid) == "longshore-log" && alive(pid);
    children.into_iter().find(log)
}

#[test]
fn lines_are_framed_and_split() {
    let mut pod = Pod::ready();
    let exit = pod.run_to_end(
        "c",
        "head -c 16384 /dev/zero | tr '\\0' a; echo
         head -c 40000 /dev/zero | tr '\\0' b; echo
         echo; echo -n end; echo -n 'err' >&2",
    );
    assert_eq!((exit.exit_code, exit.message), (0, None));
    let log = pod.log("c");
    let stdout: Vec<(char, usize)> = log
        .0
        .iter()
        .filter(|entry| entry.stream == "stdout")
        .map(|entry| (entry.tag, entry.content.len()))
        .collect();
    assert_eq!(
        stdout,
        [
            ('F', 16384),
            ('P', 16384),
            ('P', 16384),
            ('F', 7232),
            ('F', 0),
            ('P', 3)
        ]
    );
    assert_eq!(log.shown("stderr"), "err");
    pod.finish();
}

#[test]
fn no_byte_is_lost_when_it_ends_at_once() {
    let mut pod = Pod::ready();
    // More than 10 MB in lines, and no pause before the end.
    pod.run_to_end("c", "exec seq 1 1500000");
    let shown = pod.log("c").shown("stdout");
    let expected: String = (1..=1_500_000)
        .map(|number| format!("{number}\n"))
        .collect();
    assert!(
        shown == expected,
        "{} of {} bytes",
        shown.len(),
        expected.len()
    );

    // And in one line.
    pod.run_to_end("d", "exec head -c 3000000 /dev/zero");
    let shown = pod.log("d").shown("stdout");
    assert_eq!(shown.len(), 3_000_000);
    pod.finish();
}

#[test]
fn reopening_under_load_loses_nothing() {
    let mut pod = Pod::ready();
    pod.run("c", "exec seq 1 800000");
    let mut files = vec!["c".to_owned()];
    for number in 0..20 {
        let name = format!("c.{number}");
        let file = pod.log_file(&name);
        let old = files.last().unwrap().clone();
        let body = RequestBody::ReopenLog {
            id: "c".to_owned(),
            log: FdSlot(0),
        };
        pod.client.call(body, vec![file]).unwrap();
        // From the answer on, nothing goes to the old one.
        let size = fs::metadata(pod.log_path(&old)).unwrap().len();
        files.push(name);
        std::thread::sleep(std::time::Duration::from_millis(10));
        assert_eq!(fs::metadata(pod.log_path(&old)).unwrap().len(), size);
    }
    pod.client.exit("c");
    let shown: String = files
        .iter()
        .map(|name| pod.log(name).shown("stdout"))
        .collect();
    let expected: String = (1..=800_000).map(|number| format!("{number}\n")).collect();
    assert!(
        shown == expected,
        "{} of {} bytes",
        shown.len(),
        expected.len()
    );
    pod.finish();
}

#[test]
fn somebody_who_keeps_the_pipe_delays_the_exit_and_is_still_heard() {
    let mut pod = Pod::ready();
    let plan = pod.plan("c", "echo before; read go");
    let log = pod.log_file("c");
    let pid = pod.create_with(plan, log, true).unwrap();
    pod.start("c").unwrap();
    within(|| (pod.log("c").shown("stdout") == "before\n").then_some(()));
    let mut holder = fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/{pid}/fd/1"))
        .unwrap();
    kill(pid);
    // Without an end of the pipe, but with all that was written until then.
    holder.write_all(b"held").unwrap();
    let exit = pod.client.exit("c");
    assert_eq!((exit.exit_code, exit.message), (137, None));
    assert_eq!(pod.log("c").shown("stdout"), "before\nheld");
    // Its holder lives, and is read.
    holder.write_all(b"late\n").unwrap();
    within(|| (pod.log("c").shown("stdout") == "before\nheldlate\n").then_some(()));
    drop(holder);
    pod.order(RequestBody::DeleteContainer { id: "c".to_owned() });
    pod.finish();
}

#[test]
fn a_full_disk_stops_neither_the_container_nor_its_pod() {
    let mut pod = Pod::ready();
    let (file, _mount) = small_file(64);
    let plan = pod.plan("full", "seq 1 100000; echo done >&2; exit 4");
    pod.create_with(plan, file.try_clone().unwrap(), false)
        .unwrap();
    pod.start("full").unwrap();
    let exit = pod.client.exit("full");
    assert_eq!(exit.exit_code, 4);
    let message = exit.message.unwrap();
    assert!(
        message.contains("bytes of its log were not written: No space left"),
        "{message}"
    );
    let lost: usize = message.split(' ').next().unwrap().parse().unwrap();
    let kept = read_all(file.as_fd());
    assert_eq!(kept.len(), 64 << 10);
    // Each line has 40 bytes before it and one after.
    let lines: usize = (1..=100_000_usize)
        .map(|number| 41 + number.to_string().len())
        .sum();
    let all = lines + "2026-11-21T08:00:00.123456789Z stderr F done\n".len();
    assert_eq!(lost + kept.len(), all);
    assert_eq!(pod.run_to_end("other", "echo fine").message, None);
    assert_eq!(pod.log("other").shown("stdout"), "fine\n");
    pod.finish();
}

#[test]
fn a_container_outlives_its_log_process() {
    let mut pod = Pod::ready();
    let script = "for n in $(seq 50); do echo $n; done
        until [ -e /dev/shm/go ]; do sleep 0.01; done
        for n in $(seq 51 100); do echo $n; done";
    pod.run("c", script);
    pod.run_to_end("other", "echo done");
    within(|| {
        pod.log("c")
            .shown("stdout")
            .ends_with("\n50\n")
            .then_some(())
    });
    let first = log_process(&pod).unwrap();
    kill(first);
    // Killed again as soon as it is there again: the third one comes after a pause, and finds everything in the pipe.
    let second = within(|| log_process(&pod).filter(|&pid| pid != first));
    kill(second);
    let (go, _output) = pod.exec("c", "go", "touch /dev/shm/go");
    pod.client.start_exec(go).unwrap();
    let file = pod.log_file("reopened");
    let body = RequestBody::ReopenLog {
        id: "c".to_owned(),
        log: FdSlot(0),
    };
    pod.client.call(body, vec![file]).unwrap();
    let exit = pod.client.exit("c");
    assert_eq!(exit.exit_code, 0);
    assert!(exit.message.unwrap().contains("log process"));
    let shown = pod.log("c").shown("stdout") + &pod.log("reopened").shown("stdout");
    // None of them had a read in its hands when it was killed.
    let all: Vec<String> = (1..=100).map(|n| n.to_string()).collect();
    assert_eq!(shown.lines().collect::<Vec<_>>(), all);
    assert_eq!(pod.run_to_end("new", "echo fine").message, None);
    assert_eq!(pod.log("new").shown("stdout"), "fine\n");
    pod.finish();
}

#[test]
fn output_without_a_log_is_dropped() {
    let mut pod = Pod::ready();
    let request = CreateContainer {
        plan: pod.plan("c", "seq 1 100000"),
        stdio: Stdio {
            log: None,
            stdin: false,
            stdin_once: false,
        },
    };
    let root = pod.root();
    pod.client
        .call(RequestBody::CreateContainer(Box::new(request)), vec![root])
        .unwrap();
    pod.start("c").unwrap();
    assert_eq!(pod.client.exit("c").exit_code, 0);
    pod.finish();
}

#[test]
fn another_user_can_open_its_own_standard_output() {
    let mut pod = Pod::ready();
    let mut plan = pod.plan("c", "echo one > /dev/stdout; echo two > /proc/self/fd/2");
    plan.process.user.uid = 1000;
    plan.process.user.gid = 1000;
    plan.process.capabilities = Default::default();
    pod.create(plan).unwrap();
    pod.start("c").unwrap();
    assert_eq!(pod.client.exit("c").exit_code, 0);
    assert_eq!(pod.log("c").shown("stdout"), "one\n");
    assert_eq!(pod.log("c").shown("stderr"), "two\n");
    pod.finish();
}

fn writable(pipe: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pipe, PollFlags::OUT)];
    let now = Timespec::default();
    rustix::event::poll(&mut fds, Some(&now)).unwrap() > 0
}

fn asleep(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| stat.contains(") S "))
}

#[test]
fn a_log_that_blocks_holds_up_its_own_pod_s_logs_and_nothing_else() {
    let mut pod = Pod::ready();
    // A pipe that nobody reads stands for a file system that does not answer.
    let (_reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let full = writer.try_clone().unwrap();
    let plan = pod.plan("c", "exec seq 1 30000");
    let pid = pod.create_with(plan, writer, false).unwrap();
    pod.start("c").unwrap();
    // The program fills the log, then its own pipe, and sleeps until somebody reads.
    within(|| (!writable(&full) && asleep(pid)).then_some(()));
    let plan = pod.plan("d", "read forever");
    let log = pod.log_file("d");
    pod.create_with(plan, log, true).unwrap();
    pod.start("d").unwrap();
    let (request, output) = pod.exec("d", "e", "echo fine");
    pod.client.start_exec(request).unwrap();
    assert_eq!(output.read_to_end(), "fine\n");
    // Killed, its exit is told although its log is not written.
    pod.order(RequestBody::Signal {
        id: "c".to_owned(),
        signal: 9,
        all: true,
    });
    let exit = pod.client.exit("c");
    assert_eq!(exit.exit_code, 137);
    assert!(exit.message.unwrap().contains("blocks"));
    pod.finish();
}
