//! Requests that are wrong, and what kubelets send.

mod odd;

use cri::v1;

use super::*;
use crate::{container::config::ContainerConfig, pod::config::PodConfig, rpc::encode};

fn pod() -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "web-0".into(),
            uid: "u1".into(),
            namespace: "default".into(),
            attempt: 1,
        }),
        hostname: "web-0".into(),
        log_directory: "/var/log/pods/default_web-0_u1".into(),
        dns_config: Some(v1::DnsConfig {
            servers: vec!["10.0.0.10".into()],
            searches: vec!["default.svc.cluster.local".into()],
            options: vec!["ndots:5".into()],
        }),
        port_mappings: vec![v1::PortMapping {
            protocol: v1::Protocol::Tcp.into(),
            container_port: 80,
            host_port: 8080,
            host_ip: "127.0.0.1".into(),
        }],
        labels: [("io.kubernetes.pod.uid".into(), "u1".into())].into(),
        annotations: [("note".into(), "a\nb".into())].into(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: "/kubepods/besteffort/podu1".into(),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(v1::NamespaceOption {
                    pid: v1::NamespaceMode::Container.into(),
                    ..Default::default()
                }),
                selinux_options: Some(v1::SeLinuxOption::default()),
                run_as_user: Some(v1::Int64Value { value: 0 }),
                supplemental_groups: vec![4000],
                seccomp: Some(v1::SecurityProfile::default()),
                ..Default::default()
            }),
            sysctls: [("net.core.somaxconn".into(), "1024".into())].into(),
            overhead: None,
            resources: Some(v1::LinuxContainerResources {
                cpu_shares: 2,
                ..Default::default()
            }),
        }),
        windows: None,
    }
}

fn container() -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: "web".into(),
            attempt: 2,
        }),
        image: Some(v1::ImageSpec {
            image: "sha256:1234".into(),
            user_specified_image: "docker.io/library/web:1".into(),
            annotations: [("a".into(), "b".into())].into(),
            ..Default::default()
        }),
        command: vec!["/bin/sh".into()],
        args: vec!["-c".into(), "true".into()],
        working_dir: "/srv".into(),
        envs: vec![v1::KeyValue {
            key: "A".into(),
            value: b"1=2".to_vec(),
        }],
        mounts: vec![v1::Mount {
            container_path: "/data".into(),
            host_path: "/var/lib/kubelet/data".into(),
            readonly: true,
            selinux_relabel: true,
            ..Default::default()
        }],
        devices: vec![v1::Device {
            container_path: "/dev/fuse".into(),
            host_path: "/dev/fuse".into(),
            permissions: "mrw".into(),
        }],
        labels: [("l".into(), "1".into())].into(),
        annotations: [("io.kubernetes.container.hash".into(), "1".into())].into(),
        log_path: "web/2.log".into(),
        stdin: true,
        stdin_once: true,
        tty: true,
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(v1::LinuxContainerResources {
                cpu_period: 100_000,
                cpu_quota: -1,
                cpu_shares: 2,
                memory_limit_in_bytes: 134_217_728,
                oom_score_adj: -997,
                hugepage_limits: ["2MB", "1GB"]
                    .map(|size| v1::HugepageLimit {
                        page_size: size.into(),
                        limit: 0,
                    })
                    .to_vec(),
                ..Default::default()
            }),
            security_context: Some(v1::LinuxContainerSecurityContext {
                capabilities: Some(v1::Capability {
                    drop_capabilities: vec!["ALL".into()],
                    ..Default::default()
                }),
                namespace_options: Some(v1::NamespaceOption {
                    pid: v1::NamespaceMode::Container.into(),
                    ..Default::default()
                }),
                selinux_options: Some(v1::SeLinuxOption::default()),
                run_as_user: Some(v1::Int64Value { value: 1000 }),
                run_as_group: Some(v1::Int64Value { value: 1000 }),
                masked_paths: vec!["/proc/kcore".into()],
                readonly_paths: vec!["/proc/sys".into()],
                apparmor: Some(v1::SecurityProfile::default()),
                seccomp: Some(v1::SecurityProfile::default()),
                ..Default::default()
            }),
        }),
        windows: None,
        cdi_devices: Vec::new(),
        stop_signal: v1::Signal::Sigusr1.into(),
    }
}

fn decode_pod(change: impl FnOnce(&mut v1::PodSandboxConfig)) -> Result<PodConfig, InvalidField> {
    let mut config = pod();
    change(&mut config);
    pod_config("config", config)
}

