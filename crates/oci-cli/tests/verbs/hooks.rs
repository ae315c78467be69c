//! Programs of the node around a container's life.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use serde_json::{Value, json};
use testkit::sandbox::poll;

use crate::node::Node;

const STAGES: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// A hook that writes its stage, the host name that it sees and the status that it is told.
fn noting(stage: &str, file: &str) -> Value {
    let script = format!(
        "read state; status=${{state#*'\"status\":\"'}}; echo {stage} $(hostname) ${{status%%'\"'*}} >> {file}"
    );
    json!([{ "path": "/bin/sh", "args": ["hook", "-c", script], "env": ["PATH=/bin:/usr/bin"] }])
}

#[test]
fn each_has_its_time_and_place() {
    let node = Node::new();
    let notes = node.sandbox.directory().join("notes");
    let path = notes.display().to_string();
    // By its bundle's path a container's hook reaches the file before its root is entered, and not afterwards.
    let hooks: serde_json::Map<_, _> = STAGES
        .iter()
        .map(|stage| {
            let file = match *stage {
                "startContainer" => "/notes",
                _ => &path,
            };
            ((*stage).to_owned(), noting(stage, file))
        })
        .collect();
    node.change(|spec| {
        spec["hooks"] = Value::Object(hooks);
        spec["hostname"] = json!("inside");
    });
    node.script("sleep 1000");
    node.create("one").fine();
    let outside = node.sandbox.sh("hostname").unwrap();
    let outside = outside.trim();
    let first = format!(
        "prestart {outside} creating\ncreateRuntime {outside} creating\ncreateContainer inside creating\n"
    );
    assert_eq!(fs::read_to_string(&notes).unwrap(), first);
    assert!(!node.inside("/notes").exists());
    node.run(&["start", "one"]).fine();
    assert_eq!(
        fs::read_to_string(node.inside("/notes")).unwrap(),
        "startContainer inside created\n"
    );
    let second = format!("{first}poststart {outside} running\n");
    assert_eq!(fs::read_to_string(&notes).unwrap(), second);
    node.run(&["delete", "--force", "one"]).fine();
    let third = format!("{second}poststop {outside} stopped\n");
    assert_eq!(fs::read_to_string(&notes).unwrap(), third);
    node.is_bare();
}

#[test]
fn one_that_fails_ends_what_it_belongs_to() {
    let node = Node::new();
    node.script("sleep 1000");
    for stage in STAGES {
        let hook = json!([{ "path": "/bin/sh", "args": ["sh", "-c", "echo woe >&2; exit 9"] }]);
        node.change(|spec| spec["hooks"] = json!({ stage: hook }));
        let created = node.create("one");
        let error = match stage {
            "prestart" | "createRuntime" | "createContainer" => created.refused(),
            "startContainer" | "poststart" => {
                created.fine();
                let error = node.run(&["start", "one"]).refused();
                node.await_status("one", "stopped");
                node.run(&["delete", "one"]).fine();
                error
            }
            _ => {
                created.fine();
                let said = node.run(&["delete", "one"]);
                assert_eq!(said.code, Some(0));
                said.err
            }
        };
        let name = match stage {
            "prestart" => "createRuntime",
            stage => stage,
        };
        for words in [name, "/bin/sh", "status 9", "woe"] {
            assert!(error.contains(words), "{stage}: {error}");
        }
        node.is_bare();
    }
}

/// Its program is the container's own: what it may do more than the container, the image may.
#[test]
fn one_in_the_container_is_confined_as_its_program_is() {
    let node = Node::new();
    let look = "grep -h -e ^Cap -e ^NoNewPrivs -e ^Seccomp: /proc/self/status; id; echo $OF";
    let noting = format!("({look}) >/tmp/hook");
    fs::set_permissions(node.inside("/tmp"), fs::Permissions::from_mode(0o777)).unwrap();
    node.change(|spec| {
        let hook = json!([{ "path": "/bin/sh", "args": ["sh", "-c", noting] }]);
        spec["hooks"] = json!({ "startContainer": hook });
        spec["process"]["env"] = json!(["PATH=/bin", "OF=its program"]);
        spec["process"]["user"] = json!({ "uid": 12, "gid": 34 });
        spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_KILL_PROCESS" }],
        });
    });
    node.script(look);
    let own = node.with_bundle("run", &["one"]).fine();
    assert_eq!(fs::read_to_string(node.inside("/tmp/hook")).unwrap(), own);
    assert!(own.contains("uid=12 gid=34"), "{own}");
    assert!(own.ends_with("\nits program\n"), "{own}");
    node.change(|spec| {
        spec["hooks"]["startContainer"][0]["args"] = json!(["sh", "-c", "mkdir /tmp/made"]);
    });
    let error = node.with_bundle("run", &["one"]).refused();
    assert!(error.contains("startContainer"), "{error}");
    assert!(error.contains("bad system call"), "{error}");
    assert!(!node.inside("/tmp/made").exists());
    node.is_bare();
}

#[test]
fn one_that_takes_too_long_is_killed() {
    let node = Node::new();
    for stage in ["createRuntime", "createContainer"] {
        let hook = json!([{ "path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1 }]);
        node.change(|spec| spec["hooks"] = json!({ stage: hook }));
        let error = node.create("one").refused();
        assert!(error.contains("did not end in its time"), "{error}");
        node.is_bare();
    }
}

#[test]
fn a_create_that_is_killed_leaves_what_delete_takes_away() {
    let node = Node::new();
    let begun = node.sandbox.directory().join("begun");
    let script = format!("touch {}; exec sleep 1000", begun.display());
    let hook = json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }]);
    node.change(|spec| spec["hooks"] = json!({ "createRuntime": hook }));
    let bundle = node.bundle().display().to_string();
    let mut create = node.begin(&["create", "--bundle", &bundle, "one"]);
    node.await_text(&begun, "");
    let named = |name: &str| -> Vec<u32> {
        let processes = node.sandbox.processes();
        let named = processes
            .iter()
            .filter(|one| one.args.join(" ").contains(name));
        named.map(|one| one.pid).collect()
    };
    // One that becomes another program has no arguments for a moment.
    let hooks = poll(Duration::from_secs(30), || {
        Some(named("sleep 1000")).filter(|hooks| !hooks.is_empty())
    });
    let creating = named("longshore-oci");
    // Whoever makes the container, not its init, which is the youngest of that name.
    node.sandbox.kill("KILL", &creating[..1]).unwrap();
    create.wait().unwrap();
    assert!(node.run(&["state", "one"]).fine().contains("creating"));
    assert!(node.run(&["delete", "one"]).refused().contains("--force"));
    node.run(&["delete", "--force", "one"]).fine();
    node.sandbox
        .kill("KILL", &hooks.expect("the hook runs"))
        .unwrap();
    node.is_bare();
}
