//! Execs equal their container's init.

use std::os::fd::AsFd;

use oci_plan::{ContainerPlan, NamespaceSource, Namespaces, OomScoreAdj, PodNamespaces, Rlimit};
use oci_runtime::Kind;

use crate::bench::{Bench, mappings, plan, process, rootfs};
use crate::credentials::no_mkdir;

pub(crate) const CASES: &[crate::Case] = &[
    ("exec::equals_init", equals_init),
    (
        "exec::equals_init_in_a_user_namespace",
        equals_init_in_a_user_namespace,
    ),
    (
        "exec::equals_init_in_the_pods_namespaces",
        equals_init_in_the_pods_namespaces,
    ),
    ("exec::failures_name_the_thing", failures_name_the_thing),
    ("exec::into_a_dead_container", into_a_dead_container),
    ("exec::its_tree_can_be_killed", its_tree_can_be_killed),
];

/// All that a process can see of what it is in and of what binds it.
const FACTS: &str = "grep -vE '^(Name|Pid|PPid|Tgid|Ngid|NSpid|NStgid|NSpgid|NSsid|State|Vm|Rss|Hugetlb|Threads|voluntary|nonvoluntary|FDSize|SigQ|Sig|Shd|Cpus|Mems|x86|untag|Speculation_Store|THP|CoreDumping|Kthread)' /proc/self/status; \
     for n in pid net ipc uts user cgroup mnt time; do readlink /proc/self/ns/$n; done; \
     cat /proc/self/limits /proc/self/oom_score_adj /proc/self/uid_map /proc/self/gid_map /proc/self/mountinfo; \
     grep -v '^0::' /proc/self/cgroup; grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status; umask; id; pwd; env | sort | grep -v SHLVL; mkdir /tmp/x 2>&1; \
     head -c 9 /proc/timer_list; echo 1 2>&1 >/proc/sys/kernel/domainname; readlink /proc/self/root; ls /proc/self/fd | tr '\\n' ' '";

fn strict(plan: &mut ContainerPlan) {
    plan.process.user.uid = 1000;
    plan.process.user.gid = 2000;
    plan.process.user.additional_gids = vec![3000];
    plan.process.user.umask = Some(0o077);
    plan.process.cwd = "/data".to_owned();
    plan.process.capabilities.inheritable = 0b1000_0000_0001;
    plan.process.capabilities.permitted |= 0b1000_0000_0001;
    plan.process.capabilities.bounding |= 0b1000_0000_0001;
    plan.process.capabilities.ambient = 1;
    plan.process.seccomp = Some(no_mkdir());
    plan.process.oom_score_adj = Some(OomScoreAdj(321));
    plan.process.rlimits = vec![
        Rlimit {
            resource: 7,
            soft: 64,
            hard: 128,
        },
        Rlimit {
            resource: 4,
            soft: 0,
            hard: 0,
        },
    ];
    plan.masked_paths = vec!["/proc/timer_list".to_owned()];
    plan.readonly_paths = vec!["/proc/sys".to_owned()];
    plan.hostname = None;
}

/// Init says the facts and then sleeps; an exec says them, too.
fn compare(bench: &Bench, mut plan: ContainerPlan) {
    let init = format!("{{ {FACTS}; }} > /facts/init; echo done; exec sleep 100");
    plan.process.args = vec!["/bin/sh".to_owned(), "-c".to_owned(), init];
    plan.mounts.push(crate::bench::filesystem(
        "tmpfs",
        "/facts",
        &[("mode", "1777")],
    ));
    let mut running = bench.launch(&plan, &[rootfs()]).unwrap();
    assert_eq!(running.line(), "done");

    let mut process = plan.process.clone();
    process.args[2] =
        format!("{{ {FACTS}; }} > /facts/exec; cat /facts/exec; echo ---; cat /facts/init");
    let outcome = bench.exec(running.launch.pidfd(), &process).unwrap();
    let (exec, init) = outcome
        .output
        .split_once("---\n")
        .unwrap_or_else(|| panic!("{outcome:?}"));
    assert!(
        exec.contains("Seccomp:\t2") && exec.contains("not permitted"),
        "{exec}"
    );
    assert!(exec.lines().count() > 60, "{exec}");
    for (one, other) in exec.lines().zip(init.lines()) {
        assert_eq!(one, other);
    }
    assert_eq!(exec, init);
    running.kill();
}

