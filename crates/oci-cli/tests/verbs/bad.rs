//! What cannot be done is said, and leaves nothing.

use std::fs;

use serde_json::{Value, json};

use crate::node::Node;

#[test]
fn bundles_that_cannot_be_run_are_refused_by_what_is_wrong() {
    let node = Node::new();
    let path = node.bundle().join("config.json");
    let good = fs::read(&path).unwrap();
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 14] = [
        (|spec| spec["ociVersion"] = json!("2.0.0"), "ociVersion"),
        (|spec| spec["ociVersion"] = json!(""), "ociVersion"),
        (|spec| drop(spec["root"].take()), "root"),
        (|spec| spec["root"]["path"] = json!("nowhere"), "nowhere"),
        (|spec| drop(spec["process"].take()), "process"),
        (|spec| spec["process"]["args"] = json!([]), "process.args"),
        (|spec| spec["process"]["cwd"] = json!("here"), "process.cwd"),
        (
            |spec| {
                spec["mounts"][0] = json!({
                    "destination": "/x", "type": "bind", "source": "/proc/no/such", "options": ["bind"]
                })
            },
            "/proc/no/such",
        ),
        (
            |spec| spec["linux"]["namespaces"] = json!([{ "type": "pid" }]),
            "mount namespace",
        ),
        (
            |spec| spec["linux"]["namespaces"][1]["path"] = json!("/no/such/namespace"),
            "/no/such/namespace",
        ),
        (
            |spec| spec["linux"]["sysctl"] = json!({ "kernel.core_pattern": "x" }),
            "kernel.core_pattern",
        ),
        (
            |spec| spec["linux"]["intelRdt"] = json!({ "closID": "one" }),
            "linux.intelRdt",
        ),
        (
            |spec| spec["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 5 } }),
            "linux.timeOffsets",
        ),
        (
            |spec| spec["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_NOTIFY" }),
            "linux.seccomp",
        ),
    ];
    for (change, words) in cases {
        fs::write(&path, &good).unwrap();
        node.change(change);
        let error = node.create("one").refused();
        assert!(error.contains(words), "{words}: {error}");
        node.is_bare();
    }
    fs::write(&path, "{").unwrap();
    assert!(node.create("one").refused().contains("config.json"));
    fs::remove_file(&path).unwrap();
    assert!(node.create("one").refused().contains("config.json"));
    node.is_bare();
}

#[test]
fn identifiers_and_options_are_checked() {
    let node = Node::new();
    for id in ["../x", "a/b", "."] {
        assert!(node.create(id).refused().contains("container ID"));
        assert!(node.run(&["state", id]).refused().contains("container ID"));
        assert!(
            node.run(&["delete", "--force", id])
                .refused()
                .contains("container ID")
        );
    }
    assert!(
        node.run(&["kill", "one", "NOPE"])
            .refused()
            .contains("no signal")
    );
    assert!(
        node.run(&["start", "one"])
            .refused()
            .contains("does not exist")
    );
    let systemd = node.run(&["--systemd-cgroup", "state", "one"]).refused();
    assert!(systemd.contains("--systemd-cgroup"), "{systemd}");
    assert!(
        node.run(&["no-such-verb"])
            .refused()
            .contains("no-such-verb")
    );
    node.is_bare();
}

#[test]
fn errors_are_in_the_log_as_well() {
    let node = Node::new();
    let log = node.sandbox.directory().join("log");
    let path = log.display().to_string();
    node.run(&["--log", &path, "--log-format", "json", "start", "one"])
        .refused();
    let line: Value = serde_json::from_str(fs::read_to_string(&log).unwrap().trim()).unwrap();
    assert_eq!(line["level"], "error");
    let message = line["msg"].as_str().unwrap();
    assert_eq!(
        message,
        "longshore-oci start failed: container one does not exist"
    );
}