fn decode_container(
    change: impl FnOnce(&mut v1::ContainerConfig),
) -> Result<ContainerConfig, InvalidField> {
    let mut config = container();
    change(&mut config);
    container_config("config", config)
}

#[test]
fn a_kubelets_requests_are_taken_and_told_back() {
    let asked = pod();
    let config = pod_config("config", asked.clone()).unwrap();
    assert_eq!(
        encode::pod_metadata(&config.metadata),
        asked.metadata.unwrap()
    );
    assert_eq!(
        (&config.labels, &config.annotations),
        (&asked.labels, &asked.annotations)
    );
    let options = asked
        .linux
        .unwrap()
        .security_context
        .unwrap()
        .namespace_options;
    let told = encode::pod_linux_status(&config.linux.security_context.namespace_options);
    assert_eq!(told.namespaces.unwrap().options, options);

    let asked = container();
    let config = container_config("config", asked.clone()).unwrap();
    assert_eq!(
        encode::container_metadata(&config.metadata),
        asked.metadata.unwrap()
    );
    assert_eq!(encode::image_spec(&config.image), asked.image.unwrap());
    assert_eq!(
        encode::mounts(&config.mounts, &std::collections::BTreeMap::new()),
        asked.mounts
    );
    assert_eq!(
        encode::resources(&config.linux.resources).linux,
        asked.linux.unwrap().resources
    );
    assert_eq!(
        encode::stop_signal(config.stop_signal.unwrap()),
        asked.stop_signal
    );
}

#[test]
fn the_json_is_crictls() {
    let config = pod_config("config", pod()).unwrap();
    let json = serde_json::to_value(&config).unwrap();
    assert_eq!(
        json["linux"],
        serde_json::json!({
            "cgroup_parent": "/kubepods/besteffort/podu1",
            "security_context": {
                "namespace_options": {"pid": 1},
                "run_as_user": {"value": 0},
                "supplemental_groups": [4000],
                "seccomp": {},
            },
            "sysctls": {"net.core.somaxconn": "1024"},
            "resources": {"cpu_shares": 2},
        })
    );
    assert_eq!(serde_json::from_value::<PodConfig>(json).unwrap(), config);

    let config = container_config("config", container()).unwrap();
    let json = serde_json::to_value(&config).unwrap();
    assert_eq!(json["stop_signal"], 29);
    assert_eq!(
        json["envs"],
        serde_json::json!([{"key": "A", "value": "1=2"}])
    );
    assert_eq!(
        serde_json::from_value::<ContainerConfig>(json).unwrap(),
        config
    );
}