fn equals_init() {
    let bench = Bench::new().with_cgroup();
    for no_new_privileges in [true, false] {
        let mut plan = plan(&[]);
        strict(&mut plan);
        plan.process.no_new_privileges = no_new_privileges;
        compare(&bench, plan);
    }
}

fn equals_init_in_a_user_namespace() {
    let bench = Bench::new().with_cgroup();
    let mut plan = plan(&[]);
    strict(&mut plan);
    plan.namespaces.user = NamespaceSource::New;
    plan.namespaces.mappings = Some(mappings());
    compare(&bench, plan);
}

fn equals_init_in_the_pods_namespaces() {
    let own = PodNamespaces {
        net: true,
        ipc: true,
        uts: true,
        pid: true,
    };
    let bench = Bench::pod(own, Some(mappings())).with_cgroup();
    let mut plan = plan(&[]);
    strict(&mut plan);
    let pod = NamespaceSource::Pod;
    plan.namespaces = Namespaces {
        pid: pod.clone(),
        net: pod.clone(),
        ipc: pod.clone(),
        uts: pod.clone(),
        user: pod,
        cgroup: NamespaceSource::New,
        mappings: None,
    };
    compare(&bench, plan);
}

fn failures_name_the_thing() {
    let bench = Bench::new();
    let sleeper = plan(&["/bin/sh", "-c", "echo here; exec sleep 100"]);
    let mut running = bench.launch(&sleeper, &[rootfs()]).unwrap();
    running.line();
    let fail = |args: &[&str], cwd: &str| {
        let mut process = process(args);
        process.cwd = cwd.to_owned();
        bench.exec(running.launch.pidfd(), &process).unwrap_err()
    };
    let error = fail(&["nothing"], "/");
    assert_eq!(
        error.to_string(),
        "execute nothing (not in the container's PATH)"
    );
    assert_eq!(error.kind(), Kind::CannotExecute);
    let error = fail(&["/bin/true"], "/nowhere");
    assert_eq!(error.to_string(), "enter the working directory /nowhere");
    assert_eq!(error.kind(), Kind::InvalidArgument);
    running.kill();
}

fn into_a_dead_container() {
    let bench = Bench::new();
    let running = bench
        .launch(&plan(&["/bin/sleep", "100"]), &[rootfs()])
        .unwrap();
    let pidfd = running.launch.pidfd().try_clone_to_owned().unwrap();
    // A zombie at first, then nothing.
    rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).unwrap();
    let options = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
    rustix::process::waitid(rustix::process::WaitId::PidFd(pidfd.as_fd()), options).unwrap();
    let process = process(&["/bin/true"]);
    let error = bench.exec(pidfd.as_fd(), &process).unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition, "{error:?}");
    running.wait();
    let error = bench.exec(pidfd.as_fd(), &process).unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition, "{error:?}");
}

fn its_tree_can_be_killed() {
    let bench = Bench::new().with_cgroup();
    let mut running = bench
        .launch(
            &plan(&["/bin/sh", "-c", "echo here; exec sleep 100"]),
            &[rootfs()],
        )
        .unwrap();
    running.line();
    let process = process(&[
        "/bin/sh",
        "-c",
        "sleep 100 & sleep 100 & echo forked; exec sleep 100",
    ]);
    let mut exec = bench.begin_exec(running.launch.pidfd(), &process).unwrap();
    assert_eq!(exec.line(), "forked");
    let cgroup = std::fs::read_to_string(format!("/proc/{}/cgroup", exec.launch.pid())).unwrap();
    let unified = cgroup
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap();
    assert!(unified.contains("exec-1"), "{cgroup}");
    let mount = if std::fs::exists("/sys/fs/cgroup/unified").unwrap() {
        "/sys/fs/cgroup/unified"
    } else {
        "/sys/fs/cgroup"
    };
    std::fs::write(format!("{mount}{unified}/cgroup.kill"), "1").unwrap();
    // Its pipes close: no process of the tree is left to hold them.
    assert_eq!(exec.wait().code, 137);
    running.kill();
}
