//! From the domain's types back to protobuf: the parts of statuses and lists that repeat what was asked.

use std::collections::BTreeMap;

use cri::v1;

use crate::{
    container::config::{ContainerMetadata, ImageSpec, Mount},
    pod::config::{IdMapping, LinuxResources, NamespaceOptions, PodMetadata},
    spec::{Signal, User},
};

pub(crate) fn pod_metadata(metadata: &PodMetadata) -> v1::PodSandboxMetadata {
    v1::PodSandboxMetadata {
        name: metadata.name.clone(),
        uid: metadata.uid.clone(),
        namespace: metadata.namespace.clone(),
        attempt: metadata.attempt,
    }
}

pub(crate) fn container_metadata(metadata: &ContainerMetadata) -> v1::ContainerMetadata {
    v1::ContainerMetadata {
        name: metadata.name.clone(),
        attempt: metadata.attempt,
    }
}

pub(crate) fn image_spec(spec: &ImageSpec) -> v1::ImageSpec {
    v1::ImageSpec {
        image: spec.image.clone(),
        annotations: spec.annotations.clone(),
        user_specified_image: spec.user_specified_image.clone(),
        runtime_handler: spec.runtime_handler.clone(),
        image_ref: spec.image_ref.clone(),
    }
}

/// `LinuxPodSandboxStatus`.
pub(crate) fn pod_linux_status(options: &NamespaceOptions) -> v1::LinuxPodSandboxStatus {
    v1::LinuxPodSandboxStatus {
        namespaces: Some(v1::Namespace {
            options: Some(namespace_options(options)),
        }),
    }
}

pub(crate) fn namespace_options(options: &NamespaceOptions) -> v1::NamespaceOption {
    v1::NamespaceOption {
        network: options.network.into(),
        pid: options.pid.into(),
        ipc: options.ipc.into(),
        target_id: options.target_id.clone(),
        userns_options: options
            .userns_options
            .as_ref()
            .map(|userns| v1::UserNamespace {
                mode: userns.mode.into(),
                uids: id_mappings(&userns.uids),
                gids: id_mappings(&userns.gids),
            }),
    }
}

fn id_mappings(mappings: &[IdMapping]) -> Vec<v1::IdMapping> {
    let encoded = mappings.iter().map(|mapping| v1::IdMapping {
        host_id: mapping.host_id,
        container_id: mapping.container_id,
        length: mapping.length,
    });
    encoded.collect()
}

/// `images` are the ids of those that are mounted, by position.
pub(crate) fn mounts(mounts: &[Mount], images: &BTreeMap<usize, String>) -> Vec<v1::Mount> {
    let encoded = mounts.iter().enumerate().map(|(index, mount)| v1::Mount {
        container_path: mount.container_path.clone(),
        host_path: mount.host_path.clone(),
        readonly: mount.readonly,
        selinux_relabel: mount.selinux_relabel,
        propagation: mount.propagation.into(),
        uid_mappings: id_mappings(&mount.uid_mappings),
        gid_mappings: id_mappings(&mount.gid_mappings),
        recursive_read_only: mount.recursive_read_only,
        image: mount.image.as_ref().map(|image| v1::ImageSpec {
            // What a pull of it would answer.
            image_ref: images.get(&index).cloned().unwrap_or_default(),
            ..image_spec(image)
        }),
        image_sub_path: mount.image_sub_path.clone(),
        mount_options: mount.mount_options.clone(),
    });
    encoded.collect()
}

pub(crate) fn resources(resources: &LinuxResources) -> v1::ContainerResources {
    v1::ContainerResources {
        linux: Some(linux_resources(resources)),
        windows: None,
    }
}

pub(crate) fn linux_resources(resources: &LinuxResources) -> v1::LinuxContainerResources {
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let hugepages = resources.hugepage_limits.iter();
    v1::LinuxContainerResources {
        cpu_period: signed(resources.cpu_period),
        cpu_quota: resources.cpu_quota,
        cpu_shares: signed(resources.cpu_shares),
        memory_limit_in_bytes: resources.memory_limit_in_bytes,
        oom_score_adj: i64::from(resources.oom_score_adj),
        cpuset_cpus: resources.cpuset_cpus.clone(),
        cpuset_mems: resources.cpuset_mems.clone(),
        hugepage_limits: hugepages
            .map(|limit| v1::HugepageLimit {
                page_size: limit.page_size.clone(),
                limit: limit.limit,
            })
            .collect(),
        unified: resources.unified.clone(),
        memory_swap_limit_in_bytes: resources.memory_swap_limit_in_bytes,
    }
}

/// Who the container's init runs as, resolved.
pub(crate) fn user(user: &User) -> v1::ContainerUser {
    v1::ContainerUser {
        linux: Some(v1::LinuxContainerUser {
            uid: i64::from(user.uid),
            gid: i64::from(user.gid),
            supplemental_groups: user.groups.iter().copied().map(i64::from).collect(),
        }),
    }
}

/// CRI's number of the signal that a stop sends.
pub(crate) fn stop_signal(signal: Signal) -> i32 {
    signal.cri_number()
}
