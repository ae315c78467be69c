//! What a pod costs: time of each request (least, median and 90th percentile, microseconds) and memory at rest.
//!
//! `LONGSHORE_POD=<path>` measures another build of the binary, the static one above all.

#![allow(clippy::print_stdout, reason = "a table is what this is for")]
#![allow(clippy::unwrap_used, reason = "a failure ends the measurement")]

#[path = "../tests/pod/harness.rs"]
mod harness;

use std::fs;
use std::time::Instant;

use supervisor_api::*;

use harness::*;

const ROUNDS: usize = 200;

fn main() {
    let mut times: Vec<(&str, Vec<u128>)> = Vec::new();
    let mut record = |name: &'static str, since: Instant| {
        let elapsed = since.elapsed().as_micros();
        match times.iter_mut().find(|(known, _)| *known == name) {
            Some((_, all)) => all.push(elapsed),
            None => times.push((name, vec![elapsed])),
        }
    };

    for _ in 0..20 {
        let before = Instant::now();
        let mut pod = Pod::bare();
        record("spawn to Hello, with a root file system made", before);
        let plan = pod.sandbox_plan();
        let before = Instant::now();
        pod.client
            .call(RequestBody::CreateSandbox(plan), vec![])
            .unwrap();
        record("CreateSandbox", before);
        let before = Instant::now();
        pod.finish();
        record("StopSandbox, Shutdown, exit", before);
    }

    let mut pod = Pod::ready();
    for round in 0..ROUNDS {
        let id = format!("c{round}");
        let plan = pod.plan(&id, "exit 0");
        let before = Instant::now();
        pod.create(plan).unwrap();
        record("CreateContainer", before);
        let before = Instant::now();
        pod.start(&id).unwrap();
        record("StartContainer", before);
        let before = Instant::now();
        pod.client.exit(&id);
        record("program and exit record", before);
        let before = Instant::now();
        pod.order(RequestBody::DeleteContainer { id });
        record("DeleteContainer", before);
    }

    let plan = pod.plan("c", "read forever");
    let log = pod.log_file("c");
    pod.create_with(plan, log, true).unwrap();
    pod.start("c").unwrap();
    for round in 0..ROUNDS {
        let id = format!("e{round}");
        let (mut request, output) = pod.exec("c", &id, "");
        request.exec.process.args = vec!["/bin/true".to_owned()];
        let before = Instant::now();
        pod.client.start_exec(request).unwrap();
        record("Exec, started", before);
        drop(output);
        pod.client.exec_exit(&id);
        record("Exec, ended", before);
    }

    println!(
        "{:48} {:>8} {:>8} {:>8}",
        "microseconds", "least", "median", "p90"
    );
    for (name, mut all) in times {
        all.sort_unstable();
        let (median, p90) = (all[all.len() / 2], all[all.len() * 9 / 10]);
        println!("{name:48} {:8} {median:8} {p90:8}", all[0]);
    }
    let supervisor = i32::try_from(pod.process.id()).unwrap();
    let mut processes = vec![supervisor];
    processes.extend(children(supervisor));
    for pid in processes {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let field = |name: &str| {
            let line = rollup.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().to_owned()
        };
        println!(
            "{:16} Rss {:>5} kB  Pss {:>5} kB  anonymous {:>4} kB",
            name_of(pid),
            field("Rss:"),
            field("Pss:"),
            field("Anonymous:")
        );
    }
    pod.finish();
}
