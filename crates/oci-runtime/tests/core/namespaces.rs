//! Which namespaces a container is in.

use std::os::fd::AsFd;

use oci_plan::{NamespaceSource, Namespaces, PodNamespaces};
use oci_runtime::Kind;

use crate::bench::{Bench, plan, rootfs, sandbox_plan};

pub(crate) const CASES: &[crate::Case] = &[
    ("namespaces::new_or_the_hosts", new_or_the_hosts),
    ("namespaces::the_pods", the_pods),
    (
        "namespaces::whoever_makes_a_pod_stays_outside",
        whoever_makes_a_pod_stays_outside,
    ),
    (
        "namespaces::a_pods_pid_namespace_has_an_init",
        a_pods_pid_namespace_has_an_init,
    ),
    ("namespaces::anothers_pid_namespace", anothers_pid_namespace),
    ("namespaces::hostname_and_sysctls", hostname_and_sysctls),
];

const NAMES: [&str; 6] = ["pid", "net", "ipc", "uts", "cgroup", "mnt"];
const SHOW: &str = "for n in pid net ipc uts cgroup mnt; do readlink /proc/self/ns/$n; done";

fn hosts() -> Vec<String> {
    NAMES
        .map(|name| std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap())
        .map(|link| link.to_string_lossy().into_owned())
        .to_vec()
}

fn new_or_the_hosts() {
    let bench = Bench::new();
    let new = bench.shell(SHOW, |_| {});
    for (ours, theirs) in hosts().iter().zip(new.lines()) {
        assert_ne!(ours, theirs);
    }
    let shared = bench.shell(SHOW, |plan| plan.namespaces = all(NamespaceSource::Host));
    let same: Vec<bool> = hosts()
        .iter()
        .zip(shared.lines())
        .map(|(ours, theirs)| ours == theirs)
        .collect();
    assert_eq!(same, [true, true, true, true, true, false]);
}

fn all(source: NamespaceSource) -> Namespaces {
    Namespaces {
        pid: source.clone(),
        net: source.clone(),
        ipc: source.clone(),
        uts: source.clone(),
        user: NamespaceSource::Host,
        cgroup: NamespaceSource::Host,
        mappings: None,
    }
}

fn the_pods() {
    let own = PodNamespaces {
        net: true,
        ipc: true,
        uts: true,
        pid: false,
    };
    let bench = Bench::pod(own, None);
    let script = format!("{SHOW}; hostname; cat /proc/sys/net/ipv4/ip_forward");
    let show = || {
        bench.shell(&script, |plan| {
            plan.namespaces = Namespaces {
                pid: NamespaceSource::New,
                ..all(NamespaceSource::Pod)
            };
        })
    };
    let (one, two) = (show(), show());
    assert_eq!(one.lines()[1..4], two.lines()[1..4]);
    // The first one's is gone when the second is made, and may have left it its number.
    assert_ne!(one.lines()[0], hosts()[0]);
    assert_ne!(two.lines()[0], hosts()[0]);
    assert_ne!(one.lines()[1], hosts()[1]);
    assert_eq!(one.lines()[6..], ["pod-host", "1"]);

    let mut plan = plan(&["/bin/sh"]);
    plan.namespaces.pid = NamespaceSource::Pod;
    let error = bench.run(&plan, &[rootfs()]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "namespaces.pid: the pod has none of its own"
    );
    assert_eq!(error.kind(), Kind::InvalidArgument);
}

fn whoever_makes_a_pod_stays_outside() {
    let namespaces = PodNamespaces {
        net: true,
        ipc: true,
        uts: true,
        pid: false,
    };
    let (before, hostname) = (hosts(), rustix::system::uname().nodename().to_owned());
    let bench = Bench::pod(namespaces, None);
    assert_eq!(hosts(), before);
    let mut broken = sandbox_plan(namespaces, None);
    broken.hostname = "elsewhere".to_owned();
    let parameter = (
        "net.ipv4.ip_forward".to_owned(),
        "a word, and no number".to_owned(),
    );
    broken.sysctls.push(parameter);
    let error = bench.make_pod(&broken).unwrap_err();
    assert!(
        error.to_string().contains("net.ipv4.ip_forward=a word"),
        "{error}"
    );
    assert_eq!(hosts(), before);
    assert_eq!(rustix::system::uname().nodename(), hostname.as_c_str());
}

