use serde_json::{Value, json};

use crate::fake::{BARE, BUSYBOX, CLIENT, DB_POD, SERVER, SERVER2, WEB_POD};
use crate::{Bench, longshore};

#[test]
fn pods_are_a_table() {
    let bench = Bench::start();
    assert_eq!(
        bench.output(&["pods"]),
        "\
POD ID              CREATED             STATE               NAME                NAMESPACE           ATTEMPT             RUNTIME
aa11111111111       3 minutes ago       Ready               web                 default             0                   (default)
ab22222222222       2 days ago          NotReady            db                  default             0                   runsc
"
    );
    let ids = |arguments: &[&str]| bench.output(&[&["pods", "-q"], arguments].concat());
    assert_eq!(ids(&[]), format!("{WEB_POD}\n{DB_POD}\n"));
    assert_eq!(ids(&["--state", "NotReady"]), format!("{DB_POD}\n"));
    assert_eq!(ids(&["--label", "app=web"]), format!("{WEB_POD}\n"));
    assert_eq!(ids(&["--label", "app=web", "--label", "x=y"]), "");
    assert_eq!(ids(&["--name", "^d"]), format!("{DB_POD}\n"));
    assert_eq!(ids(&["--namespace", "kube"]), "");
    assert_eq!(ids(&["--latest"]), format!("{WEB_POD}\n"));
    assert_eq!(ids(&["--id", "ab"]), format!("{DB_POD}\n"));
}

#[test]
fn containers_are_a_table() {
    let bench = Bench::start();
    assert_eq!(
        bench.output(&["ps", "-a"]),
        "\
CONTAINER           IMAGE               CREATED             STATE               NAME                ATTEMPT             POD ID              POD                 NAMESPACE
d333333333333       eeee456789abc       3 minutes ago       Running             client              1                   aa11111111111       web                 default
c111111111111       eeee456789abc       3 minutes ago       Running             server              1                   aa11111111111       web                 default
c122222222222       eeee456789abc       2 days ago          Exited              server              1                   ab22222222222       db                  default
"
    );
    let ids = |arguments: &[&str]| bench.output(&[&["ps", "-q"], arguments].concat());
    assert_eq!(ids(&[]), format!("{CLIENT}\n{SERVER}\n"));
    assert_eq!(ids(&["-n", "1"]), format!("{CLIENT}\n"));
    assert_eq!(
        ids(&["-n", "9"]),
        format!("{CLIENT}\n{SERVER}\n{SERVER2}\n")
    );
    assert_eq!(ids(&["-s", "exited"]), format!("{SERVER2}\n"));
    assert_eq!(ids(&["-a", "--pod", "db"]), format!("{SERVER2}\n"));
    assert_eq!(ids(&["--name", "serv"]), format!("{SERVER}\n"));
    assert_eq!(
        ids(&["--image", "127.0.0.1:5000/busybox:demo"]),
        format!("{CLIENT}\n{SERVER}\n")
    );
    assert_eq!(ids(&["--image", "unknown"]), "");
    assert_eq!(
        bench
            .output(&["ps", "-r", "--latest", "--no-trunc"])
            .lines()
            .nth(1)
            .unwrap(),
        format!(
            "{CLIENT}   127.0.0.1:5000/busybox:demo   3 minutes ago       Running             client              1                   {WEB_POD}   web                 default"
        )
    );
}

#[test]
fn images_are_a_table() {
    let bench = Bench::start();
    assert_eq!(
        bench.output(&["images"]),
        "\
IMAGE                    TAG                 IMAGE ID            SIZE
127.0.0.1:5000/bare      <none>              ffff456789abc       731MB
127.0.0.1:5000/busybox   demo                eeee456789abc       2.21MB
127.0.0.1:5000/busybox   latest              eeee456789abc       2.21MB
"
    );
    let wide = bench.output(&["img", "--digests", "--pinned", "--filter", "dangling=false"]);
    assert_eq!(
        wide.lines().nth(1).unwrap(),
        "127.0.0.1:5000/busybox   demo                ffff456789abc       eeee456789abc       2.21MB              true"
    );
}

#[test]
fn quiet_commands_print_ids_alone() {
    let bench = Bench::start();
    let pod = bench.write(
        "pod.json",
        r#"{"metadata": {"name": "p", "namespace": "n", "uid": "u"}}"#,
    );
    let container = bench.write(
        "container.json",
        r#"{"metadata": {"name": "c"}, "image": {"image": "i"}}"#,
    );
    for (words, printed) in [
        (&["pods", "-q", "-l"][..], &[WEB_POD][..]),
        (&["ps", "-q"], &[CLIENT, SERVER]),
        (&["images", "-q"], &[BARE, BUSYBOX]),
        (&["stats", "-q"], &[SERVER, CLIENT]),
        (&["handlers", "-q"], &["runsc"]),
        (&["runp", "-q", &pod], &["newpod"]),
        (&["create", "-q", "web", &container, &pod], &["newc"]),
        (&["start", "-q", "client"], &[CLIENT]),
        (&["stop", "-q", "client"], &[CLIENT]),
        (&["rm", "-qf", "client"], &[CLIENT]),
        (&["stopp", "-q", "web"], &[WEB_POD]),
        (&["rmp", "-qf", "web"], &[WEB_POD]),
        (
            &["rmi", "--quiet", "127.0.0.1:5000/busybox:demo"],
            &[BUSYBOX],
        ),
        (&["update", "-q", "--memory", "1", "client"], &[CLIENT]),
        (&["pull", "-q", "busybox"], &["busybox@sha256:1234"]),
    ] {
        let lines: Vec<_> = printed.iter().map(|line| format!("{line}\n")).collect();
        assert_eq!(bench.output(words), lines.concat(), "{words:?}");
    }
}

