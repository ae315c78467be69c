use crate::fake::{CLIENT, DB_POD, SERVER, SERVER2, WEB_POD};
use crate::{Bench, Outcome};

#[test]
fn ids_may_be_short_or_names_but_must_be_unique() {
    let bench = Bench::start();
    assert_eq!(
        bench.output(&["stop", "-t", "7", "d3"]),
        format!("{CLIENT}\n")
    );
    assert_eq!(bench.fake.calls(), [format!("stop {CLIENT} 7")]);
    assert_eq!(bench.output(&["start", "client"]), format!("{CLIENT}\n"));

    let outcome = bench.run(&["stop", "c1"]);
    assert_eq!(outcome.code, 1);
    assert_eq!(
        outcome.stderr,
        "longshore: container \"c1\" is ambiguous, it can be c122222222222 (server), c111111111111 (server)\n"
    );
}

/// What a command does and says of a whole id it does and says of a prefix and of a name.
#[test]
fn a_prefix_or_a_name_goes_wherever_an_id_goes() {
    let bench = Bench::start();
    bench.write("client.log", "2026-11-21T08:00:00Z stdout F hello\n");
    let pod = bench.write(
        "pod.json",
        r#"{"metadata": {"name": "web", "namespace": "n", "uid": "u"}}"#,
    );
    let container = bench.write(
        "container.json",
        r#"{"metadata": {"name": "c"}, "image": {"image": "i"}}"#,
    );
    let archive = bench.path("archive").display().to_string();
    let of_containers: &[&[&str]] = &[
        &["start", "@"],
        &["stop", "@"],
        &["rm", "-f", "@"],
        &["inspect", "@"],
        &["exec", "-s", "@", "true"],
        &["exec", "@", "true"],
        &["attach", "@"],
        &["logs", "@"],
        &["stats", "-o", "json", "--id", "@"],
        &["update", "--memory", "1", "@"],
        &["checkpoint", "--export", &archive, "@"],
        &["ps", "--id", "@"],
        &["diff", "@"],
        &["cp", "@:/etc", "-"],
    ];
    let of_pods: &[&[&str]] = &[
        &["stopp", "@"],
        &["rmp", "-f", "@"],
        &["inspectp", "@"],
        &["statsp", "@"],
        &["create", "@", &container, &pod],
        &["logs", "--pod", "@"],
        &["ps", "--pod", "@"],
        &["exec", "--pod", "@", "true"],
        &["inspect", "--pod", "@"],
        &["pods", "--id", "@"],
        &["port-forward", "@", "0:80"],
        &["checkpointp", "--export", &archive, "@"],
    ];
    let all = of_containers
        .iter()
        .map(|words| (words, [CLIENT, "d33", "client"]));
    let all = all.chain(of_pods.iter().map(|words| (words, [WEB_POD, "aa1", "web"])));
    for (words, [whole, prefix, name]) in all {
        let with = |id: &str| {
            let words: Vec<_> = words.iter().map(|word| word.replace('@', id)).collect();
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            // How often samples were taken is in the fake's figures.
            bench.fake.calls();
            (bench.run(&words), bench.fake.calls())
        };
        let wanted = with(whole);
        for short in [prefix, name] {
            assert_eq!(with(short), wanted, "{words:?} of {short}");
        }
    }
}

#[test]
fn one_failure_does_not_keep_the_others() {
    let bench = Bench::start();
    let outcome = bench.run(&["stop", "d3", "none", "c11"]);
    assert_eq!(outcome.code, 1);
    assert_eq!(outcome.stdout, format!("{CLIENT}\n{SERVER}\n"));
    assert_eq!(
        outcome.stderr,
        "longshore: stop container none: NOT_FOUND: container \"none\" not found\n"
    );
}

