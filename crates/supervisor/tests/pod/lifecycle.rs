use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;

use oci_plan::*;
use supervisor_api::*;

use crate::harness::*;

#[test]
fn a_pod_from_beginning_to_end() {
    let mut pod = Pod::bare();
    assert_eq!(pod.state().sandbox, SandboxState::Empty);
    let plan = pod.sandbox_plan();
    let (reply, network) = pod
        .client
        .call(RequestBody::CreateSandbox(plan.clone()), vec![])
        .unwrap();
    assert_eq!(reply, ReplyBody::Sandbox);
    let link = |fd: &std::os::fd::OwnedFd| {
        fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap()
    };
    let network = link(&network[0]);
    assert!(
        network.to_str().unwrap().starts_with("net:["),
        "{network:?}"
    );
    assert_ne!(network, fs::read_link("/proc/self/ns/net").unwrap());

    // The same again.
    let again = pod
        .client
        .call(RequestBody::CreateSandbox(plan.clone()), vec![])
        .unwrap();
    assert_eq!(link(&again.1[0]), network);
    let other = SandboxPlan {
        hostname: "another".to_owned(),
        ..plan
    };
    let error = pod.client.error(RequestBody::CreateSandbox(other));
    assert_eq!(error.kind, ErrorKind::FailedPrecondition);

    let script = "hostname; ip link show lo | head -n 1; cat /proc/sys/net/ipv4/ip_unprivileged_port_start;
                  cat /proc/self/mounts | grep /dev/shm; readlink /proc/self/ns/net; echo $$; echo err >&2; exit 3";
    let plan = pod.plan("one", script);
    let pid = pod.create(plan).unwrap();
    assert_eq!(
        pod.state().containers,
        [ContainerState {
            id: "one".to_owned(),
            status: ContainerStatus::Created { pid }
        }]
    );
    assert_eq!(pod.start("one").unwrap(), pid);
    let exit = pod.client.exit("one");
    assert_eq!(
        (exit.exit_code, exit.signal, exit.oom_killed),
        (3, None, false)
    );
    assert_eq!(exit.message, None);
    assert!(0 < exit.started_at_ns && exit.started_at_ns <= exit.finished_at_ns);
    assert_eq!(pod.record("one"), Some(exit.clone()));
    assert_eq!(
        pod.state().containers,
        [ContainerState {
            id: "one".to_owned(),
            status: ContainerStatus::Exited(exit)
        }]
    );

    let out = pod.log("one").shown("stdout");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "the-pod");
    assert!(lines[1].contains("LOOPBACK,UP"), "{out}");
    assert_eq!(lines[2], "80");
    assert!(
        lines[3].contains(" /dev/shm tmpfs ") && lines[3].contains("size=1024k"),
        "{out}"
    );
    assert_eq!(lines[4], network.to_str().unwrap());
    assert_eq!(lines[5], "1");
    assert_eq!(pod.log("one").shown("stderr"), "err\n");

    let delete = || RequestBody::DeleteContainer {
        id: "one".to_owned(),
    };
    pod.order(delete());
    assert_eq!(pod.record("one"), None);
    assert!(cgroup_directories(&format!("{}/one", pod.cgroup)).is_empty());
    pod.order(delete());
    // Its id is free again.
    assert_eq!(pod.run_to_end("one", "exit 0").exit_code, 0);
    pod.order(RequestBody::StopSandbox);
    assert_eq!(pod.state().sandbox, SandboxState::Stopped);
    assert!(pod.record("one").is_some());
    pod.finish();
}

