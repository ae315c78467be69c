//! Refusals by name, and the translation of what the daemon writes.

use serde_json::{Value, json};

use super::*;
use crate::{Capabilities, DeviceRule, MountFlags, MountSource, Propagation, TerminalSize};

fn base() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "/root/fs"},
        "process": {"cwd": "/", "args": ["/bin/true"], "user": {"uid": 0, "gid": 0}},
        "mounts": [],
        "linux": {
            "cgroupsPath": "/pods/c1",
            "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "network", "path": "/run/ns/net"}],
        },
    })
}

/// The base with a value at a JSON pointer, whose parents are made.
fn with(pointer: &str, value: Value) -> Spec {
    let mut spec = base();
    let mut place = &mut spec;
    for part in pointer.split('/').skip(1) {
        if place.is_null() {
            *place = json!({});
        }
        place = &mut place[part];
    }
    *place = value;
    serde_json::from_value(spec).unwrap()
}

fn plan(spec: &Spec) -> Result<ContainerPlan, SpecError> {
    let shm = Path::new("/pod/shm");
    let sources = bind_sources(spec, Some(shm))?;
    let binds = sources
        .iter()
        .enumerate()
        .map(|(n, source)| (source.index, FdSlot(n as u16 + 1)));
    let binds: Vec<_> = binds.collect();
    let namespaces = [(PathBuf::from("/run/ns/net"), NamespaceSource::Pod)];
    container_plan(
        spec,
        Context {
            id: "c1",
            rootfs: FdSlot(0),
            binds: &binds,
            namespaces: &namespaces,
            pod_shm: Some(shm),
            seccomp: None,
            reach: Reach::Supervisor,
        },
    )
}

#[test]
fn what_the_core_does_not_implement_is_named() {
    let cases = [
        ("/domainname", json!("example"), "domainname"),
        (
            "/process/ioPriority",
            json!({"class": "IOPRIO_CLASS_IDLE", "priority": 7}),
            "process.ioPriority",
        ),
        (
            "/process/scheduler",
            json!({"policy": "SCHED_BATCH"}),
            "process.scheduler",
        ),
        (
            "/process/execCPUAffinity",
            json!({"initial": "0"}),
            "process.execCPUAffinity",
        ),
        ("/linux/intelRdt", json!({"closID": "c"}), "linux.intelRdt"),
        (
            "/linux/personality",
            json!({"domain": "LINUX"}),
            "linux.personality",
        ),
        (
            "/linux/timeOffsets",
            json!({"monotonic": {"secs": 1}}),
            "linux.timeOffsets",
        ),
        ("/linux/netDevices", json!({"eth0": {}}), "linux.netDevices"),
        (
            "/linux/resources/memory/reservation",
            json!(1),
            "linux.resources.memory.reservation",
        ),
        (
            "/linux/resources/memory/kernel",
            json!(1),
            "linux.resources.memory.kernel",
        ),
        (
            "/linux/resources/memory/swappiness",
            json!(1),
            "linux.resources.memory.swappiness",
        ),
        (
            "/linux/resources/memory/disableOOMKiller",
            json!(true),
            "linux.resources.memory.disableOOMKiller",
        ),
        (
            "/linux/resources/cpu/idle",
            json!(1),
            "linux.resources.cpu.idle",
        ),
        (
            "/linux/resources/cpu/burst",
            json!(1),
            "linux.resources.cpu.burst",
        ),
        (
            "/linux/resources/cpu/realtimeRuntime",
            json!(1),
            "linux.resources.cpu.realtimeRuntime",
        ),
        (
            "/linux/resources/blockIO/throttleReadBpsDevice",
            json!([{"major": 8, "minor": 0, "rate": 1}]),
            "linux.resources.blockIO.throttleReadBpsDevice",
        ),
        (
            "/linux/resources/network/classID",
            json!(1),
            "linux.resources.network.classID",
        ),
        (
            "/linux/resources/rdma",
            json!({"mlx5": {"hcaHandles": 1}}),
            "linux.resources.rdma",
        ),
        (
            "/linux/namespaces",
            json!([{"type": "mount"}, {"type": "time"}]),
            "linux.namespaces[1] (time)",
        ),
        (
            "/linux/namespaces",
            json!([{"type": "mount"}, {"type": "ipc", "path": "/proc/1/ns/ipc"}]),
            "linux.namespaces[1].path /proc/1/ns/ipc",
        ),
        (
            "/linux/namespaces",
            json!([]),
            "linux.namespaces without a new mount namespace",
        ),
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW"}),
            "linux.seccomp without its compiled form",
        ),
        (
            "/mounts",
            json!([{"destination": "/a", "type": "ext4", "source": "/dev/sda"}]),
            "mounts[0].type \"ext4\"",
        ),
        (
            "/mounts",
            json!([{"destination": "/a", "type": "tmpfs", "options": ["tmpcopyup"]}]),
            "mounts[0].options \"tmpcopyup\"",
        ),
        (
            "/mounts",
            json!([{"destination": "/a", "source": "/b", "options": ["rbind", "size=1m"]}]),
            "mounts[0].options \"size\" of a bind mount",
        ),
        (
            "/mounts",
            json!([{"destination": "/a", "source": "/b", "options": ["rbind", "idmap"]}]),
            "mounts[0].options idmap without mappings",
        ),
    ];
    for (pointer, value, field) in cases {
        let error = plan(&with(pointer, value)).expect_err(field);
        assert_eq!(
            error.to_string(),
            format!("{field} is not supported by the embedded core")
        );
    }
}

