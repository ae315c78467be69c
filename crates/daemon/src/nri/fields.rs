//! Every field by which a plugin can change a container: each is honoured, or refused by its name. A field that the protocol has and the table
//! has not is a failure.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use nri::api;
use oci_plan::{
    FdSlot, NamespaceSource, Seccomp,
    spec::{Context, container_plan},
};
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::{
    apply::apply,
    limits::{self, Limits},
};
use crate::{container::planned, spec::Host};

const PROTOCOL: &str = include_str!("../../../nri/proto/nri.proto");

enum Outcome {
    /// The specification has the value there.
    Has(&'static str, Value),
    /// An error has these words.
    Refused(&'static str),
    /// It is so already.
    Nothing,
    /// It has rows of its own, or a test with a kernel.
    Elsewhere,
}
use Outcome::{Elsewhere, Has, Nothing, Refused};

type Row = (&'static str, api::ContainerAdjustment, Outcome);

fn base() -> Spec {
    let base = json!({
        "ociVersion": "1.2.0",
        "root": {"path": "/root/fs"},
        "process": {"cwd": "/", "args": ["/bin/true"], "user": {"uid": 0, "gid": 0}},
        "mounts": [],
        "linux": {
            "cgroupsPath": "/pods/c1",
            "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "network", "path": "/run/ns/net"}],
        },
    });
    serde_json::from_value(base).unwrap()
}

fn plan(spec: &Spec) -> Result<(), String> {
    let spec = planned(spec);
    let linux = spec.linux().as_ref().unwrap();
    let seccomp = linux.seccomp().as_ref().map(|_| Seccomp {
        program: Vec::new(),
        flags: 0,
    });
    let namespaces = [(PathBuf::from("/run/ns/net"), NamespaceSource::Pod)];
    let context = Context {
        id: "c1",
        rootfs: FdSlot(0),
        binds: &[],
        namespaces: &namespaces,
        pod_shm: Some(Path::new("/pod/shm")),
        seccomp,
        reach: oci_plan::spec::Reach::Supervisor,
    };
    let plan = container_plan(&spec, context);
    plan.map(drop).map_err(|error| error.to_string())
}

fn linux(linux: api::LinuxContainerAdjustment) -> api::ContainerAdjustment {
    api::ContainerAdjustment {
        linux: Some(linux),
        ..Default::default()
    }
}

fn resources(resources: api::LinuxResources) -> api::ContainerAdjustment {
    linux(api::LinuxContainerAdjustment {
        resources: Some(resources),
        ..Default::default()
    })
}

fn memory(memory: api::LinuxMemory) -> api::ContainerAdjustment {
    resources(api::LinuxResources {
        memory: Some(memory),
        ..Default::default()
    })
}

fn cpu(cpu: api::LinuxCpu) -> api::ContainerAdjustment {
    resources(api::LinuxResources {
        cpu: Some(cpu),
        ..Default::default()
    })
}

fn int(value: i64) -> Option<api::OptionalInt64> {
    Some(api::OptionalInt64 { value })
}

fn uint(value: u64) -> Option<api::OptionalUInt64> {
    Some(api::OptionalUInt64 { value })
}

fn text(value: &str) -> Option<api::OptionalString> {
    Some(api::OptionalString {
        value: value.to_owned(),
    })
}

/// A message with some fields; the others as they are by default.
macro_rules! with {
    ($wrap:ident, $message:ident { $($field:ident: $value:expr),* $(,)? }) => {
        $wrap(api::$message { $($field: $value,)* ..Default::default() })
    };
}

fn whole(adjust: api::ContainerAdjustment) -> api::ContainerAdjustment {
    adjust
}

fn of_the_container() -> Vec<Row> {
    let mount = api::Mount {
        destination: "/x".to_owned(),
        r#type: "tmpfs".to_owned(),
        source: "tmpfs".to_owned(),
        options: Vec::new(),
    };
    let hook = api::Hook {
        path: "/bin/true".to_owned(),
        ..Default::default()
    };
    let hooks = api::Hooks {
        poststop: vec![hook],
        ..Default::default()
    };
    let variable = api::KeyValue {
        key: "A".to_owned(),
        value: "b".to_owned(),
    };
    let limit = api::PosixRlimit {
        r#type: "RLIMIT_NOFILE".to_owned(),
        hard: 9,
        soft: 8,
    };
    vec![
        (
            "annotations",
            with!(
                whole,
                ContainerAdjustment {
                    annotations: [("a".to_owned(), "b".to_owned())].into()
                }
            ),
            Has("/annotations/a", json!("b")),
        ),
        (
            "mounts",
            with!(
                whole,
                ContainerAdjustment {
                    mounts: vec![mount]
                }
            ),
            Has("/mounts/0/destination", json!("/x")),
        ),
        (
            "env",
            with!(
                whole,
                ContainerAdjustment {
                    env: vec![variable]
                }
            ),
            Has("/process/env", json!(["A=b"])),
        ),
        (
            "hooks",
            with!(whole, ContainerAdjustment { hooks: Some(hooks) }),
            Has("/hooks/poststop/0/path", json!("/bin/true")),
        ),
        ("linux", Default::default(), Elsewhere),
        (
            "rlimits",
            with!(
                whole,
                ContainerAdjustment {
                    rlimits: vec![limit]
                }
            ),
            Has("/process/rlimits/0/hard", json!(9)),
        ),
        ("CDI_devices", Default::default(), Elsewhere),
        (
            "args",
            with!(
                whole,
                ContainerAdjustment {
                    args: vec!["x".to_owned()]
                }
            ),
            Has("/process/args", json!(["x"])),
        ),
    ]
}

fn of_linux() -> Vec<Row> {
    let device = api::LinuxDevice {
        path: "/dev/x".to_owned(),
        r#type: "c".to_owned(),
        major: 1,
        minor: 7,
        ..Default::default()
    };
    let io_priority = api::LinuxIoPriority {
        class: api::IoPrioClass::IoprioClassIdle.into(),
        priority: 7,
    };
    let scheduler = api::LinuxScheduler {
        policy: api::LinuxSchedulerPolicy::SchedBatch.into(),
        flags: vec![api::LinuxSchedulerFlag::SchedFlagResetOnFork.into()],
        ..Default::default()
    };
    let seccomp = api::LinuxSeccomp {
        default_action: "SCMP_ACT_ERRNO".to_owned(),
        ..Default::default()
    };
    let namespace = api::LinuxNamespace {
        r#type: "cgroup".to_owned(),
        path: String::new(),
    };
    let sysctl = ("kernel.shm_rmid_forced".to_owned(), "1".to_owned());
    let net_device = api::LinuxNetDevice {
        name: "eth1".to_owned(),
    };
    let rdt = api::LinuxRdt {
        clos_id: text("fast"),
        ..Default::default()
    };
    let memory_policy = api::LinuxMemoryPolicy {
        mode: api::MpolMode::MpolBind.into(),
        nodes: "0".to_owned(),
        ..Default::default()
    };
    vec![
        (
            "devices",
            with!(
                linux,
                LinuxContainerAdjustment {
                    devices: vec![device]
                }
            ),
            Has("/linux/devices/0/path", json!("/dev/x")),
        ),
        ("resources", Default::default(), Elsewhere),
        (
            "cgroups_path",
            with!(
                linux,
                LinuxContainerAdjustment {
                    cgroups_path: "/pods/apart/c1".to_owned()
                }
            ),
            Has("/linux/cgroupsPath", json!("/pods/apart/c1")),
        ),
        (
            "oom_score_adj",
            with!(
                linux,
                LinuxContainerAdjustment {
                    oom_score_adj: Some(api::OptionalInt { value: 5 })
                }
            ),
            Has("/process/oomScoreAdj", json!(5)),
        ),
        (
            "io_priority",
            with!(
                linux,
                LinuxContainerAdjustment {
                    io_priority: Some(io_priority)
                }
            ),
            Has("/process/ioPriority/class", json!("IOPRIO_CLASS_IDLE")),
        ),
        (
            "seccomp_policy",
            with!(
                linux,
                LinuxContainerAdjustment {
                    seccomp_policy: Some(seccomp)
                }
            ),
            Has("/linux/seccomp/defaultAction", json!("SCMP_ACT_ERRNO")),
        ),
        (
            "namespaces",
            with!(
                linux,
                LinuxContainerAdjustment {
                    namespaces: vec![namespace]
                }
            ),
            Has("/linux/namespaces/4/type", json!("cgroup")),
        ),
        (
            "sysctl",
            with!(
                linux,
                LinuxContainerAdjustment {
                    sysctl: [sysctl].into()
                }
            ),
            Has("/linux/sysctl/kernel.shm_rmid_forced", json!("1")),
        ),
        (
            "net_devices",
            with!(
                linux,
                LinuxContainerAdjustment {
                    net_devices: [("eth1".to_owned(), net_device)].into()
                }
            ),
            Has("/linux/netDevices/eth1/name", json!("eth1")),
        ),
        (
            "scheduler",
            with!(
                linux,
                LinuxContainerAdjustment {
                    scheduler: Some(scheduler)
                }
            ),
            Has("/process/scheduler/policy", json!("SCHED_BATCH")),
        ),
        (
            "rdt",
            with!(linux, LinuxContainerAdjustment { rdt: Some(rdt) }),
            Has("/linux/intelRdt/closID", json!("fast")),
        ),
        (
            "memory_policy",
            with!(
                linux,
                LinuxContainerAdjustment {
                    memory_policy: Some(memory_policy)
                }
            ),
            Has("/linux/memoryPolicy/nodes", json!("0")),
        ),
    ]
}

fn of_resources() -> Vec<Row> {
    let limit = api::HugepageLimit {
        page_size: "2MB".to_owned(),
        limit: 5,
    };
    let file = ("memory.high".to_owned(), "5".to_owned());
    let rule = api::LinuxDeviceCgroup {
        allow: true,
        r#type: "c".to_owned(),
        major: int(1),
        minor: int(7),
        access: "r".to_owned(),
    };
    vec![
        ("memory", Default::default(), Elsewhere),
        ("cpu", Default::default(), Elsewhere),
        (
            "hugepage_limits",
            with!(
                resources,
                LinuxResources {
                    hugepage_limits: vec![limit]
                }
            ),
            Has("/linux/resources/hugepageLimits/0/limit", json!(5)),
        ),
        (
            "blockio_class",
            with!(
                resources,
                LinuxResources {
                    blockio_class: text("x")
                }
            ),
            Elsewhere,
        ),
        (
            "rdt_class",
            with!(
                resources,
                LinuxResources {
                    rdt_class: text("x")
                }
            ),
            Elsewhere,
        ),
        (
            "unified",
            with!(
                resources,
                LinuxResources {
                    unified: [file].into()
                }
            ),
            Has("/linux/resources/unified/memory.high", json!("5")),
        ),
        (
            "devices",
            with!(
                resources,
                LinuxResources {
                    devices: vec![rule]
                }
            ),
            Has("/linux/resources/devices/0/minor", json!(7)),
        ),
        (
            "pids",
            with!(
                resources,
                LinuxResources {
                    pids: Some(api::LinuxPids { limit: 5 })
                }
            ),
            Has("/linux/resources/pids/limit", json!(5)),
        ),
    ]
}

fn of_memory() -> Vec<Row> {
    vec![
        (
            "limit",
            with!(memory, LinuxMemory { limit: int(5) }),
            Has("/linux/resources/memory/limit", json!(5)),
        ),
        (
            "reservation",
            with!(
                memory,
                LinuxMemory {
                    reservation: int(5)
                }
            ),
            Has("/linux/resources/unified/memory.low", json!("5")),
        ),
        (
            "swap",
            with!(memory, LinuxMemory { swap: int(5) }),
            Has("/linux/resources/memory/swap", json!(5)),
        ),
        (
            "kernel",
            with!(memory, LinuxMemory { kernel: int(5) }),
            Refused("linux.resources.memory.kernel"),
        ),
        (
            "kernel_tcp",
            with!(memory, LinuxMemory { kernel_tcp: int(5) }),
            Refused("linux.resources.memory.kernel_tcp"),
        ),
        (
            "swappiness",
            with!(
                memory,
                LinuxMemory {
                    swappiness: uint(5)
                }
            ),
            Refused("linux.resources.memory.swappiness"),
        ),
        (
            "disable_oom_killer",
            with!(
                memory,
                LinuxMemory {
                    disable_oom_killer: Some(api::OptionalBool { value: true })
                }
            ),
            Refused("linux.resources.memory.disable_oom_killer"),
        ),
        (
            "use_hierarchy",
            with!(
                memory,
                LinuxMemory {
                    use_hierarchy: Some(api::OptionalBool { value: true })
                }
            ),
            Nothing,
        ),
    ]
}

fn of_cpu() -> Vec<Row> {
    vec![
        (
            "shares",
            with!(cpu, LinuxCpu { shares: uint(5) }),
            Has("/linux/resources/cpu/shares", json!(5)),
        ),
        (
            "quota",
            with!(cpu, LinuxCpu { quota: int(5000) }),
            Has("/linux/resources/cpu/quota", json!(5000)),
        ),
        (
            "period",
            with!(cpu, LinuxCpu { period: uint(5000) }),
            Has("/linux/resources/cpu/period", json!(5000)),
        ),
        (
            "realtime_runtime",
            with!(
                cpu,
                LinuxCpu {
                    realtime_runtime: int(5)
                }
            ),
            Refused("linux.resources.cpu.realtime_runtime"),
        ),
        (
            "realtime_period",
            with!(
                cpu,
                LinuxCpu {
                    realtime_period: uint(5)
                }
            ),
            Refused("linux.resources.cpu.realtime_period"),
        ),
        (
            "cpus",
            with!(
                cpu,
                LinuxCpu {
                    cpus: "0".to_owned()
                }
            ),
            Has("/linux/resources/cpu/cpus", json!("0")),
        ),
        (
            "mems",
            with!(
                cpu,
                LinuxCpu {
                    mems: "0".to_owned()
                }
            ),
            Has("/linux/resources/cpu/mems", json!("0")),
        ),
    ]
}

/// The fields of a message, as the protocol has them.
fn fields(message: &str) -> BTreeSet<&'static str> {
    let begin = PROTOCOL.find(&format!("message {message} {{")).unwrap();
    let body = &PROTOCOL[begin..];
    let body = &body[..body.find("\n}").unwrap()];
    let lines = body.lines().map(str::trim);
    lines
        .filter(|line| !line.starts_with("//"))
        .filter_map(|line| line.split_once(" = ")?.0.split_whitespace().last())
        .collect()
}

fn v2() -> Host {
    Host {
        cgroup_v2: true,
        swap_accounting: true,
        ..Host::default()
    }
}

#[test]
fn every_field_is_honoured_or_refused_by_name() {
    for (message, rows) in [
        ("ContainerAdjustment", of_the_container()),
        ("LinuxContainerAdjustment", of_linux()),
        ("LinuxResources", of_resources()),
        ("LinuxMemory", of_memory()),
        ("LinuxCPU", of_cpu()),
    ] {
        let known: BTreeSet<_> = rows.iter().map(|(name, _, _)| *name).collect();
        assert_eq!(known, fields(message), "{message}");
        for (name, adjust, outcome) in rows {
            let mut spec = base();
            let made = apply(&mut spec, &adjust, &v2()).map_err(|error| error.to_string());
            let made = made.and_then(|()| plan(&spec));
            match outcome {
                Has(pointer, value) => {
                    made.unwrap_or_else(|error| panic!("{message}.{name}: {error}"));
                    let spec = serde_json::to_value(&spec).unwrap();
                    assert_eq!(spec.pointer(pointer), Some(&value), "{message}.{name}");
                }
                Refused(words) => {
                    let error = made.expect_err(name);
                    assert!(error.contains(words), "{message}.{name}: {error}");
                }
                Nothing => {
                    made.unwrap();
                    let without = serde_json::to_value(base()).unwrap();
                    let mut spec = serde_json::to_value(&spec).unwrap();
                    spec["linux"].as_object_mut().unwrap().remove("resources");
                    assert_eq!(spec["linux"], without["linux"], "{message}.{name}");
                }
                Elsewhere => {}
            }
        }
    }
}

#[test]
fn what_v1_alone_has_is_honoured_there() {
    let v1 = Host::default();
    for (message, rows) in [("LinuxMemory", of_memory()), ("LinuxCPU", of_cpu())] {
        for (name, adjust, _) in rows {
            let pointer = match name {
                "reservation" => "memory/reservation",
                "kernel_tcp" => "memory/kernelTCP",
                "swappiness" => "memory/swappiness",
                "disable_oom_killer" => "memory/disableOOMKiller",
                "realtime_runtime" => "cpu/realtimeRuntime",
                "realtime_period" => "cpu/realtimePeriod",
                _ => continue,
            };
            let mut spec = base();
            apply(&mut spec, &adjust, &v1).unwrap();
            plan(&spec).unwrap();
            let spec = serde_json::to_value(&spec).unwrap();
            let value = spec.pointer(&format!("/linux/resources/{pointer}"));
            let expected = match name {
                "disable_oom_killer" => json!(true),
                _ => json!(5),
            };
            assert_eq!(value, Some(&expected), "{message}.{name}");
            let given = adjust.linux.and_then(|linux| linux.resources).unwrap();
            let asked = limits::asked(&given, &v1).unwrap();
            assert_eq!(asked.further.files().len(), 1, "{message}.{name}");
        }
    }
}

#[test]
fn every_limit_of_a_living_container_is_changed_or_refused_by_name() {
    for (message, rows) in [
        ("LinuxResources", of_resources()),
        ("LinuxMemory", of_memory()),
        ("LinuxCPU", of_cpu()),
    ] {
        for (name, adjust, outcome) in rows {
            let Some(given) = adjust.linux.and_then(|linux| linux.resources) else {
                continue;
            };
            let asked = limits::asked(&given, &v2());
            match outcome {
                // They are given when a container is made.
                _ if ["devices", "blockio_class", "rdt_class"].contains(&name) => {
                    let error = asked.unwrap_err().to_string();
                    assert!(
                        error.contains(&format!("linux.resources.{name}")),
                        "{error}"
                    );
                }
                Has(..) => assert_ne!(asked.unwrap(), Limits::default(), "{message}.{name}"),
                Refused(words) => {
                    let error = asked.unwrap_err().to_string();
                    assert!(error.contains(words), "{message}.{name}: {error}");
                }
                Nothing | Elsewhere => assert_eq!(asked.unwrap(), Limits::default()),
            }
        }
    }
}

#[test]
fn what_is_changed_for_nothing_is_given_back() {
    let mut now = Limits::default();
    now.asked.memory_limit_in_bytes = 64;
    now.pids = Some(7);
    let mut change = Limits::default();
    change.asked.memory_limit_in_bytes = 32;
    change.asked.cpu_quota = 5000;
    change.pids = Some(3);
    let undone = change.undone(&now);
    assert_eq!(undone.asked.memory_limit_in_bytes, 64);
    assert_eq!(undone.asked.cpu_quota, -1, "there was none");
    assert_eq!(undone.asked.cpu_shares, 0, "it was not changed");
    assert_eq!(undone.pids, Some(7));
}
