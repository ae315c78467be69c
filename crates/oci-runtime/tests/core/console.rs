//! Terminals.

use oci_plan::TerminalSize;

use crate::bench::{Bench, plan, process, rootfs};

pub(crate) const CASES: &[crate::Case] = &[
    ("console::a_containers_terminal", a_containers_terminal),
    ("console::an_execs_terminal", an_execs_terminal),
    ("console::without_devpts", without_devpts),
];

const SIZE: TerminalSize = TerminalSize {
    rows: 33,
    columns: 99,
};

fn a_containers_terminal() {
    let bench = Bench::new();
    let mut plan = plan(&[
        "/bin/sh",
        "-c",
        "tty; stty size; stat -c '%u %t' /dev/pts/0; stat -c '%t:%T' /dev/console; echo to-tty >/dev/tty; echo err >&2; ls /proc/self/fd | tr '\\n' ' '",
    ]);
    plan.process.terminal = Some(SIZE);
    plan.process.user.uid = 1000;
    let outcome = bench.run(&plan, &[rootfs()]).unwrap();
    assert_eq!(
        outcome.lines(),
        [
            "/dev/pts/0",
            "33 99",
            "1000 88",
            "88:0",
            "to-tty",
            "err",
            "0 1 2 3 "
        ]
    );
}

fn an_execs_terminal() {
    let bench = Bench::new();
    let sleeper = plan(&["/bin/sh", "-c", "echo here; exec sleep 100"]);
    let mut running = bench.launch(&sleeper, &[rootfs()]).unwrap();
    running.line();
    let mut process = process(&["/bin/sh", "-c", "tty; stty size; echo to-tty >/dev/tty"]);
    process.terminal = Some(SIZE);
    let outcome = bench.exec(running.launch.pidfd(), &process).unwrap();
    assert_eq!(outcome.lines(), ["/dev/pts/0", "33 99", "to-tty"]);
    running.kill();
}

fn without_devpts() {
    let bench = Bench::new();
    let mut plan = plan(&["/bin/sh"]);
    plan.mounts.retain(|mount| mount.target != "/dev/pts");
    plan.process.terminal = Some(SIZE);
    let error = bench.run(&plan, &[rootfs()]).unwrap_err();
    assert_eq!(error.to_string(), "open a terminal /dev/pts/ptmx");
}