#[test]
fn what_is_wrong_is_named() {
    let cases = [
        (
            "/process/cwd",
            json!("relative"),
            "process.cwd: \"relative\": use an absolute path",
        ),
        ("/process/args", json!([]), "process.args is missing"),
        (
            "/process/oomScoreAdj",
            json!(1001),
            "process.oomScoreAdj: \"1001\": use -1000 to 1000",
        ),
        (
            "/hostname",
            json!("h"),
            "hostname: \"h\": it needs a UTS namespace",
        ),
        (
            "/linux/cgroupsPath",
            json!("/a/../.."),
            "linux.cgroupsPath: \"/a/../..\"",
        ),
        (
            "/linux/cgroupsPath",
            Value::Null,
            "linux.cgroupsPath is missing",
        ),
        (
            "/linux/rootfsPropagation",
            json!("sideways"),
            "linux.rootfsPropagation: \"sideways\"",
        ),
        (
            "/linux/uidMappings",
            json!([{"containerID": 0, "hostID": 1, "size": 1}]),
            "linux.uidMappings: \"set\": mappings need a user namespace",
        ),
        (
            "/mounts",
            json!([{"destination": "a", "type": "proc"}]),
            "mounts[0].destination: \"a\": use an absolute path",
        ),
        (
            "/mounts",
            json!([{"destination": "/a", "source": "b", "options": ["bind"]}]),
            "mounts[0].source: \"b\": a bind mount needs an absolute path",
        ),
        (
            "/process/capabilities",
            json!({"effective": ["CAP_KILL"]}),
            "process.capabilities.effective: \"0x20\": not a subset",
        ),
        (
            "/process/capabilities",
            json!({"permitted": ["CAP_KILL"], "ambient": ["CAP_KILL"]}),
            "process.capabilities.ambient: \"0x20\": not both",
        ),
        (
            "/linux/resources/devices",
            json!([{"allow": true, "access": "x"}]),
            "linux.resources.devices[0].access: \"x\"",
        ),
        (
            "/linux/devices",
            json!([{"path": "/dev/a", "type": "a", "major": 1, "minor": 1}]),
            "linux.devices[0].type: \"a\"",
        ),
    ];
    for (pointer, value, expected) in cases {
        let error = plan(&with(pointer, value)).expect_err(expected).to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn mounts() {
    let spec = with(
        "/mounts",
        json!([
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/tmp", "type": "tmpfs", "options": ["ro", "rw", "mode=1777", "inode64"]},
            {"destination": "/dev/shm", "type": "bind", "source": "/pod/shm", "options": ["rbind", "rprivate"]},
            {"destination": "/data", "source": "/srv", "options": ["rbind", "rslave", "rro"],
             "uidMappings": [{"containerID": 0, "hostID": 7, "size": 1}],
             "gidMappings": [{"containerID": 0, "hostID": 8, "size": 1}]},
            {"destination": "/one", "type": "bind", "source": "/srv/one", "options": ["bind", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro"]},
        ]),
    );
    let sources = bind_sources(&spec, Some(Path::new("/pod/shm"))).unwrap();
    let source = |index, path: &str, recursive| BindSource {
        index,
        path: path.into(),
        recursive,
    };
    assert_eq!(
        sources,
        [source(3, "/srv", true), source(4, "/srv/one", false)]
    );

    let mounts = plan(&spec).unwrap().mounts;
    let quiet = MountFlags {
        nosuid: true,
        nodev: true,
        noexec: true,
        ..MountFlags::default()
    };
    assert_eq!(mounts[0].flags, quiet);
    let data = vec![
        ("mode".to_owned(), Some("1777".to_owned())),
        ("inode64".to_owned(), None),
    ];
    let tmpfs = MountSource::Filesystem {
        fs_type: "tmpfs".to_owned(),
        source: "tmpfs".to_owned(),
        data,
    };
    assert_eq!(
        (&mounts[1].source, mounts[1].flags),
        (&tmpfs, MountFlags::default())
    );
    assert_eq!(mounts[2].source, MountSource::PodShm);
    assert_eq!(mounts[2].propagation, Some(Propagation::Private));
    assert_eq!(mounts[3].source, MountSource::Tree(FdSlot(1)));
    assert!(mounts[3].flags.readonly && mounts[3].flags.recursive_readonly);
    assert_eq!(mounts[3].idmap.as_ref().unwrap().gids[0].host_id, 8);
    assert_eq!(mounts[4].source, MountSource::Tree(FdSlot(2)));
    assert!(mounts[4].flags.readonly && !mounts[4].flags.recursive_readonly);
    assert_eq!(mounts[5].source, MountSource::Cgroup);
}

#[test]
fn a_mount_label_is_that_of_what_is_mounted_anew() {
    let mut spec = with("/linux/mountLabel", json!("u:o:file_t:s0:c1,c2"));
    let mount = |target: &str, kind: &str, options: Value| json!({ "destination": target, "type": kind, "source": kind, "options": options });
    let mounts = json!([
        mount("/proc", "proc", json!([])),
        mount("/sys", "sysfs", json!([])),
        mount("/dev", "tmpfs", json!(["mode=755"])),
        mount("/dev/pts", "devpts", json!([])),
        mount("/dev/mqueue", "mqueue", json!([])),
        mount("/own", "tmpfs", json!(["context=u:o:own_t:s0"])),
    ]);
    spec.set_mounts(Some(serde_json::from_value(mounts).unwrap()));
    let labelled = |plan: ContainerPlan| -> Vec<_> {
        let label = |mount: &crate::Mount| match &mount.source {
            MountSource::Filesystem { data, .. } => {
                let mut given = data.iter().filter(|(name, _)| name == "context");
                let one = given.next().cloned();
                assert_eq!(given.next(), None, "{mount:?}");
                one.and_then(|(_, label)| label)
            }
            other => panic!("{other:?}"),
        };
        plan.mounts.iter().map(label).collect()
    };
    let (none, ours) = (None, Some("u:o:file_t:s0:c1,c2".to_owned()));
    assert_eq!(
        labelled(plan(&spec).unwrap()),
        [
            none.clone(),
            none.clone(),
            ours.clone(),
            ours.clone(),
            ours,
            Some("u:o:own_t:s0".to_owned())
        ]
    );
    let mut linux = spec.linux().clone().unwrap();
    linux.set_mount_label(Some(String::new()));
    spec.set_linux(Some(linux));
    let unlabelled = labelled(plan(&spec).unwrap());
    assert_eq!(
        unlabelled[..5],
        [none.clone(), none.clone(), none.clone(), none.clone(), none]
    );
}

#[test]
fn the_pods_shared_memory_asks_for_no_path() {
    let spec = with(
        "/mounts",
        json!([{"destination": "/dev/shm", "source": "/pod/shm", "options": ["bind"]}]),
    );
    assert_eq!(
        bind_sources(&spec, Some(Path::new("/pod/shm"))).unwrap(),
        []
    );
    assert_eq!(bind_sources(&spec, None).unwrap().len(), 1);
}

#[test]
fn every_capability_has_its_number() {
    let names = [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    ];
    for (number, name) in names.iter().enumerate() {
        let set = json!([format!("CAP_{name}")]);
        let spec = with("/process/capabilities", json!({"bounding": set}));
        let bounding = 1 << number;
        let expected = Capabilities {
            bounding,
            ..Capabilities::default()
        };
        assert_eq!(
            plan(&spec).unwrap().process.capabilities,
            expected,
            "{name}"
        );
    }
}

#[test]
fn resources_in_the_kernels_terms() {
    let spec = with(
        "/linux/resources",
        json!({
            "cpu": {"shares": 1, "quota": -7, "period": 0, "cpus": "", "mems": "0"},
            "memory": {"limit": 0, "swap": -9},
            "pids": {"limit": 10},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
            "devices": [{"allow": false}, {"allow": true, "type": "c", "major": 1, "minor": -1, "access": "rw"}],
            "unified": {"b.x": "1", "a.x": "2"},
        }),
    );
    let resources = plan(&spec).unwrap().resources;
    assert_eq!(resources.cpu_shares, Some(2));
    assert_eq!(resources.cpu_quota_us, Some(-1));
    assert_eq!(resources.cpu_period_us, None);
    assert_eq!(resources.cpuset_cpus, None);
    assert_eq!(resources.cpuset_mems.as_deref(), Some("0"));
    assert_eq!(resources.memory_limit_bytes, None);
    assert_eq!(resources.memory_swap_bytes, Some(-1));
    assert_eq!(resources.pids_limit, Some(10));
    assert_eq!(resources.hugepage_limits[0].limit_bytes, 0);
    let rule = |allow, node_type, major, access: &str| DeviceRule {
        allow,
        node_type,
        major,
        minor: None,
        access: access.to_owned(),
    };
    assert_eq!(
        resources.devices,
        [
            rule(false, 'a', None, "rwm"),
            rule(true, 'c', Some(1), "rw")
        ]
    );
    let names: Vec<_> = resources
        .unified
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(names, ["a.x", "b.x"]);
}

#[test]
fn an_exec_is_restricted_as_init_is() {
    let mut spec = base();
    spec["process"] = json!({
        "cwd": "/srv", "args": ["/init"], "env": ["A=1"], "noNewPrivileges": true, "oomScoreAdj": 500,
        "user": {"uid": 7, "gid": 8, "additionalGids": [8, 9], "umask": 0o27},
        "capabilities": {"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"]},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}],
        "terminal": true,
    });
    spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"});
    let spec: Spec = serde_json::from_value(spec).unwrap();
    let seccomp = Seccomp {
        program: vec![1; 8],
        flags: 2,
    };
    let size = TerminalSize {
        rows: 5,
        columns: 6,
    };
    let args = vec!["ls".to_owned()];
    let exec = exec_process(&spec, args.clone(), Some(size), Some(seccomp.clone())).unwrap();
    assert_eq!(exec.env, ["A=1", "TERM=xterm"]);
    assert_eq!((exec.user.uid, exec.user.umask), (7, Some(0o27)));
    assert_eq!(exec.rlimits[0].resource, 7);
    assert_eq!(exec.capabilities.effective, 1 << 5);
    assert_eq!(exec.seccomp.as_ref(), Some(&seccomp));
    assert!(exec.no_new_privileges);
    assert_eq!(exec.terminal, Some(size));
    // Without a terminal it has none, whatever init has.
    let plain = exec_process(&spec, args.clone(), None, Some(seccomp)).unwrap();
    assert_eq!((plain.terminal, plain.env), (None, vec!["A=1".to_owned()]));
    // The filter is not forgotten.
    assert!(exec_process(&spec, args, None, None).is_err());
}
