//! From `create` to `delete`.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::node::Node;

#[test]
fn a_container_lives_and_goes() {
    let node = Node::new();
    node.script("echo begun; trap 'exit 5' TERM; while :; do sleep 0.05; done");
    node.create("one").fine();
    let state = node.state("one");
    assert_eq!(state["status"], "created");
    assert_eq!(state["bundle"], node.bundle().display().to_string());
    assert!(state["pid"].as_i64().unwrap() > 0);
    assert_eq!(node.output(), "");
    assert!(node.create("one").refused().contains("exists already"));

    node.run(&["start", "one"]).fine();
    assert_eq!(node.state("one")["status"], "running");
    node.run(&["kill", "one", "0"]).fine();
    assert!(node.run(&["start", "one"]).refused().contains("is running"));
    node.await_text(&node.sandbox.directory().join("out"), "begun");

    let pids: Value = serde_json::from_str(&node.run(&["ps", "-f", "json", "one"]).fine()).unwrap();
    assert!(pids.as_array().unwrap().contains(&state["pid"]));
    assert!(node.run(&["ps", "one"]).fine().contains("echo begun"));
    assert_eq!(node.run(&["list", "-q"]).fine(), "one\n");
    let table = node.run(&["list"]).fine();
    assert!(table.lines().nth(1).unwrap().contains("running"), "{table}");

    assert!(
        node.run(&["delete", "one"])
            .refused()
            .contains("is running")
    );
    node.run(&["kill", "one"]).fine();
    node.await_status("one", "stopped");
    assert_eq!(node.state("one")["pid"], 0);
    assert!(node.run(&["kill", "one"]).refused().contains("not running"));
    assert!(
        node.run(&["kill", "one", "0"])
            .refused()
            .contains("not running")
    );
    node.run(&["kill", "--all", "one", "0"]).fine();
    node.run(&["delete", "one"]).fine();
    assert!(
        node.run(&["state", "one"])
            .refused()
            .contains("does not exist")
    );
    assert!(
        node.run(&["delete", "one"])
            .refused()
            .contains("does not exist")
    );
    node.run(&["delete", "--force", "one"]).fine();
    node.is_bare();
}

#[test]
fn a_created_or_running_container_can_be_deleted_by_force() {
    let node = Node::new();
    node.script("sleep 1000 & sleep 1000");
    node.create("one").fine();
    node.run(&["delete", "one"]).fine();
    node.is_bare();
    node.create("one").fine();
    node.run(&["start", "one"]).fine();
    node.run(&["pause", "one"]).fine();
    node.run(&["delete", "--force", "one"]).fine();
    node.is_bare();
}

#[test]
fn a_run_ends_as_its_program_does() {
    let node = Node::new();
    node.script("echo out; echo err >&2; exit 7");
    let said = node.with_bundle("run", &["one"]);
    assert_eq!(
        (said.code, said.out.as_str(), said.err.as_str()),
        (Some(7), "out\n", "err\n")
    );
    node.is_bare();
    // The first process of a PID namespace is deaf to its own; its child is not.
    node.script("sh -c 'kill -TERM $$'; exit $?");
    assert_eq!(node.with_bundle("run", &["one"]).code, Some(143));
    node.is_bare();
    node.script("exit 0");
    assert_eq!(node.with_bundle("run", &["--keep", "one"]).code, Some(0));
    assert_eq!(node.state("one")["status"], "stopped");
    node.run(&["delete", "one"]).fine();
    node.is_bare();
}

#[test]
fn a_program_that_is_not_there_is_told_where_it_is_started() {
    let node = Node::new();
    node.change(|spec| spec["process"]["args"] = json!(["no-such-program"]));
    let error = node.with_bundle("run", &["one"]).refused();
    assert!(error.contains("no-such-program"), "{error}");
    node.is_bare();
    node.create("one").fine();
    let error = node.run(&["start", "one"]).refused();
    assert!(error.contains("no-such-program"), "{error}");
    node.await_status("one", "stopped");
    node.run(&["delete", "one"]).fine();
    node.is_bare();
}

