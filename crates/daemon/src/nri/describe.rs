//! Pods and containers as plugins see them.

use std::collections::BTreeMap;

use nri::api;
use oci_spec::runtime::{
    Hook, LinuxDeviceCgroup, LinuxDeviceType, LinuxNamespaceType, LinuxResources, LinuxSeccomp,
    Spec,
};

use crate::{
    container::{Container, Phase},
    hooks::{self, Stage},
    pod::{Pod, config as pod_config, config::ProfileType},
    runtime::Runtime,
};

pub(super) fn pod(runtime: &Runtime, pod: &Pod) -> api::PodSandbox {
    let metadata = &pod.config.metadata;
    let resources = pod.resources();
    let own = pod.config.namespaces();
    let netns = own.net.then(|| api::LinuxNamespace {
        r#type: "network".to_owned(),
        path: runtime.netns_path(&pod.id).display().to_string(),
    });
    api::PodSandbox {
        id: pod.id.to_string(),
        name: metadata.name.clone(),
        uid: metadata.uid.clone(),
        namespace: metadata.namespace.clone(),
        labels: pod.config.labels.clone(),
        annotations: pod.config.annotations.clone(),
        runtime_handler: pod.handler.clone(),
        linux: Some(api::LinuxPodSandbox {
            pod_overhead: resources.overhead.as_ref().map(asked),
            pod_resources: resources.resources.as_ref().map(asked),
            cgroup_parent: pod.cgroup_parent.clone(),
            cgroups_path: pod.cgroup(),
            namespaces: netns.into_iter().collect(),
            resources: None,
        }),
        pid: 0,
        ips: pod.ips().iter().map(ToString::to_string).collect(),
    }
}

/// What a request asks of a cgroup.
pub(super) fn asked(asked: &pod_config::LinuxResources) -> api::LinuxResources {
    let given = |value: i64| (value != 0).then_some(api::OptionalInt64 { value });
    let given_u64 = |value: u64| (value != 0).then_some(api::OptionalUInt64 { value });
    let limits = asked.hugepage_limits.iter();
    api::LinuxResources {
        memory: Some(api::LinuxMemory {
            limit: given(asked.memory_limit_in_bytes),
            swap: given(asked.memory_swap_limit_in_bytes),
            ..Default::default()
        }),
        cpu: Some(api::LinuxCpu {
            shares: given_u64(asked.cpu_shares),
            quota: given(asked.cpu_quota),
            period: given_u64(asked.cpu_period),
            cpus: asked.cpuset_cpus.clone(),
            mems: asked.cpuset_mems.clone(),
            ..Default::default()
        }),
        hugepage_limits: limits
            .map(|limit| api::HugepageLimit {
                page_size: limit.page_size.clone(),
                limit: limit.limit,
            })
            .collect(),
        unified: asked.unified.clone(),
        ..Default::default()
    }
}