#[test]
fn removal_is_refused_while_it_runs_unless_forced() {
    let bench = Bench::start();
    let log = bench.write("server.log", "x");
    let outcome = bench.run(&["rm", SERVER, SERVER2]);
    assert_eq!(outcome.code, 1);
    assert_eq!(outcome.stdout, format!("{SERVER2}\n"));
    assert!(
        outcome
            .stderr
            .ends_with("it is running; stop it first, or use --force\n")
    );
    assert!(!std::path::Path::new(&log).exists());
    bench.fake.calls();
    assert_eq!(bench.output(&["rm", "-f", SERVER]), format!("{SERVER}\n"));
    assert_eq!(
        bench.fake.calls(),
        [format!("stop {SERVER} 0"), format!("remove {SERVER}")]
    );

    assert_eq!(bench.run(&["rmp", "web"]).code, 1);
    let text = bench.output(&["rmp", "-f", "web", "db"]);
    assert_eq!(
        text,
        format!("Stopped sandbox {WEB_POD}\nRemoved sandbox {WEB_POD}\nRemoved sandbox {DB_POD}\n")
    );
    for wrong in [&["rm"][..], &["rm", "-a", "x"], &["rmp"], &["rmi"]] {
        assert_eq!(bench.run(wrong).code, 2, "{wrong:?}");
    }
}

#[test]
fn a_pod_and_a_container_come_from_files() {
    let bench = Bench::start();
    let pod = bench.write(
        "pod.yaml",
        "metadata:\n  name: p\n  namespace: n\nlog_directory: /logs\n",
    );
    let container = bench.write(
        "container.json",
        r#"{"metadata": {"name": "c"}, "image": {"image": "busybox"}, "envs": [{"key": "A", "value": "b c"}]}"#,
    );
    assert_eq!(bench.output(&["runp", "-r", "runsc", &pod]), "newpod\n");
    assert_eq!(
        bench.output(&["create", "newpod", &container, &pod]),
        "newc\n"
    );
    assert_eq!(bench.output(&["run", &container, &pod]), "newc\n");
    assert_eq!(
        bench.fake.calls(),
        [
            "run pod n/p \"runsc\"",
            "create c in newpod of busybox [\"A=b c\"]",
            "run pod n/p \"\"",
            "pull busybox \"\"",
            "create c in newpod of busybox [\"A=b c\"]",
            "start newc",
        ]
    );

    let wrong = bench.write(
        "wrong.yaml",
        "metadata: {name: p, namespace: n}\nlog_dir: /logs\n",
    );
    let outcome = bench.run(&["runp", &wrong]);
    assert_eq!(outcome.code, 1);
    assert_eq!(
        outcome.stderr,
        format!("longshore: {wrong}: log_dir: PodSandboxConfig has no such field\n")
    );
    let nameless = bench.write("nameless.json", "{\"metadata\": {\"name\": \"p\"}}");
    assert_eq!(
        bench.run(&["runp", &nameless]).stderr,
        format!("longshore: {nameless}: metadata.namespace is not set\n")
    );
    let missing = bench.run(&["runp", "/nonexistent.json"]);
    assert_eq!(
        missing.stderr,
        "longshore: read /nonexistent.json: No such file or directory (os error 2)\n"
    );
}

#[test]
fn images_are_pulled_and_removed() {
    let bench = Bench::start();
    assert_eq!(
        bench.output(&["pull", "--creds", "me:secret", "busybox"]),
        "Image is up to date for busybox@sha256:1234\n"
    );
    let outcome = bench.run(&["rmi", "127.0.0.1:5000/busybox:demo", "none"]);
    assert_eq!(outcome.code, 1);
    assert_eq!(
        outcome.stdout,
        "Deleted: 127.0.0.1:5000/busybox:demo\nDeleted: 127.0.0.1:5000/busybox:latest\n"
    );
    assert!(
        outcome.stderr.contains("goes with all its tags"),
        "{}",
        outcome.stderr
    );
    assert!(
        outcome.stderr.contains("no such image \"none\""),
        "{}",
        outcome.stderr
    );
    // The one that containers use is pinned as well; only the other goes.
    assert!(
        bench
            .output(&["rmi", "--prune"])
            .starts_with("Deleted: 127.0.0.1:5000/bare@")
    );
}