#[test]
fn several_containers_are_launched_at_once() {
    let mut pod = Pod::ready();
    let mut sequences = Vec::new();
    for number in 0..8 {
        let plan = pod.plan(&format!("c{number}"), &format!("echo {number}"));
        let request = CreateContainer {
            plan,
            stdio: Stdio {
                log: Some(FdSlot(1)),
                stdin: false,
                stdin_once: false,
            },
        };
        let descriptors = vec![pod.root(), pod.log_file(&format!("c{number}"))];
        let body = RequestBody::CreateContainer(Box::new(request));
        sequences.push(pod.client.send(body, descriptors));
    }
    for sequence in sequences {
        pod.client.reply(sequence).unwrap();
    }
    for number in 0..8 {
        pod.start(&format!("c{number}")).unwrap();
    }
    for number in 0..8 {
        let id = format!("c{number}");
        assert_eq!(pod.client.exit(&id).exit_code, 0);
        assert_eq!(pod.log(&id).shown("stdout"), format!("{number}\n"));
    }
    pod.finish();
}

#[test]
fn a_program_that_is_not_there_leaves_a_container_that_can_be_removed() {
    let mut pod = Pod::ready();
    let mut plan = pod.plan("none", "");
    plan.process.args = vec!["/no/such/program".to_owned()];
    // Found missing at creation or at the start: either is an error of this kind.
    let error = match pod.create(plan) {
        Err(error) => error,
        Ok(_) => {
            let error = pod.start("none").unwrap_err();
            let exit = pod.client.exit("none");
            assert_eq!((exit.exit_code, exit.started_at_ns), (128, 0));
            assert!(exit.message.unwrap().contains("/no/such/program"));
            error
        }
    };
    assert_eq!(error.kind, ErrorKind::CannotExecute, "{error}");
    assert!(error.message.contains("container none"), "{error}");
    assert!(error.message.contains("/no/such/program"), "{error}");
    pod.order(RequestBody::DeleteContainer {
        id: "none".to_owned(),
    });
    pod.finish();
}

#[test]
fn a_creation_that_fails_leaves_nothing() {
    let mut pod = Pod::ready();
    let mut plan = pod.plan("bad", "true");
    plan.mounts.push(Mount {
        target: "/tmp/there".to_owned(),
        source: MountSource::Filesystem {
            fs_type: "nosuchfs".to_owned(),
            source: "x".to_owned(),
            data: vec![],
        },
        flags: MountFlags::default(),
        propagation: None,
        idmap: None,
    });
    let error = pod.create(plan).unwrap_err();
    assert!(
        error.message.starts_with("create container bad: "),
        "{error}"
    );
    assert!(pod.state().containers.is_empty());
    assert!(cgroup_directories(&format!("{}/bad", pod.cgroup)).is_empty());
    assert_eq!(pod.record("bad"), None);
    // At once again, under the same id.
    assert_eq!(pod.run_to_end("bad", "exit 5").exit_code, 5);
    pod.finish();
}

#[test]
fn a_shared_pid_namespace_has_an_init_of_ours() {
    let mut pod = Pod::bare();
    let mut plan = pod.sandbox_plan();
    plan.namespaces.pid = true;
    pod.client
        .call(RequestBody::CreateSandbox(plan), vec![])
        .unwrap();
    let init = pod.state().init_pid.unwrap();
    assert!(alive(init));
    // Nothing to find in it but where it waits for its children.
    within(|| {
        let links = fs::read_dir(format!("/proc/{init}/fd")).unwrap();
        let links: Vec<_> = links
            .flatten()
            .filter_map(|one| fs::read_link(one.path()).ok())
            .collect();
        (links.len() == 1 && links[0].to_str() == Some("anon_inode:[signalfd]")).then_some(())
    });
    assert_eq!(
        fs::read_dir(format!("/proc/{init}/root/")).unwrap().count(),
        0
    );
    let status = fs::read_to_string(format!("/proc/{init}/status")).unwrap();
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert!(
            status.contains(&format!("{set}:\t0000000000000000")),
            "{status}"
        );
    }

    // A container's grandchildren end with its init, although the namespace goes on.
    let mut plan = pod.plan(
        "first",
        "sleep 1000 & setsid sleep 1000 & echo ready; read forever",
    );
    plan.namespaces.pid = NamespaceSource::Pod;
    let log = pod.log_file("first");
    let first = pod.create_with(plan, log, true).unwrap();
    pod.start("first").unwrap();
    within(|| (pod.log("first").shown("stdout") == "ready\n").then_some(()));
    let left: Vec<i32> = children(first);
    assert_eq!(left.len(), 2);
    kill(first);
    assert_eq!(pod.client.exit("first").signal, Some(9));
    for pid in left {
        within(|| (!alive(pid)).then_some(()));
    }
    assert!(alive(init));

    // Its init killed by somebody: no further containers, and what ran has ended.
    let mut plan = pod.plan("second", "read forever");
    plan.namespaces.pid = NamespaceSource::Pod;
    let log = pod.log_file("second");
    pod.create_with(plan, log, true).unwrap();
    pod.start("second").unwrap();
    kill(init);
    assert_eq!(pod.client.exit("second").exit_code, 137);
    let state = within(|| Some(pod.state()).filter(|state| state.init_pid.is_none()));
    assert_eq!(state.sandbox, SandboxState::Stopped);
    let plan = pod.plan("third", "true");
    let error = pod.create(plan).unwrap_err();
    assert_eq!(error.kind, ErrorKind::FailedPrecondition);
    pod.finish();
}