#[test]
fn stats_are_taken_twice() {
    let bench = Bench::start();
    assert_eq!(
        bench.output(&["stats", "--seconds", "0"]),
        "\
CONTAINER           NAME                CPU %               MEM                 DISK                INODES              SWAP
c111111111111       server              25.00               4.567MB             8.192kB             7                   0B
d333333333333       client              25.00               4.567MB             8.192kB             7                   0B
"
    );
    let one: Value =
        serde_json::from_str(&bench.output(&["stats", "-o", "json", "client"])).unwrap();
    assert_eq!(one["stats"].as_array().unwrap().len(), 1);
    assert_eq!(
        one["stats"][0]["memory"]["workingSetBytes"]["value"],
        json!("4567040")
    );
}

#[test]
fn lists_are_protobuf_json_in_the_schemas_order() {
    let bench = Bench::start();
    let text = bench.output(&["pods", "-o", "json", "--name", "db"]);
    let keys = [
        "\"id\"",
        "\"metadata\"",
        "\"state\": \"SANDBOX_NOTREADY\"",
        "\"createdAt\"",
        "\"runtimeHandler\": \"runsc\"",
    ];
    let places: Vec<_> = keys.iter().map(|key| text.find(key).unwrap()).collect();
    assert!(places.is_sorted(), "{text}");
    let value: Value = serde_json::from_str(&text).unwrap();
    assert!(value["items"][0]["createdAt"].is_string());
    assert_eq!(value["items"][0]["metadata"]["attempt"], json!(0));

    let yaml = bench.output(&["ps", "-o", "yaml", "--latest"]);
    assert!(yaml.starts_with("containers:\n"), "{yaml}");
    assert!(yaml.contains("state: CONTAINER_RUNNING"), "{yaml}");
}

#[test]
fn inspect_shows_times_and_information() {
    let bench = Bench::start();
    let value: Value = serde_json::from_str(&bench.output(&["inspect", "c12"])).unwrap();
    assert_eq!(value["info"], json!({"pid": 7}));
    let status = &value["status"];
    assert_eq!(status["createdAt"], json!("2026-11-21T08:00:00Z"));
    assert_eq!(status["startedAt"], json!("2026-11-21T08:00:01.5Z"));
    assert_eq!(status["finishedAt"], json!("2026-11-21T08:00:02Z"));
    assert_eq!(
        (&status["exitCode"], &status["reason"]),
        (&json!(137), &json!("OOMKilled"))
    );
    let running: Value = serde_json::from_str(&bench.output(&["inspect", "-q", "client"])).unwrap();
    assert_eq!(
        running["status"]["finishedAt"],
        json!("0001-01-01T00:00:00Z")
    );
    assert_eq!(running.get("info"), None);
    let two: Value = serde_json::from_str(&bench.output(&["inspect", "client", "c12"])).unwrap();
    assert_eq!(two.as_array().unwrap().len(), 2);

    let pod: Value = serde_json::from_str(&bench.output(&["inspectp", "web"])).unwrap();
    assert_eq!(
        (&pod["pid"], &pod["status"]["network"]["ip"]),
        (&json!("4711"), &json!("10.88.0.5"))
    );
    let table = bench.output(&["inspectp", "-q", "-o", "table", "web"]);
    assert!(
        table.contains("IP Addresses: 10.88.0.5\nAdditional IP: fd00::5\n"),
        "{table}"
    );
    let image = bench.output(&["inspecti", "-o", "table", "127.0.0.1:5000/busybox:demo"]);
    assert!(image.ends_with("Size: 2.21MB\nInfo: map[]\n"), "{image}");
}

#[test]
fn the_runtime_introduces_itself() {
    let bench = Bench::start();
    assert_eq!(
        bench.output(&["version"]),
        "Version:  0.1.0\nRuntimeName:  fake\nRuntimeVersion:  1.2.3\nRuntimeApiVersion:  v1\n"
    );
    let info: Value = serde_json::from_str(&bench.output(&["info"])).unwrap();
    assert_eq!(
        info,
        json!({
            "config": {"root": "/var"},
            "runtimeHandlers": [{"name": "runsc", "features": {"user_namespaces": true}}],
            "status": {"conditions": [
                {"type": "RuntimeReady", "status": true, "reason": "", "message": ""}
            ]}
        })
    );
    assert_eq!(
        bench.output(&["runtime-config"]),
        "cgroup driver:   CGROUPFS\n"
    );
}

#[test]
fn called_crictl_it_reads_crictls_configuration() {
    let bench = Bench::start();
    let crictl = bench.path("crictl");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_longshore"), &crictl).unwrap();
    let socket = bench.path("cri.sock");
    let config = bench.write(
        "crictl.yaml",
        &format!(
            "runtime-endpoint: unix://{}\ntimeout: 20\ndebug: false\n",
            socket.display()
        ),
    );
    let mut command = longshore();
    command
        .env("CRI_CONFIG_FILE", &config)
        .args(["pods", "-q", "--latest"]);
    assert_eq!(
        command.output().unwrap().stdout,
        format!("{WEB_POD}\n").as_bytes()
    );
    let failed = std::process::Command::new(&crictl)
        .args(["--config", &config, "inspectp", "none"])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(failed.stderr).unwrap(),
        "crictl: get the status of pod none: NOT_FOUND: pod \"none\" not found\n"
    );
    // crictl has one code for all that fails.
    let usage = std::process::Command::new(&crictl)
        .args(["ps", "--no-such-flag"])
        .output()
        .unwrap();
    assert_eq!(usage.status.code(), Some(1));
}