#[test]
fn exec_passes_output_and_exit_code_on() {
    let bench = Bench::start();
    let outcome = bench.run(&[
        "exec",
        "-s",
        "--timeout",
        "5",
        "client",
        "sh",
        "-c",
        "exit 3",
    ]);
    assert_eq!(
        (
            outcome.code,
            outcome.stdout.as_str(),
            outcome.stderr.as_str()
        ),
        (3, "out\n", "err\n")
    );
    assert_eq!(
        bench.fake.calls(),
        [format!("exec {CLIENT} [\"sh\", \"-c\", \"exit 3\"] 5")]
    );
    // A terminal is needed for one.
    let streaming = bench.run(&["exec", "-it", "client", "sh"]);
    assert_eq!(streaming.code, 2);
    assert!(
        streaming.stderr.contains("a terminal as stdin"),
        "{}",
        streaming.stderr
    );
}

/// As crictl: streams that `--sync` has none of are passed over, ids are said on stdout of any that filters have found, and a failure is one.
#[test]
fn called_crictl_exec_is_crictls() {
    let bench = Bench::start();
    let crictl = bench.path("crictl");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_longshore"), &crictl).unwrap();
    let named = format!("{CLIENT}:\nout\n");
    let failed =
        format!("err\ncrictl: exec in container {CLIENT}: command 'false x' exited with 3\n");
    let ignored = "crictl: --ignore-errors: no error of a command is told\nerr\n";
    for (flags, code, stdout, stderr) in [
        (&["-s", "-i", "-t", "client"][..], 1, "out\n", &*failed),
        (&["-s", "--timeout", "-1", "client"], 1, "out\n", &failed),
        (&["-s", "--name", "client"], 1, &named, &failed),
        (&["-s", "-q", "--name", "client"], 1, "out\n", &failed),
        (&["-s", "-x", "--name", "client"], 1, "out\n", &failed),
        (&["-s", "-e", "--name", "client"], 0, &named, ignored),
        (&["-s", "-e", "-q", "client"], 0, "out\n", "err\n"),
    ] {
        let mut command = std::process::Command::new(&crictl);
        command.args(["-c", "/dev/null", "-r"]);
        command.arg(bench.path("cri.sock")).arg("exec");
        let outcome = Outcome::of(command.args(flags).args(["false", "x"]).output().unwrap());
        let said = (outcome.code, &*outcome.stdout, &*outcome.stderr);
        assert_eq!(said, (code, stdout, stderr), "{flags:?}");
    }
    // By our own name it is said that they make no sense.
    let outcome = bench.run(&["exec", "-s", "-i", "client", "true"]);
    assert_eq!(outcome.code, 2, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("no streams"), "{}", outcome.stderr);
}

#[test]
fn a_pod_cidr_is_told_as_given() {
    let bench = Bench::start();
    for arguments in [
        ["--pod-cidr", "10.9.0.0/24,fd09::/64"],
        ["-p", "10.9.0.0/24,fd09::/64"],
        ["--pod-cidr", ""],
    ] {
        let [flag, value] = arguments;
        assert_eq!(bench.output(&["update-runtime-config", flag, value]), "");
        let told = bench.fake.calls().pop();
        assert_eq!(told, Some(format!("update-runtime-config {value:?}")));
    }
    let outcome = bench.run(&["update-runtime-config", "-p", "10.0.0.0/33"]);
    assert_eq!(outcome.code, 1);
    assert_eq!(
        outcome.stderr,
        "longshore: update the runtime's configuration: INVALID_ARGUMENT: pod_cidr is no CIDR\n"
    );
    assert_ne!(bench.run(&["update-runtime-config"]).code, 0);
    assert!(bench.fake.calls().is_empty());
}