#[test]
fn the_end_of_the_pods_init_is_told_to_everybody_unless_it_was_asked_for() {
    for asked in [false, true] {
        let mut pod = Pod::bare();
        let mut other = Client::connect(pod.directory.path());
        other.greet();
        let mut plan = pod.sandbox_plan();
        plan.namespaces.pid = true;
        pod.client
            .call(RequestBody::CreateSandbox(plan), vec![])
            .unwrap();
        if asked {
            pod.order(RequestBody::StopSandbox);
            // Its reply comes after every event that was sent before.
            other.call(RequestBody::State, vec![]).unwrap();
            for client in [&pod.client, &other] {
                assert_eq!(client.events, []);
            }
        } else {
            kill(pod.state().init_pid.unwrap());
            for client in [&mut pod.client, &mut other] {
                let reason = client.sandbox_end();
                assert!(reason.ends_with("was killed by signal 9"), "{reason}");
            }
            let state = pod.state();
            assert_eq!(state.sandbox, SandboxState::Stopped);
            assert_eq!(state.init_pid, None);
        }
        pod.finish();
    }
}

#[test]
fn signals_reach_init_or_everybody() {
    let mut pod = Pod::ready();
    let signal = |id: &str, signal, all| RequestBody::Signal {
        id: id.to_owned(),
        signal,
        all,
    };
    pod.run(
        "term",
        "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done",
    );
    within(|| (pod.log("term").shown("stdout") == "ready\n").then_some(()));
    pod.order(signal("term", 15, false));
    assert_eq!(pod.client.exit("term").exit_code, 7);
    // Also when it has exited.
    pod.order(signal("term", 9, true));

    pod.run("kill", "sleep 1000 & wait");
    pod.order(signal("kill", 9, true));
    let exit = pod.client.exit("kill");
    assert_eq!((exit.exit_code, exit.signal), (137, Some(9)));

    pod.run(
        "other",
        "trap 'exit 9' RTMIN; sleep 1000 & wait; read forever",
    );
    assert_eq!(
        pod.client.error(signal("other", 0, false)).kind,
        ErrorKind::InvalidArgument
    );
    assert_eq!(
        pod.client.error(signal("other", 65, true)).kind,
        ErrorKind::InvalidArgument
    );

    // One that waits to be started dies without ever having run.
    let plan = pod.plan("waiting", "true");
    pod.create(plan).unwrap();
    pod.order(signal("waiting", 9, false));
    let exit = pod.client.exit("waiting");
    assert_eq!((exit.exit_code, exit.started_at_ns), (137, 0));
    assert_eq!(
        pod.client
            .error(RequestBody::StartContainer {
                id: "waiting".to_owned()
            })
            .kind,
        ErrorKind::FailedPrecondition
    );
    pod.finish();
}