#[test]
fn an_exec_is_confined_as_init_is_unless_it_says_otherwise() {
    let node = Node::new();
    node.script("sleep 1000");
    node.create("one").fine();
    node.run(&["start", "one"]).fine();
    let exec = |arguments: &[&str]| node.run(&[&["exec"], arguments].concat());
    let said = exec(&["one", "sh", "-c", "exit 3"]);
    assert_eq!(said.code, Some(3));
    let said = exec(&["one", "sh", "-c", "kill -KILL $$"]);
    assert_eq!(said.code, Some(137));
    let mine = [
        "CapEff",
        "CapBnd",
        "NoNewPrivs",
        "Seccomp:",
        "Max open files",
    ];
    for field in mine {
        let look = |pid: &str| {
            let script = format!("grep -h '{field}' /proc/{pid}/status /proc/{pid}/limits");
            exec(&["one", "sh", "-c", &script]).fine()
        };
        let (init, own) = (look("1"), look("self"));
        assert_eq!(init, own, "{field}");
        assert!(!own.is_empty(), "{field}");
    }
    let script = "id; echo $NAME; pwd; cat /proc/self/status | grep CapEff";
    let said = exec(&[
        "--user",
        "33:34",
        "--additional-gids",
        "7",
        "--env",
        "NAME=value",
        "--cwd",
        "/tmp",
        "one",
        "sh",
        "-c",
        script,
    ]);
    let out = said.fine();
    assert!(out.contains("uid=33 gid=34 groups=7"), "{out}");
    assert!(out.contains("value\n/tmp\n"), "{out}");

    let process = node.sandbox.directory().join("process.json");
    let given = json!({
        "args": ["sh", "-c", "id -u; cat /proc/self/oom_score_adj"], "cwd": "/",
        "user": { "uid": 12, "gid": 12 }, "oomScoreAdj": 321,
    });
    let path = process.display().to_string();
    fs::write(&process, given.to_string()).unwrap();
    assert_eq!(exec(&["--process", &path, "one"]).fine(), "12\n321\n");
    fs::write(&process, r#"{ "args": ["id", "-u"], "cwd": "/" }"#).unwrap();
    assert_eq!(exec(&["--process", &path, "one"]).fine(), "0\n");

    let missing = exec(&["one", "no-such-program"]);
    assert_eq!(missing.code, Some(255));
    assert!(missing.err.contains("no-such-program"), "{}", missing.err);
    node.run(&["pause", "one"]).fine();
    assert_eq!(node.state("one")["status"], "paused");
    let paused = exec(&["one", "true"]);
    assert!(
        paused.err.contains("cannot exec in a paused container"),
        "{}",
        paused.err
    );
    assert!(node.run(&["pause", "one"]).refused().contains("paused"));
    node.run(&["resume", "one"]).fine();
    assert!(node.run(&["resume", "one"]).refused().contains("running"));
    assert_eq!(exec(&["one", "true"]).code, Some(0));
    node.run(&["delete", "--force", "one"]).fine();
    node.is_bare();
}

#[test]
fn a_detached_exec_leaves_its_pid() {
    let node = Node::new();
    node.script("sleep 1000");
    node.create("one").fine();
    node.run(&["start", "one"]).fine();
    let file = node.sandbox.directory().join("exec.pid");
    let path = file.display().to_string();
    node.run(&[
        "exec",
        "--detach",
        "--pid-file",
        &path,
        "one",
        "sh",
        "-c",
        "sleep 1001 >&- 2>&-",
    ])
    .fine();
    let pid: u32 = fs::read_to_string(&file).unwrap().parse().unwrap();
    let processes = node.sandbox.processes();
    assert!(processes.iter().any(|one| one.pid == pid), "{processes:?}");
    node.run(&["kill", "--all", "one", "KILL"]).fine();
    node.await_status("one", "stopped");
    node.run(&["delete", "one"]).fine();
    node.is_bare();
}

#[test]
fn limits_are_set_and_changed() {
    let node = Node::new();
    node.script("sleep 1000");
    node.change(|spec| {
        spec["linux"]["resources"]["memory"] = json!({ "limit": 64 << 20 });
        spec["linux"]["resources"]["pids"] = json!({ "limit": 33 });
    });
    node.create("one").fine();
    let limit = |v1: &str, v2: &str| {
        let name = format!("{}/one", node.sandbox.cgroup());
        let roots = testkit::sandbox::cgroup_hierarchies();
        let mut files = roots.iter().flat_map(|root| {
            let place = root.join(name.trim_start_matches('/'));
            [place.join(v1), place.join(v2)]
        });
        let found = files.find_map(|file| fs::read_to_string(file).ok());
        found.unwrap().trim().to_owned()
    };
    let memory = || limit("memory.limit_in_bytes", "memory.max");
    let pids = || limit("pids.max", "pids.max");
    assert_eq!(
        (memory(), pids()),
        ((64 << 20).to_string(), "33".to_owned())
    );
    node.run(&["update", "--memory", "128M", "--pids-limit", "44", "one"])
        .fine();
    assert_eq!(
        (memory(), pids()),
        ((128 << 20).to_string(), "44".to_owned())
    );
    let file = node.sandbox.directory().join("resources.json");
    fs::write(&file, json!({ "pids": { "limit": 55 } }).to_string()).unwrap();
    node.run(&["update", "--resources", file.to_str().unwrap(), "one"])
        .fine();
    assert_eq!(
        (memory(), pids()),
        ((128 << 20).to_string(), "55".to_owned())
    );
    node.run(&["delete", "one"]).fine();
    node.is_bare();
}

#[test]
fn figures_and_oom_kills_are_told_as_lines() {
    let node = Node::new();
    node.script("sleep 1000");
    node.change(|spec| {
        let limit = 32 << 20;
        spec["linux"]["resources"]["memory"] = json!({ "limit": limit, "swap": limit });
    });
    node.create("one").fine();
    node.run(&["start", "one"]).fine();
    let line = node.run(&["events", "--stats", "one"]).fine();
    assert!(
        line.starts_with(r#"{"type":"stats","id":"one","data":{"#),
        "{line}"
    );
    let stats: Value = serde_json::from_str(&line).unwrap();
    let memory = &stats["data"]["memory"]["usage"];
    assert!(memory["usage"].as_u64().unwrap() > 0, "{line}");
    assert_eq!(memory["limit"], 32 << 20, "{line}");
    assert!(stats["data"]["cpu"]["usage"]["total"].is_u64(), "{line}");
    assert_eq!(stats["data"]["pids"]["current"], 1, "{line}");

    let told = node.sandbox.directory().join("events");
    let mut events = node
        .command(&["events", "--interval", "100ms", "one"])
        .stdout(fs::File::create(&told).unwrap())
        .spawn()
        .unwrap();
    node.await_text(&told, "stats");
    // A line without an end has no place in 32 MiB.
    node.run(&["exec", "one", "sh", "-c", "tr '\\0' a </dev/zero | grep b"]);
    node.await_text(&told, "{\"type\":\"oom\",\"id\":\"one\"}\n");
    node.run(&["delete", "--force", "one"]).fine();
    assert!(events.wait().unwrap().success());
    let error = node.run(&["events", "one"]).refused();
    assert!(error.contains("does not exist"), "{error}");
    node.is_bare();
}

#[test]
fn a_cgroup_that_is_there_may_hold_others_and_may_not_be_frozen() {
    let node = Node::new();
    node.script("sleep 1000");
    let name = format!("{}/one", node.sandbox.cgroup());
    let roots = testkit::sandbox::cgroup_hierarchies();
    let places: Vec<_> = roots
        .iter()
        .map(|root| root.join(name.trim_start_matches('/')))
        .collect();
    let set = |state: [&str; 2]| {
        for place in &places {
            for (file, value) in ["freezer.state", "cgroup.freeze"].iter().zip(state) {
                if place.join(file).exists() {
                    fs::write(place.join(file), value).unwrap();
                }
            }
        }
    };
    places
        .iter()
        .for_each(|place| fs::create_dir_all(place).unwrap());
    set(["FROZEN", "1"]);
    for verb in ["create", "run"] {
        let error = node.with_bundle(verb, &["one"]).refused();
        assert!(error.contains("unexpectedly frozen"), "{error}");
        assert!(error.contains(name.trim_start_matches('/')), "{error}");
    }
    set(["THAWED", "0"]);
    places
        .iter()
        .for_each(|place| fs::remove_dir(place).unwrap());
    node.is_bare();

    assert_eq!(node.create("one").err, "");
    let second = node.create("two");
    let warning = "container's cgroup is not empty: 1 process";
    assert!(second.err.contains(warning), "{second:?}");
    second.fine();
    node.run(&["delete", "--force", "two"]).fine();
    node.run(&["delete", "--force", "one"]).fine();
    node.is_bare();
}

#[test]
fn each_step_is_said_when_asked_for() {
    let node = Node::new();
    node.script("exec true");
    let said = node.run(&[
        "--debug",
        "run",
        "--bundle",
        &node.bundle().display().to_string(),
        "one",
    ]);
    assert!(
        said.err.contains("level=debug msg=\"cloning its init\""),
        "{said:?}"
    );
    said.fine();
    let log = node.sandbox.directory().join("log");
    let path = log.display().to_string();
    let bundle = node.bundle().display().to_string();
    let run = ["--debug", "--log", &path, "run", "--bundle", &bundle, "one"];
    let said = node.run(&run);
    assert_eq!(said.err, "");
    node.await_text(&log, "level=debug");
    node.is_bare();
}

#[test]
fn what_it_can_do_is_told_as_json() {
    let node = Node::new();
    let features: Value = serde_json::from_str(&node.run(&["features"]).fine()).unwrap();
    assert_eq!(features["ociVersionMin"], "1.0.0");
    assert_eq!(features["linux"]["seccomp"]["enabled"], true);
    let version = node.run(&["--version"]).fine();
    assert!(version.starts_with("longshore-oci version "), "{version}");
    assert!(version.contains("spec: 1."), "{version}");
    assert!(Path::new(&node.bundle()).join("config.json").exists());
}
