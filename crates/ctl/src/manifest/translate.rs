//! From a Pod to CRI's configurations, as a kubelet would send them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use cri::v1;
use serde::Deserialize;

use super::expand::expand;
use super::fields::{Container, HostPathKind, MountPropagation, Pod, Port, Protocol, Spec};
use super::{resources, security};
use crate::select::{CONTAINER_NAME_LABEL, POD_NAME_LABEL, POD_NAMESPACE_LABEL, POD_UID_LABEL};

/// On pods that `run` has made: the log directory, which removing the pod removes, as a kubelet would.
pub(crate) const LOG_DIRECTORY_ANNOTATION: &str = "longshore/log-directory";

/// Everything that running one pod takes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PodPlan {
    pub(crate) config: v1::PodSandboxConfig,
    pub(crate) handler: String,
    /// In the order in which they start.
    pub(crate) containers: Vec<PlannedContainer>,
    /// What must be, or is made, on the host.
    pub(crate) host_paths: Vec<(PathBuf, HostPathKind)>,
    /// What a person should know: fields that change nothing here.
    pub(crate) notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PlannedContainer {
    pub(crate) config: v1::ContainerConfig,
    pub(crate) pull: PullPolicy,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum PullPolicy {
    Always,
    #[default]
    IfNotPresent,
    Never,
}

/// Translates; `images` maps names in the manifest to what to use instead, `uid` stands in for a missing `metadata.uid`. Errors
/// name the field.
pub(crate) fn plan(
    pod: &Pod,
    uid: &str,
    log_root: &Path,
    images: &BTreeMap<String, String>,
) -> Result<PodPlan, String> {
    let Pod { metadata, spec, .. } = pod;
    let uid = metadata.uid.as_deref().unwrap_or(uid);
    for (field, value) in [
        ("metadata.name", metadata.name.as_str()),
        ("metadata.namespace", &metadata.namespace),
        ("metadata.uid", uid),
    ] {
        check_name(field, value)?;
    }
    let pod_labels = BTreeMap::from([
        (POD_NAME_LABEL.to_owned(), metadata.name.clone()),
        (POD_NAMESPACE_LABEL.to_owned(), metadata.namespace.clone()),
        (POD_UID_LABEL.to_owned(), uid.to_owned()),
    ]);
    let directory = format!("{}_{}_{uid}", metadata.namespace, metadata.name);
    let log_directory = log_root.join(directory).display().to_string();
    let mut labels = metadata.labels.clone();
    labels.extend(pod_labels.clone());
    let mut annotations = metadata.annotations.clone();
    annotations.insert(LOG_DIRECTORY_ANNOTATION.to_owned(), log_directory.clone());
    let config = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: metadata.name.clone(),
            uid: uid.to_owned(),
            namespace: metadata.namespace.clone(),
            attempt: 0,
        }),
        hostname: hostname(pod),
        log_directory,
        dns_config: spec.dns_config.as_ref().map(dns),
        port_mappings: ports(spec)?,
        labels,
        annotations,
        linux: Some(sandbox_linux(spec)),
        windows: None,
    };

    if spec.containers.is_empty() {
        return Err("spec.containers: a pod has at least one".to_owned());
    }
    let mut names = BTreeSet::new();
    let mut containers = Vec::new();
    for (index, container) in spec.containers.iter().enumerate() {
        let path = format!("spec.containers[{index}]");
        check_name(&format!("{path}.name"), &container.name)?;
        if !names.insert(&container.name) {
            return Err(format!("{path}.name: {:?} is there twice", container.name));
        }
        containers.push(PlannedContainer {
            config: container_config(spec, container, &path, &pod_labels, images)?,
            pull: container.image_pull_policy.unwrap_or_default(),
        });
    }
    Ok(PodPlan {
        config,
        handler: spec.runtime_class_name.clone().unwrap_or_default(),
        containers,
        host_paths: host_paths(spec)?,
        notes: notes(spec),
    })
}

/// Names become parts of paths.
fn check_name(field: &str, name: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let fits = (1..=253).contains(&name.len())
        && name.bytes().all(allowed)
        && name.as_bytes()[0].is_ascii_alphanumeric();
    if fits {
        return Ok(());
    }
    Err(format!(
        "{field}: {name:?} is not a name (letters, digits, -, . and _)"
    ))
}