/// A container, with the specification that it has or will have.
pub(super) fn container(container: &Container, spec: &Spec) -> api::Container {
    let config = &container.config;
    let process = spec.process().as_ref();
    let linux = spec.linux().as_ref();
    let mounts = spec.mounts().iter().flatten();
    let (_, digest) = container.image_ref.split_once('@').unwrap_or_default();
    let image = &config.image;
    let name = match image.user_specified_image.as_str() {
        "" => &image.image,
        name => name,
    };
    let user = process.map(|process| process.user());
    let cdi = crate::cdi::requested(config).into_iter();
    let mut described = api::Container {
        id: container.id.to_string(),
        pod_sandbox_id: container.pod.id.to_string(),
        name: config.metadata.name.clone(),
        labels: config.labels.clone(),
        annotations: annotations(&config.annotations, spec),
        args: process
            .and_then(|one| one.args().clone())
            .unwrap_or_default(),
        env: process
            .and_then(|one| one.env().clone())
            .unwrap_or_default(),
        mounts: mounts
            .map(|mount| api::Mount {
                destination: mount.destination().display().to_string(),
                r#type: mount.typ().clone().unwrap_or_default(),
                source: mount
                    .source()
                    .as_ref()
                    .map_or_else(String::new, |path| path.display().to_string()),
                options: mount.options().clone().unwrap_or_default(),
            })
            .collect(),
        hooks: hooks(spec),
        linux: Some(api::LinuxContainer {
            namespaces: linux
                .and_then(|linux| linux.namespaces().as_ref())
                .into_iter()
                .flatten()
                .map(|namespace| api::LinuxNamespace {
                    r#type: namespace_name(namespace.typ()).to_owned(),
                    path: namespace
                        .path()
                        .as_ref()
                        .map_or_else(String::new, |path| path.display().to_string()),
                })
                .collect(),
            devices: linux
                .and_then(|linux| linux.devices().as_ref())
                .into_iter()
                .flatten()
                .map(|device| api::LinuxDevice {
                    path: device.path().display().to_string(),
                    r#type: device_type(device.typ()).to_owned(),
                    major: device.major(),
                    minor: device.minor(),
                    file_mode: device
                        .file_mode()
                        .map(|value| api::OptionalFileMode { value }),
                    uid: device.uid().map(|value| api::OptionalUInt32 { value }),
                    gid: device.gid().map(|value| api::OptionalUInt32 { value }),
                })
                .collect(),
            resources: linux
                .and_then(|linux| linux.resources().as_ref())
                .map(resources),
            oom_score_adj: process
                .and_then(|process| process.oom_score_adj())
                .map(|value| api::OptionalInt {
                    value: value.into(),
                }),
            cgroups_path: linux
                .and_then(|linux| linux.cgroups_path().as_ref())
                .map_or_else(String::new, |path| path.display().to_string()),
            seccomp_profile: profile(config.linux.security_context.seccomp.as_ref()),
            seccomp_policy: linux
                .and_then(|linux| linux.seccomp().as_ref())
                .map(seccomp),
            sysctl: linux
                .and_then(|linux| linux.sysctl().clone())
                .unwrap_or_default()
                .into_iter()
                .collect(),
            ..Default::default()
        }),
        rlimits: process
            .and_then(|process| process.rlimits().as_ref())
            .into_iter()
            .flatten()
            .map(|limit| api::PosixRlimit {
                r#type: limit.typ().to_string(),
                hard: limit.hard(),
                soft: limit.soft(),
            })
            .collect(),
        created_at: container.created_at_ns,
        cdi_devices: cdi
            .map(|device| api::CdiDevice { name: device.name })
            .collect(),
        user: user.map(|user| api::User {
            uid: user.uid(),
            gid: user.gid(),
            additional_gids: user.additional_gids().clone().unwrap_or_default(),
        }),
        image: Some(api::Image {
            name: name.to_owned(),
            digest: digest.to_owned(),
            config_digest: container.image_id.clone(),
        }),
        ..Default::default()
    };
    state(&mut described, &container.phase());
    described
}

fn state(described: &mut api::Container, phase: &Phase) {
    use api::ContainerState as State;
    let number = |pid: i32| u32::try_from(pid).unwrap_or_default();
    let state = match phase {
        Phase::Creating => State::ContainerUnknown,
        Phase::Created { pid } => {
            described.pid = number(*pid);
            State::ContainerCreated
        }
        Phase::Running { pid, started_at_ns } => {
            described.pid = number(*pid);
            described.started_at = *started_at_ns;
            State::ContainerRunning
        }
        Phase::Exited(exit) => {
            described.started_at = exit.started_at_ns;
            described.finished_at = exit.finished_at_ns;
            described.exit_code = exit.code;
            described.status_reason = exit.reason.as_str().to_owned();
            described.status_message.clone_from(&exit.message);
            State::ContainerStopped
        }
        Phase::Removed => State::ContainerStopped,
    };
    described.set_state(state);
}

/// The request's, and what plugins have made of them.
fn annotations(asked: &BTreeMap<String, String>, spec: &Spec) -> BTreeMap<String, String> {
    let mut all = asked.clone();
    let made = spec.annotations().iter().flatten();
    all.extend(made.map(|(key, value)| (key.clone(), value.clone())));
    all
}

fn hooks(spec: &Spec) -> Option<api::Hooks> {
    spec.hooks().as_ref()?;
    let list = |stage| hooks::of(spec, stage).iter().map(hook).collect();
    Some(api::Hooks {
        prestart: list(Stage::Prestart),
        create_runtime: list(Stage::CreateRuntime),
        create_container: list(Stage::CreateContainer),
        start_container: list(Stage::StartContainer),
        poststart: list(Stage::Poststart),
        poststop: list(Stage::Poststop),
    })
}

fn hook(hook: &Hook) -> api::Hook {
    api::Hook {
        path: hook.path().display().to_string(),
        args: hook.args().clone().unwrap_or_default(),
        env: hook.env().clone().unwrap_or_default(),
        timeout: hook.timeout().map(|value| api::OptionalInt { value }),
    }
}