fn a_pods_pid_namespace_has_an_init() {
    let own = PodNamespaces {
        net: false,
        ipc: false,
        uts: false,
        pid: true,
    };
    let bench = Bench::pod(own, None);
    // A grandchild whose parent is gone is the init's, which reaps it. The init shows nothing.
    let script = "cat /proc/1/comm; grep CapBnd /proc/1/status; (sleep 0.05 & echo $! >/tmp/pid); p=$(cat /tmp/pid); \
         for i in 1 2 3 4 5 6 7 8 9; do [ -d /proc/$p ] || break; sleep 0.1; done; [ -d /proc/$p ] || echo reaped; \
         ls /proc/1/fd 2>/dev/null | wc -l; ls /proc/1/root/ 2>/dev/null | wc -l; [ $$ -gt 1 ] && echo not first";
    let pod_pid = |plan: &mut oci_plan::ContainerPlan| plan.namespaces.pid = NamespaceSource::Pod;
    let outcome = bench.shell(script, pod_pid);
    assert_eq!(
        outcome.lines(),
        [
            "longshore-init",
            "CapBnd:\t0000000000000000",
            "reaped",
            // The one by which it learns of deaths.
            "1",
            "0",
            "not first"
        ]
    );
    // Two containers see each other.
    let mut sleeper = plan(&["/bin/sh", "-c", "echo here; exec sleep 100"]);
    pod_pid(&mut sleeper);
    let mut running = bench.launch(&sleeper, &[rootfs()]).unwrap();
    assert_eq!(running.line(), "here");
    let outcome = bench.shell("grep -l sleep /proc/[0-9]*/comm | wc -l", pod_pid);
    assert_eq!(outcome.lines(), ["1"]);
    running.kill();
}

fn anothers_pid_namespace() {
    let bench = Bench::new();
    let sleeper = plan(&["/bin/sh", "-c", "echo here; exec sleep 100"]);
    let mut target = bench.launch(&sleeper, &[rootfs()]).unwrap();
    target.line();
    let mut plan = plan(&[
        "/bin/sh",
        "-c",
        "cat /proc/1/comm; readlink /proc/self/ns/pid",
    ]);
    plan.namespaces.pid = NamespaceSource::Container("web".to_owned());
    let pidfd = target.launch.pidfd().try_clone_to_owned().unwrap();
    let targets = |id: &str| (id == "web").then(|| pidfd.as_fd());
    let outcome = bench
        .launch_beside(&plan, &[rootfs()], &targets)
        .unwrap()
        .wait();
    let theirs = format!("/proc/{}/ns/pid", target.launch.pid());
    let theirs = std::fs::read_link(theirs).unwrap();
    assert_eq!(outcome.lines(), ["sleep", &theirs.to_string_lossy()]);

    plan.namespaces.pid = NamespaceSource::Container("db".to_owned());
    let error = bench
        .launch_beside(&plan, &[rootfs()], &targets)
        .map(|_| ())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "namespaces.pid: there is no container \"db\""
    );
    assert_eq!(error.kind(), Kind::NotFound);

    target.kill();
    // Nothing can be born into a PID namespace whose init is dead.
    plan.namespaces.pid = NamespaceSource::Container("web".to_owned());
    assert!(bench.launch_beside(&plan, &[rootfs()], &targets).is_err());
    // And the caller is back in its own.
    assert_eq!(bench.shell("echo $$", |_| {}).lines(), ["1"]);
    let child = std::process::Command::new("/bin/true").status().unwrap();
    assert!(child.success());
}

fn hostname_and_sysctls() {
    let bench = Bench::new();
    let outcome = bench.shell(
        "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni",
        |plan| {
            plan.hostname = Some("web-0".to_owned());
            plan.sysctls = vec![
                (
                    "net.ipv4.ip_unprivileged_port_start".to_owned(),
                    "80".to_owned(),
                ),
                ("kernel.shmmni".to_owned(), "123".to_owned()),
            ];
        },
    );
    assert_eq!(outcome.lines(), ["web-0", "80", "123"]);

    let refused = |name: &str, value: &str, net: NamespaceSource| {
        let mut plan = plan(&["/bin/sh"]);
        plan.namespaces.net = net;
        plan.sysctls = vec![(name.to_owned(), value.to_owned())];
        let error = bench.run(&plan, &[rootfs()]).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument, "{error:?}");
        error.to_string()
    };
    assert_eq!(
        refused("vm.swappiness", "1", NamespaceSource::New),
        "sysctls.vm.swappiness: is not a parameter of a namespace: it would be the host's"
    );
    assert_eq!(
        refused("net.ipv4.ip_forward", "1", NamespaceSource::Host),
        "sysctls.net.ipv4.ip_forward: needs an own network namespace: here it would be another's"
    );
    assert_eq!(
        refused("net.no.such", "1", NamespaceSource::New),
        "write sysctl net.no.such=1"
    );
}
