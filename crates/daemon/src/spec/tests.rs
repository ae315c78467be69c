//! Cases of a file each: what is asked, and how the specification differs from that of `cases/base.json`.
//!
//! A case is merged over the base (objects by key, everything else replaced). Its `expect` lists the lines that it has more (`+`)
//! and less (`-`) than the base, its `error` the text of a refusal. With `UPDATE_CASES=1` in the environment the files are
//! rewritten with what comes out, to be read before it is committed.

mod accounts;
mod annotations;
mod devices;
mod pod;
mod render;
mod seccomp;
mod sysctl;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use oci_plan::{FdSlot, NamespaceSource};
use oci_spec::runtime::{LinuxBlockIo, LinuxIntelRdt};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// For people.
    #[serde(rename = "about")]
    _about: String,
    pod: PodConfig,
    container: ContainerConfig,
    image: ImageConfiguration,
    passwd: Vec<String>,
    group: Vec<String>,
    host: HostCase,
    devices: Vec<DeviceCase>,
    localhost_seccomp: Option<LinuxSeccomp>,
    /// What the node's classes are that the annotations name.
    classes: ClassesCase,
    /// The pod's SELinux labels.
    labels: Option<PodLabels>,
    /// Which namespaces the pod owns.
    namespaces: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HostCase {
    /// Numbers.
    without_capabilities: Vec<u32>,
    apparmor: bool,
    selinux: bool,
    selinux_labels: bool,
    cgroup_v2: bool,
    swap_accounting: bool,
    hugepage_sizes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClassesCase {
    block_io: Option<LinuxBlockIo>,
    rdt: Option<LinuxIntelRdt>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceCase {
    path: String,
    major: u32,
    minor: u32,
    permissions: String,
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/spec/cases")
}

fn read(path: &Path) -> Map<String, Value> {
    let text = std::fs::read_to_string(path).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}

/// The specification of a case as lines, or its refusal. A specification that comes out becomes a plan as well.
fn outcome(case: Map<String, Value>) -> Result<Vec<String>, String> {
    let case: Case = serde_json::from_value(Value::Object(case)).unwrap();
    let accounts = Accounts::parse(
        case.passwd.join("\n").as_bytes(),
        case.group.join("\n").as_bytes(),
    );
    let missing = case.host.without_capabilities.iter();
    let host = Host {
        capabilities: missing.fold((1 << 41) - 1, |bits, number| bits & !(1 << number)),
        apparmor: case.host.apparmor,
        selinux: case.host.selinux,
        selinux_labels: case.host.selinux_labels,
        cgroup_v2: case.host.cgroup_v2,
        swap_accounting: case.host.swap_accounting,
        hugepage_sizes: case.host.hugepage_sizes,
        maps_layers: true,
    };
    let devices = case.devices.into_iter().map(|device| HostDevice {
        path: device.path,
        block: false,
        major: device.major,
        minor: device.minor,
        mode: 0o660,
        uid: 0,
        gid: 6,
        permissions: device.permissions,
    });
    let devices: Vec<_> = devices.collect();
    let path = |name: &str| {
        let owned = case.namespaces.iter().any(|owned| owned == name);
        owned.then(|| PathBuf::from(format!("/run/ns/{name}")))
    };
    let namespaces = NamespacePaths {
        net: path("net"),
        ipc: path("ipc"),
        uts: path("uts"),
        pid: path("pid"),
        user: path("user"),
        target_pid: path("target_pid"),
    };
    let volumes = image_volumes(&case.image, &case.container).into_iter();
    let volumes = volumes.enumerate().map(|(index, path)| Volume {
        path,
        directory: PathBuf::from(format!("/volumes/{index}")),
    });
    let shm = if namespaces.ipc.is_some() {
        "/pod/shm"
    } else {
        "/dev/shm"
    };
    let volumes: Vec<_> = volumes.collect();
    let mounts = case.container.mounts.iter().enumerate();
    let image_trees: Vec<_> = mounts
        .filter(|(_, mount)| mount.image.is_some())
        .map(|(mount, _)| ImageTree {
            mount,
            path: PathBuf::from(format!("/images/{mount}")),
        })
        .collect();
    let asked = classes_asked(&case.container, &case.pod);
    let found = ClassesFound {
        block_io: asked.block_io.and(case.classes.block_io),
        rdt: asked.rdt.and(case.classes.rdt),
    };
    let built = container_spec(SpecInput {
        sandbox_id: "sandbox",
        pod: &case.pod,
        container: &case.container,
        image: &case.image,
        accounts: &accounts,
        root: Path::new("/root/fs"),
        files: Files {
            hosts: Some(Path::new("/pod/hosts")),
            hostname: Some(Path::new("/pod/hostname")),
            resolv_conf: Some(Path::new("/pod/resolv.conf")),
            shm: Some(Path::new(shm)),
        },
        hostname: "web-0",
        volumes: &volumes,
        image_trees: &image_trees,
        devices: &devices,
        namespaces: &namespaces,
        localhost_seccomp: case.localhost_seccomp,
        classes: &found,
        cgroups_path: "/kubepods/pod1/c1",
        host: &host,
        labels: case.labels.as_ref(),
    });
    let built = built.map_err(|error| error.to_string())?;
    plan(&built.spec, &namespaces);
    Ok(render::lines(&built))
}

fn plan(spec: &Spec, namespaces: &NamespacePaths) {
    let shm = Path::new("/pod/shm");
    let whole = spec;
    let spec = &crate::container::planned(spec);
    let sources = oci_plan::spec::bind_sources(spec, Some(shm)).unwrap();
    let opened = sources.iter().enumerate();
    let binds: Vec<_> = opened
        .map(|(slot, source)| (source.index, FdSlot(1 + slot as u16)))
        .collect();
    let pods = [
        &namespaces.net,
        &namespaces.ipc,
        &namespaces.uts,
        &namespaces.pid,
        &namespaces.user,
    ];
    let mut known: Vec<_> = pods
        .into_iter()
        .flatten()
        .map(|path| (path.clone(), NamespaceSource::Pod))
        .collect();
    let target = namespaces.target_pid.clone();
    known.extend(target.map(|path| (path, NamespaceSource::Container("c0".to_owned()))));
    let profiles = SeccompProfiles::new(PathBuf::from("/nowhere"));
    let context = oci_plan::spec::Context {
        id: "c1",
        rootfs: FdSlot(0),
        binds: &binds,
        namespaces: &known,
        pod_shm: Some(shm),
        seccomp: profiles.program(spec, &PodConfig::default()).unwrap(),
        reach: oci_plan::spec::Reach::Supervisor,
    };
    let seccomp = context.seccomp.clone();
    let plan = oci_plan::spec::container_plan(spec, context).unwrap();
    // An exec is restricted as init is.
    let exec = oci_plan::spec::exec_process(
        spec,
        plan.process.args.clone(),
        plan.process.terminal,
        seccomp,
    );
    assert_eq!(exec.unwrap(), plan.process);
    // What operators read back is what was written.
    let json = serde_json::to_string(whole).unwrap();
    assert_eq!(&serde_json::from_str::<Spec>(&json).unwrap(), whole);
}

#[test]
fn cases() {
    let update = std::env::var_os("UPDATE_CASES").is_some();
    let base_path = directory().join("base.json");
    let mut base = read(&base_path);
    let base_expected = base.remove("expect");
    let base_lines = outcome(base.clone()).unwrap();
    if update {
        let mut file = base.clone();
        file.insert("expect".to_owned(), base_lines.clone().into());
        write(&base_path, file);
    } else {
        assert_eq!(
            Some(Value::from(base_lines.clone())),
            base_expected,
            "base.json"
        );
    }
    let mut wrong = BTreeMap::new();
    for entry in std::fs::read_dir(directory()).unwrap() {
        let path = entry.unwrap().path();
        if path == base_path {
            continue;
        }
        let mut given = read(&path);
        let expected = (given.remove("expect"), given.remove("error"));
        let mut merged = Value::Object(base.clone());
        merge(&mut merged, &Value::Object(given.clone()));
        let Value::Object(merged) = merged else {
            unreachable!()
        };
        let got = match outcome(merged) {
            Ok(lines) => (Some(Value::from(difference(&base_lines, &lines))), None),
            Err(error) => (None, Some(Value::from(error))),
        };
        if got == expected {
            continue;
        }
        if update {
            let (expect, error) = got;
            given.extend(expect.map(|expect| ("expect".to_owned(), expect)));
            given.extend(error.map(|error| ("error".to_owned(), error)));
            write(&path, given);
        } else {
            wrong.insert(path, got);
        }
    }
    assert!(wrong.is_empty(), "UPDATE_CASES=1 rewrites them: {wrong:#?}");
}

/// Each field that confines, limits or mounts is given in some case: a new one fails here until it is.
#[test]
fn every_field_has_a_case() {
    // Decoding makes them the fields that succeeded them.
    let deprecated = ["apparmor_profile", "seccomp_profile_path"];
    let messages = [
        "LinuxContainerSecurityContext",
        "Capability",
        "NamespaceOption",
        "SecurityProfile",
        "LinuxContainerResources",
        "HugepageLimit",
        "Mount",
        "IDMapping",
    ];
    let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cri-fields.toml");
    let table: toml::Table = std::fs::read_to_string(table).unwrap().parse().unwrap();
    let mut given = BTreeSet::new();
    for entry in std::fs::read_dir(directory()).unwrap() {
        let case = read(&entry.unwrap().path());
        for part in ["pod", "container"].map(|part| case.get(part)) {
            part.into_iter().for_each(|part| keys(part, &mut given));
        }
    }
    for message in messages {
        for field in table[message].as_table().unwrap().keys() {
            let known = given.contains(field) || deprecated.contains(&field.as_str());
            assert!(known, "no case gives {message}.{field}");
        }
    }
}

fn keys(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.keys().cloned());
            fields.values().for_each(|value| keys(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| keys(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn difference(base: &[String], lines: &[String]) -> Vec<String> {
    let less = base
        .iter()
        .filter(|line| !lines.contains(line))
        .map(|line| format!("- {line}"));
    let more = lines
        .iter()
        .filter(|line| !base.contains(line))
        .map(|line| format!("+ {line}"));
    less.chain(more).collect()
}

fn write(path: &Path, file: Map<String, Value>) {
    let text = serde_json::to_string_pretty(&file).unwrap();
    std::fs::write(path, text + "\n").unwrap();
}
