//! User namespaces.

use oci_plan::{DeviceNode, MountSource, NamespaceSource, Namespaces, NodeType, PodNamespaces};
use oci_runtime::Kind;

use crate::bench::{Bench, Outcome, chown, filesystem, mappings, plan, rootfs};
use crate::credentials::no_mkdir;

pub(crate) const CASES: &[crate::Case] = &[
    ("users::a_new_user_namespace", a_new_user_namespace),
    ("users::the_pods_user_namespace", the_pods_user_namespace),
    (
        "users::the_pods_user_and_pid_namespaces",
        the_pods_user_and_pid_namespaces,
    ),
    ("users::refusals", refusals),
    ("users::failures_come_through", failures_come_through),
];

const SCRIPT: &str = "cat /proc/self/uid_map | tr -s ' '; id -u; id -G; stat -c '%u:%g' /dev /dev/null /dev/mine /data /proc /sys /dev/shm; \
     echo x >/dev/null && head -c1 /dev/zero | wc -c; touch /data/made && stat -c '%u' /data/made; ls /dev/pts; grep CapEff /proc/self/status; \
     mknod /data/dev c 1 3 2>/dev/null || echo no mknod; mount -t tmpfs none /tmp && echo mounted; hostname mine && hostname";

fn root_of_users() -> std::os::fd::OwnedFd {
    let root = rootfs();
    for path in ["", "data", "etc", "tmp", "bin"] {
        if path.is_empty() {
            let (uid, gid) = (
                rustix::fs::Uid::from_raw(100_000),
                rustix::fs::Gid::from_raw(100_000),
            );
            let empty = rustix::fs::AtFlags::EMPTY_PATH;
            rustix::fs::chownat(&root, "", Some(uid), Some(gid), empty).unwrap();
        } else {
            chown(&root, path, 100_000);
        }
    }
    root
}

fn run(bench: &Bench, namespaces: Namespaces) -> Outcome {
    let mut plan = plan(&["/bin/sh", "-c", SCRIPT]);
    plan.namespaces = namespaces;
    let all = u64::MAX;
    plan.process.capabilities.bounding = all;
    plan.process.capabilities.effective = all;
    plan.process.capabilities.permitted = all;
    plan.process.seccomp = Some(no_mkdir());
    plan.masked_paths = vec!["/proc/timer_list".to_owned(), "/proc/fs".to_owned()];
    plan.readonly_paths = vec!["/proc/sys".to_owned()];
    plan.devices = vec![DeviceNode {
        path: "/dev/mine".to_owned(),
        node_type: NodeType::Char,
        major: 1,
        minor: 3,
        mode: 0o600,
        uid: 5,
        gid: 6,
    }];
    if bench.pod.shm.is_some() {
        plan.mounts.retain(|mount| mount.target != "/dev/shm");
        plan.mounts.push(oci_plan::Mount {
            source: MountSource::PodShm,
            ..filesystem("", "/dev/shm", &[])
        });
    }
    bench.run(&plan, &[root_of_users()]).unwrap()
}

fn expect(bench: &Bench, outcome: &Outcome) {
    let effective = format!("CapEff:\t{:016x}", bench.host.bounding());
    assert_eq!(
        outcome.lines(),
        [
            " 0 100000 65536",
            "0",
            "0",
            "0:0",
            "0:0",
            "5:6",
            "0:0",
            // The kernel's own have no owner inside.
            "65534:65534",
            "65534:65534",
            "0:0",
            "1",
            "0",
            "ptmx",
            &effective,
            "no mknod",
            "mounted",
            "mine"
        ]
    );
}

fn a_new_user_namespace() {
    let bench = Bench::new();
    let new = NamespaceSource::New;
    let outcome = run(
        &bench,
        Namespaces {
            pid: new.clone(),
            net: new.clone(),
            ipc: new.clone(),
            uts: new.clone(),
            user: new.clone(),
            cgroup: new,
            mappings: Some(mappings()),
        },
    );
    expect(&bench, &outcome);
}

fn pods(pid: NamespaceSource) -> Namespaces {
    let pod = NamespaceSource::Pod;
    Namespaces {
        pid,
        net: pod.clone(),
        ipc: pod.clone(),
        uts: pod.clone(),
        user: pod,
        cgroup: NamespaceSource::New,
        mappings: None,
    }
}

fn the_pods_user_namespace() {
    let own = PodNamespaces {
        net: true,
        ipc: true,
        uts: true,
        pid: false,
    };
    let bench = Bench::pod(own, Some(mappings())).with_cgroup();
    let outcome = run(&bench, pods(NamespaceSource::New));
    expect(&bench, &outcome);
}

fn the_pods_user_and_pid_namespaces() {
    let own = PodNamespaces {
        net: true,
        ipc: true,
        uts: true,
        pid: true,
    };
    let bench = Bench::pod(own, Some(mappings())).with_cgroup();
    let outcome = run(&bench, pods(NamespaceSource::Pod));
    expect(&bench, &outcome);
}

fn refusals() {
    let bench = Bench::new();
    let fail = |change: fn(&mut Namespaces)| {
        let mut plan = plan(&["/bin/true"]);
        change(&mut plan.namespaces);
        let error = bench.run(&plan, &[rootfs()]).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        error.to_string()
    };
    assert_eq!(
        fail(|namespaces| namespaces.user = NamespaceSource::New),
        "namespaces.mappings: go with a new user namespace, and only with that"
    );
    assert_eq!(
        fail(|namespaces| {
            namespaces.user = NamespaceSource::New;
            namespaces.mappings = Some(mappings());
            namespaces.net = NamespaceSource::Pod;
        }),
        "namespaces.net: a new user namespace has no rights over an existing one"
    );
}

fn failures_come_through() {
    let own = PodNamespaces {
        net: true,
        ipc: true,
        uts: true,
        pid: false,
    };
    let bench = Bench::pod(own, Some(mappings()));
    let mut plan = plan(&["/no/such"]);
    plan.namespaces = pods(NamespaceSource::New);
    let error = bench.run(&plan, &[root_of_users()]).unwrap_err();
    assert_eq!(error.to_string(), "execute /no/such");
    assert_eq!(error.kind(), Kind::CannotExecute);
    // An owner of the device that the pod's user namespace does not know.
    plan.devices = vec![DeviceNode {
        path: "/dev/mine".to_owned(),
        node_type: NodeType::Char,
        major: 1,
        minor: 3,
        mode: 0o600,
        uid: 70_000,
        gid: 0,
    }];
    let error = bench.run(&plan, &[root_of_users()]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "devices: id 70000 of /dev/mine is not mapped"
    );
}
