//! Namespaces, users, capabilities and profiles of a Pod, in CRI's terms.

use cri::v1;

use super::fields::{Container, SeccompKind, SeccompProfile, SecurityContext, Spec};

/// What Kubernetes hides of `/proc` and `/sys` unless told otherwise.
const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The pod's security context applies where the container has none of its own.
pub(super) fn context(
    spec: &Spec,
    container: &Container,
    path: &str,
) -> Result<v1::LinuxContainerSecurityContext, String> {
    let pod = spec.security_context.as_ref();
    let own = container.security_context.as_ref();
    let user = own
        .and_then(|c| c.run_as_user)
        .or(pod.and_then(|c| c.run_as_user));
    let group = own
        .and_then(|c| c.run_as_group)
        .or(pod.and_then(|c| c.run_as_group));
    let non_root = own
        .and_then(|c| c.run_as_non_root)
        .or(pod.and_then(|c| c.run_as_non_root));
    // The image's user is not known here, and must not be trusted to be another.
    if non_root == Some(true) && user.unwrap_or(0) == 0 {
        return Err(format!(
            "{path}.securityContext.runAsNonRoot: needs a runAsUser other than 0"
        ));
    }
    for (field, id) in [("runAsUser", user), ("runAsGroup", group)] {
        if id.is_some_and(|id| !(0..=i64::from(u32::MAX) - 1).contains(&id)) {
            return Err(format!("{path}.securityContext.{field}: out of range"));
        }
    }
    if group.is_some() && user.is_none() {
        // CRI, run_as_group: "should only be specified when run_as_user is".
        return Err(format!(
            "{path}.securityContext.runAsGroup: needs runAsUser"
        ));
    }
    let profile = own
        .and_then(|c| c.seccomp_profile.as_ref())
        .or(pod.and_then(|c| c.seccomp_profile.as_ref()));
    if profile.is_some_and(|p| p.kind == SeccompKind::Localhost && p.localhost_profile.is_none()) {
        return Err(format!(
            "{path}.securityContext.seccompProfile: Localhost needs localhostProfile"
        ));
    }
    let privileged = own.is_some_and(|c| c.privileged);
    if privileged && own.and_then(|c| c.allow_privilege_escalation) == Some(false) {
        return Err(format!(
            "{path}.securityContext.allowPrivilegeEscalation: cannot be false for a privileged container"
        ));
    }
    let paths = |paths: &[&str]| match privileged {
        true => Vec::new(),
        false => paths.iter().map(|&path| path.to_owned()).collect(),
    };
    Ok(v1::LinuxContainerSecurityContext {
        capabilities: own.and_then(capabilities),
        privileged,
        namespace_options: Some(namespaces(spec)),
        run_as_user: user.map(int64),
        run_as_group: group.map(int64),
        readonly_rootfs: own.is_some_and(|c| c.read_only_root_filesystem),
        supplemental_groups: pod
            .map(|c| c.supplemental_groups.clone())
            .unwrap_or_default(),
        no_new_privs: own.and_then(|c| c.allow_privilege_escalation) == Some(false),
        masked_paths: paths(&MASKED_PATHS),
        readonly_paths: paths(&READONLY_PATHS),
        seccomp: profile.map(seccomp),
        ..v1::LinuxContainerSecurityContext::default()
    })
}

fn capabilities(context: &SecurityContext) -> Option<v1::Capability> {
    let capabilities = &context.capabilities;
    (!capabilities.add.is_empty() || !capabilities.drop.is_empty()).then(|| v1::Capability {
        add_capabilities: capabilities.add.clone(),
        drop_capabilities: capabilities.drop.clone(),
        add_ambient_capabilities: Vec::new(),
    })
}

pub(super) fn seccomp(profile: &SeccompProfile) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType;

    let kind = match profile.kind {
        SeccompKind::RuntimeDefault => ProfileType::RuntimeDefault,
        SeccompKind::Unconfined => ProfileType::Unconfined,
        SeccompKind::Localhost => ProfileType::Localhost,
    };
    v1::SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: profile.localhost_profile.clone().unwrap_or_default(),
    }
}

pub(super) fn int64(value: i64) -> v1::Int64Value {
    v1::Int64Value { value }
}

pub(super) fn namespaces(spec: &Spec) -> v1::NamespaceOption {
    let or_node =
        |host: bool, other: v1::NamespaceMode| if host { v1::NamespaceMode::Node } else { other };
    let pid = match spec.share_process_namespace {
        true => v1::NamespaceMode::Pod,
        false => v1::NamespaceMode::Container,
    };
    v1::NamespaceOption {
        network: or_node(spec.host_network, v1::NamespaceMode::Pod).into(),
        pid: or_node(spec.host_pid, pid).into(),
        ipc: or_node(spec.host_ipc, v1::NamespaceMode::Pod).into(),
        target_id: String::new(),
        userns_options: None,
    }
}