fn hostname(pod: &Pod) -> String {
    if pod.spec.host_network {
        // The host's own.
        return String::new();
    }
    let name = pod.spec.hostname.as_deref().unwrap_or(&pod.metadata.name);
    // The kernel has room for 64 bytes; Kubernetes cuts at 63 and leaves no dash or dot at the end.
    let cut = name.get(..63).unwrap_or(name);
    cut.trim_end_matches(['-', '.']).to_owned()
}

fn dns(config: &super::fields::DnsConfig) -> v1::DnsConfig {
    let option = |option: &super::fields::NameAndValue| match option.value.as_str() {
        "" => option.name.clone(),
        value => format!("{}:{value}", option.name),
    };
    v1::DnsConfig {
        servers: config.nameservers.clone(),
        searches: config.searches.clone(),
        options: config.options.iter().map(option).collect(),
    }
}

/// Only ports of the host concern the runtime; with the host's network they are its own already.
fn ports(spec: &Spec) -> Result<Vec<v1::PortMapping>, String> {
    let mut mappings = Vec::new();
    for (c, container) in spec.containers.iter().enumerate() {
        for (p, port) in container.ports.iter().enumerate() {
            let path = format!("spec.containers[{c}].ports[{p}]");
            if port.container_port == 0 {
                return Err(format!("{path}.containerPort: 0 is not a port"));
            }
            match port.host_port {
                None | Some(0) => {}
                Some(host) if spec.host_network && host != port.container_port => {
                    return Err(format!(
                        "{path}.hostPort: must equal containerPort with the host's network"
                    ));
                }
                Some(_) if spec.host_network => {}
                Some(host) => mappings.push(mapping(port, host)),
            }
        }
    }
    Ok(mappings)
}

fn mapping(port: &Port, host_port: u16) -> v1::PortMapping {
    let protocol = match port.protocol {
        Protocol::Tcp => v1::Protocol::Tcp,
        Protocol::Udp => v1::Protocol::Udp,
        Protocol::Sctp => v1::Protocol::Sctp,
    };
    v1::PortMapping {
        protocol: protocol.into(),
        container_port: port.container_port.into(),
        host_port: host_port.into(),
        host_ip: port.host_ip.clone(),
    }
}

fn sandbox_linux(spec: &Spec) -> v1::LinuxPodSandboxConfig {
    let context = spec.security_context.as_ref();
    let privileged = |container: &Container| {
        container
            .security_context
            .as_ref()
            .is_some_and(|context| context.privileged)
    };
    let sysctls = context
        .map(|context| context.sysctls.as_slice())
        .unwrap_or_default();
    v1::LinuxPodSandboxConfig {
        security_context: Some(v1::LinuxSandboxSecurityContext {
            namespace_options: Some(security::namespaces(spec)),
            run_as_user: context.and_then(|c| c.run_as_user).map(security::int64),
            run_as_group: context.and_then(|c| c.run_as_group).map(security::int64),
            supplemental_groups: context
                .map(|c| c.supplemental_groups.clone())
                .unwrap_or_default(),
            privileged: spec.containers.iter().any(privileged),
            seccomp: context
                .and_then(|c| c.seccomp_profile.as_ref())
                .map(security::seccomp),
            ..v1::LinuxSandboxSecurityContext::default()
        }),
        sysctls: sysctls
            .iter()
            .map(|s| (s.name.clone(), s.value.clone()))
            .collect(),
        ..v1::LinuxPodSandboxConfig::default()
    }
}