#[test]
fn limits_can_be_changed() {
    let mut pod = Pod::ready();
    let mut plan = pod.plan("limited", "read forever");
    plan.resources.memory_limit_bytes = Some(64 << 20);
    let log = pod.log_file("limited");
    pod.create_with(plan, log, true).unwrap();
    pod.start("limited").unwrap();
    let cgroup = format!("{}/limited", pod.cgroup);
    let file = match Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        true => format!("/sys/fs/cgroup/{cgroup}/memory.max"),
        false => format!("/sys/fs/cgroup/memory/{cgroup}/memory.limit_in_bytes"),
    };
    assert_eq!(fs::read_to_string(&file).unwrap().trim(), "67108864");
    let update = |bytes| RequestBody::UpdateResources {
        id: "limited".to_owned(),
        resources: Resources {
            memory_limit_bytes: Some(bytes),
            ..Resources::default()
        },
    };
    pod.order(update(32 << 20));
    assert_eq!(fs::read_to_string(&file).unwrap().trim(), "33554432");
    pod.order(RequestBody::Signal {
        id: "limited".to_owned(),
        signal: 9,
        all: true,
    });
    pod.client.exit("limited");
    assert_eq!(
        pod.client.error(update(64 << 20)).kind,
        ErrorKind::FailedPrecondition
    );
    pod.finish();
}

#[test]
fn deleting_kills_what_runs() {
    let mut pod = Pod::ready();
    let pid = pod.run("busy", "trap '' TERM; sleep 1000 & wait; sleep 1000");
    pod.order(RequestBody::DeleteContainer {
        id: "busy".to_owned(),
    });
    assert!(!alive(pid));
    assert!(pod.state().containers.is_empty());
    let plan = pod.plan("created", "true");
    let pid = pod.create(plan).unwrap();
    pod.order(RequestBody::DeleteContainer {
        id: "created".to_owned(),
    });
    assert!(!alive(pid));
    pod.finish();
}

#[test]
fn a_user_namespace_for_the_pod() {
    let mut pod = Pod::bare();
    let map = IdMap {
        container_id: 0,
        host_id: 100_000,
        length: 65_536,
    };
    let mut plan = pod.sandbox_plan();
    plan.user = Some(IdMappings {
        uids: vec![map],
        gids: vec![map],
    });
    pod.client
        .call(RequestBody::CreateSandbox(plan), vec![])
        .unwrap();
    let (reply, namespace) = pod.client.call(RequestBody::UserNamespace, vec![]).unwrap();
    assert_eq!((reply, namespace.len()), (ReplyBody::Done, 1));
    let script = "id -u; echo again > /dev/stdout; ls -ldn /dev/shm | tr -s ' '; cat /proc/self/uid_map | tr -s ' ';
                  ip link show lo | head -n 1; hostname; touch /dev/shm/x && echo wrote";
    let mut plan = pod.plan("c", script);
    plan.namespaces.user = NamespaceSource::Pod;
    pod.create(plan).unwrap();
    pod.start("c").unwrap();
    let exit = pod.client.exit("c");
    let out = pod.log("c").shown("stdout");
    assert_eq!(exit.exit_code, 0, "{out}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..2], ["0", "again"]);
    assert!(lines[2].starts_with("drwxrwxrwt 2 0 0 "), "{out}");
    assert_eq!(lines[3].trim(), "0 100000 65536");
    assert!(lines[4].contains("LOOPBACK,UP"), "{out}");
    assert_eq!(lines[5..], ["the-pod", "wrote"]);

    // An exec is where its container is.
    let mut plan = pod.plan("d", "read forever");
    plan.namespaces.user = NamespaceSource::Pod;
    let log = pod.log_file("d");
    pod.create_with(plan, log, true).unwrap();
    pod.start("d").unwrap();
    let (request, output) = pod.exec("d", "e", "cat /proc/self/uid_map | tr -s ' '");
    pod.client.start_exec(request).unwrap();
    assert_eq!(output.read_to_end().trim(), "0 100000 65536");
    pod.finish();
}