#[test]
fn limits_are_changed_by_flag() {
    let bench = Bench::start();
    let flags = [
        "--memory",
        "1048576",
        "--cpu-quota",
        "-1",
        "--cpuset-cpus",
        "0-1",
    ];
    let mut arguments = vec!["update"];
    arguments.extend(flags);
    arguments.extend(["client", "none"]);
    let outcome = bench.run(&arguments);
    assert_eq!((outcome.code, outcome.stdout), (1, format!("{CLIENT}\n")));
    assert!(outcome.stderr.contains("update container none: NOT_FOUND"));
    assert_eq!(
        bench.fake.calls(),
        [format!("update {CLIENT} 1048576 -1 \"0-1\"")]
    );
    // Nothing asked for, what only Windows has, and what the kernel would refuse.
    for wrong in [
        &["update", "client"][..],
        &["update", "--cpu-count", "2", "client"],
        &["update", "--oom-score-adj", "1001", "client"],
        &["update", "--memory", "1"],
    ] {
        assert_eq!(bench.run(wrong).code, 2, "{wrong:?}");
    }
    assert!(bench.fake.calls().is_empty());
}

#[test]
fn a_checkpoint_goes_to_a_whole_path() {
    let bench = Bench::start();
    let mut command = bench.command(&["checkpoint", "-e", "c.tar", "client"]);
    let output = command.current_dir("/tmp").output().unwrap();
    assert!(output.status.success());
    assert_eq!(
        bench.fake.calls(),
        [format!("checkpoint {CLIENT} /tmp/c.tar")]
    );
    assert_eq!(bench.run(&["checkpoint", "client"]).code, 2);
    let two = ["checkpoint", "-e", "c.tar", "client", "server"];
    assert_eq!(bench.run(&two).code, 2);
}

#[test]
fn a_pods_checkpoint_goes_to_a_directory_and_comes_from_one() {
    let bench = Bench::start();
    let directory = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = bench.command(arguments);
        let output = command.current_dir(directory.path()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {text}");
        String::from_utf8(output.stdout).unwrap()
    };
    run(&["checkpointp", "-e", "out", WEB_POD, CLIENT]);
    // An empty one that is there already does too.
    run(&["checkpoint-pod", "-e", "out", WEB_POD]);
    let out = directory.path().join("out");
    let calls = bench.fake.calls();
    assert_eq!(
        calls[0],
        format!("checkpoint-pod {WEB_POD} {} {:?}", out.display(), [CLIENT])
    );
    assert!(calls[1].contains(SERVER), "{calls:?}");
    assert_eq!(bench.run(&["checkpointp", WEB_POD]).code, 2);

    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write("pod.yaml", "metadata: {name: p, namespace: n}\n");
    write("one.yaml", "metadata: {name: one}\nimage: {image: i}\n");
    let shown = run(&["restorep", "-i", "out", "pod.yaml", "one.yaml"]);
    let expected = format!("{}\n{} one\n", "b".repeat(64), "c".repeat(64));
    assert_eq!(shown, expected);
    assert_eq!(
        bench.fake.calls()[0],
        format!("restore-pod {} \"\"", out.display())
    );
    assert_eq!(bench.run(&["restorep", "-i", "out", "pod.yaml"]).code, 2);
}

#[test]
fn waiting_ends_with_the_container_and_its_code() {
    let bench = Bench::start();
    // It has no events here, so it is looked at again.
    let waiting = bench
        .command(&["wait", SERVER])
        .stdout(std::process::Stdio::piped())
        .spawn();
    bench.fake.exit_server();
    let output = waiting.unwrap().wait_with_output().unwrap();
    let code = output.status.code().unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        format!("{SERVER} {code}\n")
    );
    assert_eq!(
        bench.run(&["wait", "-q", SERVER]).stdout,
        format!("{code}\n")
    );
    let gone = bench.run(&["wait", "none"]);
    assert_eq!(gone.code, 1);
    assert!(gone.stderr.contains("NOT_FOUND"));
}