fn container_config(
    spec: &Spec,
    container: &Container,
    path: &str,
    pod_labels: &BTreeMap<String, String>,
    images: &BTreeMap<String, String>,
) -> Result<v1::ContainerConfig, String> {
    let mut variables = BTreeMap::new();
    let mut envs = Vec::new();
    for variable in &container.env {
        // Only variables that come before are seen.
        let value = expand(&variable.value, &variables);
        variables.insert(variable.name.clone(), value.clone());
        envs.push(v1::KeyValue {
            key: variable.name.clone(),
            value: value.into_bytes(),
        });
    }
    let words = |words: &[String]| words.iter().map(|word| expand(word, &variables)).collect();
    let image = image(&container.image, images);
    if image.is_empty() {
        return Err(format!("{path}.image: is empty"));
    }
    let mut labels = pod_labels.clone();
    labels.insert(CONTAINER_NAME_LABEL.to_owned(), container.name.clone());
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: container.name.clone(),
            attempt: 0,
        }),
        image: Some(v1::ImageSpec {
            image: image.clone(),
            user_specified_image: image,
            ..v1::ImageSpec::default()
        }),
        command: words(&container.command),
        args: words(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs,
        mounts: mounts(spec, container, path)?,
        labels,
        log_path: format!("{}/0.log", container.name),
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        tty: container.tty,
        linux: Some(v1::LinuxContainerConfig {
            resources: resources::linux(&container.resources, &format!("{path}.resources"))?,
            security_context: Some(security::context(spec, container, path)?),
        }),
        ..v1::ContainerConfig::default()
    })
}

/// What stands in for an image's name: for the whole name, or for it without its tag; Docker Hub's prefix may be left out.
fn image(name: &str, images: &BTreeMap<String, String>) -> String {
    let untagged = match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    };
    let short = |name: &'_ str| name.trim_start_matches("docker.io/library/").to_owned();
    let keys = [
        name.to_owned(),
        untagged.to_owned(),
        short(name),
        short(untagged),
    ];
    let replaced = keys.iter().find_map(|key| images.get(key));
    replaced.map_or(name, String::as_str).to_owned()
}

fn mounts(spec: &Spec, container: &Container, path: &str) -> Result<Vec<v1::Mount>, String> {
    let mut mounts = Vec::new();
    for (index, mount) in container.volume_mounts.iter().enumerate() {
        let path = format!("{path}.volumeMounts[{index}]");
        let volume = spec
            .volumes
            .iter()
            .find(|volume| volume.name == mount.name)
            .ok_or_else(|| format!("{path}.name: there is no volume {:?}", mount.name))?;
        if !mount.mount_path.starts_with('/') {
            return Err(format!(
                "{path}.mountPath: {:?} is not absolute",
                mount.mount_path
            ));
        }
        let mut host_path = PathBuf::from(&volume.host_path.path);
        if let Some(sub_path) = &mount.sub_path {
            let inside = Path::new(sub_path)
                .components()
                .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
            if !inside {
                return Err(format!("{path}.subPath: {sub_path:?} leaves the volume"));
            }
            host_path.push(sub_path);
        }
        let propagation = match mount.mount_propagation {
            MountPropagation::None => v1::MountPropagation::PropagationPrivate,
            MountPropagation::HostToContainer => v1::MountPropagation::PropagationHostToContainer,
            MountPropagation::Bidirectional => v1::MountPropagation::PropagationBidirectional,
        };
        mounts.push(v1::Mount {
            container_path: mount.mount_path.clone(),
            host_path: host_path.display().to_string(),
            readonly: mount.read_only,
            propagation: propagation.into(),
            ..v1::Mount::default()
        });
    }
    Ok(mounts)
}

fn host_paths(spec: &Spec) -> Result<Vec<(PathBuf, HostPathKind)>, String> {
    let mut names = BTreeSet::new();
    let mut paths = Vec::new();
    for (index, volume) in spec.volumes.iter().enumerate() {
        let path = PathBuf::from(&volume.host_path.path);
        if !names.insert(&volume.name) {
            return Err(format!(
                "spec.volumes[{index}].name: {:?} is there twice",
                volume.name
            ));
        }
        if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
            return Err(format!(
                "spec.volumes[{index}].hostPath.path: {:?} is not an absolute path without ..",
                volume.host_path.path
            ));
        }
        paths.push((path, volume.host_path.kind));
    }
    Ok(paths)
}

fn notes(spec: &Spec) -> Vec<String> {
    let mut notes = Vec::new();
    // Kubernetes restarts always by default; here nobody watches.
    if let Some(policy) = spec
        .restart_policy
        .as_deref()
        .filter(|&policy| policy != "Never")
    {
        notes.push(format!(
            "spec.restartPolicy {policy} is ignored: containers are not restarted"
        ));
    }
    if let Some(seconds) = spec.termination_grace_period_seconds {
        notes.push(format!(
            "spec.terminationGracePeriodSeconds is ignored: stop containers with stop -t {seconds}"
        ));
    }
    notes
}

#[cfg(test)]
mod tests;