fn resources(given: &LinuxResources) -> api::LinuxResources {
    let int = |value: Option<i64>| value.map(|value| api::OptionalInt64 { value });
    let uint = |value: Option<u64>| value.map(|value| api::OptionalUInt64 { value });
    let memory = given.memory().as_ref();
    let cpu = given.cpu().as_ref();
    let pids = given.pids().as_ref();
    let limits = given.hugepage_limits().iter().flatten();
    api::LinuxResources {
        memory: memory.map(|memory| api::LinuxMemory {
            limit: int(memory.limit()),
            reservation: int(memory.reservation()),
            swap: int(memory.swap()),
            ..Default::default()
        }),
        cpu: cpu.map(|cpu| api::LinuxCpu {
            shares: uint(cpu.shares()),
            quota: int(cpu.quota()),
            period: uint(cpu.period()),
            cpus: cpu.cpus().clone().unwrap_or_default(),
            mems: cpu.mems().clone().unwrap_or_default(),
            ..Default::default()
        }),
        hugepage_limits: limits
            .map(|limit| api::HugepageLimit {
                page_size: limit.page_size().clone(),
                limit: u64::try_from(limit.limit()).unwrap_or_default(),
            })
            .collect(),
        unified: given
            .unified()
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect(),
        devices: given.devices().iter().flatten().map(rule).collect(),
        pids: pids.map(|pids| api::LinuxPids {
            limit: pids.limit(),
        }),
        ..Default::default()
    }
}

fn rule(rule: &LinuxDeviceCgroup) -> api::LinuxDeviceCgroup {
    let int = |value: Option<i64>| value.map(|value| api::OptionalInt64 { value });
    api::LinuxDeviceCgroup {
        allow: rule.allow(),
        r#type: rule.typ().map_or("a", device_type).to_owned(),
        major: int(rule.major()),
        minor: int(rule.minor()),
        access: rule.access().clone().unwrap_or_default(),
    }
}

pub(super) fn device_type(kind: LinuxDeviceType) -> &'static str {
    match kind {
        LinuxDeviceType::B => "b",
        LinuxDeviceType::C => "c",
        LinuxDeviceType::U => "u",
        LinuxDeviceType::P => "p",
        LinuxDeviceType::A => "a",
    }
}

pub(super) fn namespace_name(kind: LinuxNamespaceType) -> &'static str {
    match kind {
        LinuxNamespaceType::Mount => "mount",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Network => "network",
        LinuxNamespaceType::Time => "time",
    }
}

fn profile(asked: Option<&pod_config::SecurityProfile>) -> Option<api::SecurityProfile> {
    use api::security_profile::ProfileType as Kind;
    let asked = asked?;
    let mut profile = api::SecurityProfile {
        localhost_ref: asked.localhost_ref.clone(),
        ..Default::default()
    };
    profile.set_profile_type(match asked.profile_type {
        ProfileType::RuntimeDefault => Kind::RuntimeDefault,
        ProfileType::Unconfined => Kind::Unconfined,
        ProfileType::Localhost => Kind::Localhost,
    });
    Some(profile)
}

/// By way of JSON, whose names both have.
fn seccomp(policy: &LinuxSeccomp) -> api::LinuxSeccomp {
    let json = serde_json::to_value(policy).unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let texts =
        |value: &serde_json::Value| value.as_array().into_iter().flatten().map(text).collect();
    let number = |value: &serde_json::Value| {
        let number = value.as_u64().and_then(|value| u32::try_from(value).ok());
        number.map(|value| api::OptionalUInt32 { value })
    };
    let syscalls = json["syscalls"].as_array().into_iter().flatten();
    api::LinuxSeccomp {
        default_action: text(&json["defaultAction"]),
        default_errno: number(&json["defaultErrnoRet"]),
        architectures: texts(&json["architectures"]),
        flags: texts(&json["flags"]),
        listener_path: text(&json["listenerPath"]),
        listener_metadata: text(&json["listenerMetadata"]),
        syscalls: syscalls
            .map(|call| api::LinuxSyscall {
                names: texts(&call["names"]),
                action: text(&call["action"]),
                errno_ret: number(&call["errnoRet"]),
                args: call["args"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|arg| api::LinuxSeccompArg {
                        index: arg["index"]
                            .as_u64()
                            .and_then(|n| u32::try_from(n).ok())
                            .unwrap_or_default(),
                        value: arg["value"].as_u64().unwrap_or_default(),
                        value_two: arg["valueTwo"].as_u64().unwrap_or_default(),
                        op: text(&arg["op"]),
                    })
                    .collect(),
            })
            .collect(),
    }
}