#[test]
fn least_requests() {
    let metadata = pod().metadata;
    pod_config(
        "config",
        v1::PodSandboxConfig {
            metadata,
            ..Default::default()
        },
    )
    .unwrap();
    let config = v1::ContainerConfig {
        metadata: container().metadata,
        image: Some(v1::ImageSpec {
            image: "busybox".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    container_config("config", config).unwrap();
}

/// A change of a request, and how its refusal begins.
type Wrong<T> = (fn(&mut T), &'static str);

fn pod_security(config: &mut v1::PodSandboxConfig) -> &mut v1::LinuxSandboxSecurityContext {
    config
        .linux
        .as_mut()
        .unwrap()
        .security_context
        .as_mut()
        .unwrap()
}

fn userns(mode: v1::NamespaceMode, length: u32) -> v1::UserNamespace {
    let maps = vec![v1::IdMapping {
        host_id: u32::MAX - 10,
        container_id: 0,
        length,
    }];
    v1::UserNamespace {
        mode: mode.into(),
        uids: maps.clone(),
        gids: maps,
    }
}

#[test]
fn wrong_pods() {
    let cases: Vec<Wrong<v1::PodSandboxConfig>> = vec![
        (|c| c.metadata = None, "config.metadata: missing"),
        (
            |c| c.metadata.as_mut().unwrap().name.clear(),
            "config.metadata.name: missing",
        ),
        (
            |c| c.metadata.as_mut().unwrap().uid.clear(),
            "config.metadata.uid: missing",
        ),
        (
            |c| c.metadata.as_mut().unwrap().namespace.clear(),
            "config.metadata.namespace: missing",
        ),
        (
            |c| c.metadata.as_mut().unwrap().name = "a\nb".into(),
            "config.metadata.name: \"a\\nb\"",
        ),
        (|c| c.hostname = "a b".into(), "config.hostname: \"a b\""),
        (|c| c.hostname = "h".repeat(65), "config.hostname: \"hhhh"),
        (
            |c| c.log_directory = "logs".into(),
            "config.log_directory: \"logs\": use an absolute",
        ),
        (
            |c| c.log_directory = "/a/../b".into(),
            "config.log_directory: \"/a/../b\": remove",
        ),
        (
            |c| c.dns_config.as_mut().unwrap().servers[0] = "1.1.1.1\nnameserver 2.2.2.2".into(),
            "config.dns_config.servers[0]: ",
        ),
        (
            |c| c.port_mappings[0].container_port = 0,
            "config.port_mappings[0].container_port: 0",
        ),
        (
            |c| c.port_mappings[0].container_port = -1,
            "config.port_mappings[0].container_port: -1",
        ),
        (
            |c| c.port_mappings[0].host_port = 65536,
            "config.port_mappings[0].host_port: 65536",
        ),
        (
            |c| c.port_mappings[0].host_ip = "localhost".into(),
            "config.port_mappings[0].host_ip",
        ),
        (
            |c| c.port_mappings[0].protocol = 9,
            "config.port_mappings[0].protocol: 9",
        ),
        (
            |c| c.port_mappings[0].protocol = 2,
            "config.port_mappings[0].protocol: SCTP",
        ),
        (
            |c| c.windows = Some(Default::default()),
            "config.windows: set",
        ),
        (
            |c| c.linux.as_mut().unwrap().cgroup_parent = "/../x".into(),
            "config.linux.cgroup_parent: \"/../x\"",
        ),
        (
            |c| {
                drop(
                    c.linux
                        .as_mut()
                        .unwrap()
                        .sysctls
                        .insert("a..b".into(), String::new()),
                )
            },
            "config.linux.sysctls: key \"a..b\"",
        ),
        (
            |c| pod_security(c).run_as_user = Some(v1::Int64Value { value: -1 }),
            "config.linux.security_context.run_as_user: -1: use an id from 0 to 4294967294",
        ),
        (
            |c| {
                pod_security(c).run_as_user = None;
                pod_security(c).run_as_group = Some(v1::Int64Value { value: 1 });
            },
            "config.linux.security_context.run_as_group: set without a user",
        ),
        (
            |c| pod_security(c).supplemental_groups.push(1 << 32),
            "config.linux.security_context.supplemental_groups[1]: 4294967296",
        ),
        (
            |c| pod_security(c).selinux_options.as_mut().unwrap().level = "s0\nroot".into(),
            "config.linux.security_context.selinux_options.level: \"s0\\nroot\": name a part",
        ),
        (
            |c| pod_security(c).namespace_options.as_mut().unwrap().network = 1,
            "config.linux.security_context.namespace_options.network: Container",
        ),
        (
            |c| pod_security(c).namespace_options.as_mut().unwrap().pid = 3,
            "config.linux.security_context.namespace_options.pid: TARGET",
        ),
        (
            |c| {
                let options = pod_security(c).namespace_options.as_mut().unwrap();
                options.userns_options = Some(userns(v1::NamespaceMode::Pod, 11));
            },
            "config.linux.security_context.namespace_options.userns_options.uids[0].host_id: 4294967295",
        ),
        (
            |c| {
                let options = pod_security(c).namespace_options.as_mut().unwrap();
                options.userns_options = Some(userns(v1::NamespaceMode::Node, 1));
            },
            "config.linux.security_context.namespace_options.userns_options: mode NODE with",
        ),
        (
            |c| {
                let options = pod_security(c).namespace_options.as_mut().unwrap();
                options.userns_options = Some(v1::UserNamespace::default());
            },
            "config.linux.security_context.namespace_options.userns_options.uids: missing",
        ),
        (
            |c| {
                let mut two = userns(v1::NamespaceMode::Pod, 1);
                two.gids.push(two.gids[0]);
                pod_security(c)
                    .namespace_options
                    .as_mut()
                    .unwrap()
                    .userns_options = Some(two);
            },
            "config.linux.security_context.namespace_options.userns_options.gids: 2 mappings",
        ),
        (
            |c| {
                let mut rootless = userns(v1::NamespaceMode::Pod, 1);
                rootless.uids[0].container_id = 1;
                pod_security(c)
                    .namespace_options
                    .as_mut()
                    .unwrap()
                    .userns_options = Some(rootless);
            },
            "config.linux.security_context.namespace_options.userns_options.uids[0].container_id: 1",
        ),
        (
            |c| {
                pod_security(c).apparmor = Some(v1::SecurityProfile {
                    profile_type: 2,
                    localhost_ref: "p\u{7f}".into(),
                });
            },
            "config.linux.security_context.apparmor.localhost_ref: \"p\\u{7f}\"",
        ),
    ];
    for (change, expected) in cases {
        let error = decode_pod(change).expect_err(expected).to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

fn resources_of(config: &mut v1::ContainerConfig) -> &mut v1::LinuxContainerResources {
    config.linux.as_mut().unwrap().resources.as_mut().unwrap()
}

fn security_of(config: &mut v1::ContainerConfig) -> &mut v1::LinuxContainerSecurityContext {
    config
        .linux
        .as_mut()
        .unwrap()
        .security_context
        .as_mut()
        .unwrap()
}

#[test]
fn wrong_containers() {
    let cases: Vec<Wrong<v1::ContainerConfig>> = vec![
        (|c| c.metadata = None, "config.metadata: missing"),
        (
            |c| c.metadata.as_mut().unwrap().name.clear(),
            "config.metadata.name: missing",
        ),
        (|c| c.image = None, "config.image: missing"),
        (
            |c| c.image.as_mut().unwrap().image.clear(),
            "config.image.image: missing",
        ),
        (|c| c.args[0] = "a\0b".into(), "config.args[0]: \"a\\0b\""),
        (
            |c| c.working_dir = "here".into(),
            "config.working_dir: \"here\"",
        ),
        (|c| c.envs[0].key.clear(), "config.envs[0].key: \"\""),
        (
            |c| c.envs[0].key = "A=B".into(),
            "config.envs[0].key: \"A=B\"",
        ),
        (
            |c| c.envs[0].value = vec![b'a', 0xff],
            "config.envs[0].value: variable \"A\", not UTF-8 at byte 1",
        ),
        (
            |c| c.envs[0].value = vec![0],
            "config.envs[0].value: \"\\0\"",
        ),
        (
            |c| c.mounts[0].container_path = "/".into(),
            "config.mounts[0].container_path: \"/\"",
        ),
        (
            |c| c.mounts[0].container_path = "a/../..".into(),
            "config.mounts[0].container_path",
        ),
        (
            |c| c.mounts[0].host_path.clear(),
            "config.mounts[0].host_path: missing",
        ),
        (
            |c| c.mounts[0].host_path = "srv".into(),
            "config.mounts[0].host_path: \"srv\"",
        ),
        (
            |c| c.mounts[0].host_path = "/a\0".into(),
            "config.mounts[0].host_path: \"/a\\0\"",
        ),
        (
            |c| c.mounts[0].host_path = "/a".repeat(2048),
            "config.mounts[0].host_path: 4096 bytes",
        ),
        (
            |c| c.mounts[0].propagation = 3,
            "config.mounts[0].propagation: 3",
        ),
        (
            |c| c.mounts[0].image = Some(Default::default()),
            "config.mounts[0].image.image: missing",
        ),
        (
            |c| c.mounts[0].image_sub_path = "a".into(),
            "config.mounts[0].image_sub_path: \"a\"",
        ),
        (
            |c| c.mounts[0].mount_options = vec!["noexec".into(), "exec".into()],
            "config.mounts[0].mount_options[1]: \"exec\"",
        ),
        (
            |c| {
                c.mounts[0].readonly = false;
                c.mounts[0].recursive_read_only = true;
            },
            "config.mounts[0].recursive_read_only: true: CRI allows it only where readonly",
        ),
        (
            |c| {
                c.mounts[0].propagation = 1;
                c.mounts[0].recursive_read_only = true;
            },
            "config.mounts[0].recursive_read_only: true: CRI allows it only with PROPAGATION_PRIVATE",
        ),
        (
            |c| {
                c.mounts[0].uid_mappings = vec![v1::IdMapping {
                    length: 1,
                    ..Default::default()
                }]
            },
            "config.mounts[0].gidMappings: missing",
        ),
        (
            |c| c.devices[0].permissions = "rr".into(),
            "config.devices[0].permissions: \"rr\"",
        ),
        (
            |c| c.devices[0].permissions = "x".into(),
            "config.devices[0].permissions: \"x\"",
        ),
        (
            |c| c.devices[0].host_path.clear(),
            "config.devices[0].host_path: missing",
        ),
        (
            |c| c.log_path = "../../etc/cron.d/x".into(),
            "config.log_path: \"../../etc/cron.d/x\"",
        ),
        (
            |c| c.cdi_devices = vec![v1::CdiDevice { name: "".into() }],
            "config.CDI_devices[0].name: missing",
        ),
        (|c| c.stop_signal = 66, "config.stop_signal: 66"),
        (
            |c| c.windows = Some(Default::default()),
            "config.windows: set",
        ),
        (
            |c| resources_of(c).cpu_period = 999,
            "config.linux.resources.cpu_period: 999",
        ),
        (
            |c| resources_of(c).cpu_shares = -1,
            "config.linux.resources.cpu_shares: -1",
        ),
        (
            |c| resources_of(c).cpu_shares = 262_145,
            "config.linux.resources.cpu_shares: 262145",
        ),
        (
            |c| resources_of(c).cpu_quota = 1,
            "config.linux.resources.cpu_quota: 1",
        ),
        (
            |c| resources_of(c).cpu_quota = -2,
            "config.linux.resources.cpu_quota: -2: use a limit, -1",
        ),
        (
            |c| resources_of(c).memory_limit_in_bytes = -5,
            "config.linux.resources.memory_limit_in_bytes: -5: use a limit, -1",
        ),
        (
            |c| resources_of(c).memory_swap_limit_in_bytes = i64::MIN,
            "config.linux.resources.memory_swap_limit_in_bytes: -9223372036854775808: use a limit, -1",
        ),
        (
            |c| resources_of(c).oom_score_adj = 1001,
            "config.linux.resources.oom_score_adj: 1001",
        ),
        (
            |c| resources_of(c).oom_score_adj = i64::MIN,
            "config.linux.resources.oom_score_adj",
        ),
        (
            |c| resources_of(c).cpuset_cpus = "3-1".into(),
            "config.linux.resources.cpuset_cpus: \"3-1\"",
        ),
        (
            |c| resources_of(c).cpuset_mems = "0,".into(),
            "config.linux.resources.cpuset_mems: \"0,\"",
        ),
        (
            |c| resources_of(c).memory_swap_limit_in_bytes = 1,
            "config.linux.resources.memory_swap_limit_in_bytes: 1: it counts",
        ),
        (
            |c| resources_of(c).hugepage_limits[0].page_size = "big".into(),
            "config.linux.resources.hugepage_limits[0].page_size: \"big\"",
        ),
        (
            |c| {
                drop(
                    resources_of(c)
                        .unified
                        .insert("../x.y".into(), String::new()),
                )
            },
            "config.linux.resources.unified: key \"../x.y\"",
        ),
        (
            |c| security_of(c).run_as_username = "web".into(),
            "config.linux.security_context.run_as_username: \"web\": set run_as_user or",
        ),
        (
            |c| security_of(c).run_as_user = None,
            "config.linux.security_context.run_as_group: set without a user",
        ),
        (
            |c| security_of(c).masked_paths.push("proc".into()),
            "config.linux.security_context.masked_paths[1]: \"proc\"",
        ),
        (
            |c| security_of(c).namespace_options.as_mut().unwrap().pid = 3,
            "config.linux.security_context.namespace_options.target_id: missing",
        ),
        (
            |c| security_of(c).namespace_options.as_mut().unwrap().target_id = "c0".into(),
            "config.linux.security_context.namespace_options.target_id: \"c0\"",
        ),
        (
            |c| security_of(c).seccomp.as_mut().unwrap().profile_type = 2,
            "config.linux.security_context.seccomp.localhost_ref: missing",
        ),
        (
            |c| security_of(c).seccomp.as_mut().unwrap().localhost_ref = "a.json".into(),
            "config.linux.security_context.seccomp.localhost_ref: \"a.json\"",
        ),
        (
            |c| {
                let profile = security_of(c).seccomp.as_mut().unwrap();
                profile.profile_type = 2;
                profile.localhost_ref = "../a.json".into();
            },
            "config.linux.security_context.seccomp.localhost_ref: \"../a.json\"",
        ),
        (
            |c| security_of(c).supplemental_groups_policy = 2,
            "config.linux.security_context.supplemental_groups_policy: 2",
        ),
    ];
    for (change, expected) in cases {
        let error = decode_container(change).expect_err(expected).to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}
