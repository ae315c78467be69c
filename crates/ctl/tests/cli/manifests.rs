use std::fs;

use crate::Bench;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/pod.yaml");

#[test]
fn the_example_runs() {
    let bench = Bench::start();
    let root = bench.path("logs").display().to_string();
    let image = "busybox=127.0.0.1:5000/busybox:other";
    assert_eq!(
        bench.output(&["run", "--log-root", &root, "--image", image, EXAMPLE]),
        "\
RUNS                ID                  NAME                IMAGE OR ADDRESS
pod                 newpod              default/example     10.88.0.5
container           newserver           server              127.0.0.1:5000/busybox:other
container           newclient           client              127.0.0.1:5000/busybox:other
"
    );
    assert_eq!(
        bench.fake.calls(),
        [
            "pull 127.0.0.1:5000/busybox:other \"\"",
            "pull 127.0.0.1:5000/busybox:other \"\"",
            "run pod default/example \"\"",
            "create server in newpod of 127.0.0.1:5000/busybox:other [\"HOSTNAME=example\"]",
            "start newserver",
            "create client in newpod of 127.0.0.1:5000/busybox:other []",
            "start newclient",
        ]
    );
    let pods: Vec<_> = fs::read_dir(&root).unwrap().collect();
    assert_eq!(pods.len(), 1);
    let directory = pods[0].as_ref().unwrap().path();
    assert!(directory.join("server").is_dir());
    // What is there is not pulled.
    let present = "busybox=127.0.0.1:5000/busybox:demo";
    bench.output(&[
        "run",
        "-q",
        "--log-root",
        &root,
        "--image",
        present,
        EXAMPLE,
    ]);
    assert!(bench.fake.calls()[0].starts_with("run pod"));
}

#[test]
fn a_pod_of_which_a_container_fails_is_removed_again() {
    let bench = Bench::start();
    let root = bench.path("logs").display().to_string();
    let file = bench.write(
        "pod.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  restartPolicy: Always\n  containers:\n  - {name: fine, image: x}\n  - {name: broken, image: x}\n",
    );
    let outcome = bench.run(&["run", "--log-root", &root, "--no-pull", &file]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (1, ""));
    assert_eq!(
        outcome.stderr,
        "longshore: spec.restartPolicy Always is ignored: containers are not restarted\n\
         longshore: pod newpod has been removed again\n\
         longshore: create container \"broken\" in pod newpod: INVALID_ARGUMENT: config.command: no such file: /nothing\n"
    );
    assert_eq!(
        bench.fake.calls()[4..],
        ["stop pod newpod", "remove pod newpod"]
    );
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);

    let kept = bench.run(&["run", "--keep", "--log-root", &root, "--no-pull", &file]);
    assert_eq!(kept.code, 1);
    assert!(
        kept.stderr
            .contains("pod newpod stays; remove it with longshore rmp -f newpod")
    );
    assert_eq!(bench.fake.calls().len(), 4);
}

#[test]
fn manifests_are_refused_whole() {
    let bench = Bench::start();
    let unknown = bench.write(
        "unknown.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: a\n    image: x\n    livenessProbe: {}\n",
    );
    let outcome = bench.run(&["run", &unknown]);
    assert_eq!((outcome.code, outcome.stderr.lines().count()), (1, 1));
    for part in [unknown.as_str(), "livenessProbe", "line 8"] {
        assert!(outcome.stderr.contains(part), "{}", outcome.stderr);
    }
    let truncated = bench.write(
        "truncated.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p",
    );
    let outcome = bench.run(&["run", &truncated]);
    assert_eq!(
        (outcome.code, outcome.stderr.lines().count()),
        (1, 1),
        "{}",
        outcome.stderr
    );
    let config = bench.write("config.yaml", "metadata: {name: p, namespace: n}\n");
    assert_eq!(bench.run(&["run", &config]).code, 2);
    assert!(bench.fake.calls().is_empty());
}
