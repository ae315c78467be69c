//! What pods and containers have in common: namespaces, profiles and resources.

use std::collections::BTreeMap;

use cri::v1;

use super::field::{
    InvalidField, id, invalid, missing, no_climbing, not_implemented, number, text, unsigned,
};
use crate::pod::config::{
    HugepageLimit, IdMapping, LinuxResources, NamespaceMode, NamespaceOptions, ProfileType,
    SecurityProfile, SelinuxOptions, UserNamespace,
};

/// Whose namespace options these are: only a container has a target, and the network is the pod's to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Pod,
    Container,
}

pub(super) fn namespace_options(
    path: &str,
    options: Option<v1::NamespaceOption>,
    owner: Owner,
) -> Result<NamespaceOptions, InvalidField> {
    let Some(options) = options else {
        return Ok(NamespaceOptions::default());
    };
    let at = |field: &str| format!("{path}.{field}");
    let pod_or_node = |field: &str, value: i32| match number(&at(field), value)? {
        mode @ (NamespaceMode::Pod | NamespaceMode::Node) => Ok(mode),
        mode @ (NamespaceMode::Container | NamespaceMode::Target) => Err(invalid(
            &at(field),
            format_args!("{mode:?}"),
            "use POD or NODE",
        )),
    };
    let network = pod_or_node("network", options.network)?;
    let ipc = pod_or_node("ipc", options.ipc)?;
    let pid = number(&at("pid"), options.pid)?;
    match (pid, options.target_id.is_empty()) {
        (NamespaceMode::Target, _) if owner == Owner::Pod => {
            return Err(invalid(
                &at("pid"),
                "TARGET",
                "a pod has no container yet: use POD, CONTAINER or NODE",
            ));
        }
        (NamespaceMode::Target, true) => {
            return Err(missing(
                &at("target_id"),
                "name the container whose PID namespace to join",
            ));
        }
        (NamespaceMode::Pod | NamespaceMode::Container | NamespaceMode::Node, false) => {
            return Err(invalid(
                &at("target_id"),
                format_args!("{:?}", options.target_id),
                "it is only for pid mode TARGET",
            ));
        }
        (NamespaceMode::Target, false)
        | (NamespaceMode::Pod | NamespaceMode::Container | NamespaceMode::Node, true) => {}
    }
    Ok(NamespaceOptions {
        network,
        pid,
        ipc,
        target_id: text(&at("target_id"), options.target_id)?,
        userns_options: user_namespace(&at("userns_options"), options.userns_options, owner)?,
    })
}

/// `Node` without mappings is what no user namespace means, and reads as that of a pod. Of a container it may contradict the pod's.
fn user_namespace(
    path: &str,
    options: Option<v1::UserNamespace>,
    owner: Owner,
) -> Result<Option<UserNamespace>, InvalidField> {
    let Some(options) = options else {
        return Ok(None);
    };
    let mode_field = format!("{path}.mode");
    let uids = id_mappings(&format!("{path}.uids"), options.uids)?;
    let gids = id_mappings(&format!("{path}.gids"), options.gids)?;
    match number(&mode_field, options.mode)? {
        mode @ NamespaceMode::Node if uids.is_empty() && gids.is_empty() => Ok(match owner {
            Owner::Pod => None,
            Owner::Container => Some(UserNamespace { mode, uids, gids }),
        }),
        NamespaceMode::Node => Err(invalid(
            path,
            "mode NODE with mappings",
            "use mode POD, or no mappings",
        )),
        mode @ NamespaceMode::Pod => {
            pod_mappings(&format!("{path}.uids"), &uids)?;
            pod_mappings(&format!("{path}.gids"), &gids)?;
            Ok(Some(UserNamespace { mode, uids, gids }))
        }
        mode @ (NamespaceMode::Container | NamespaceMode::Target) => Err(invalid(
            &mode_field,
            format_args!("{mode:?}"),
            "use POD or NODE",
        )),
    }
}

/// One mapping is all that CRI's conformance tests let a runtime take. Root must be in it: files that we make for the pod are its root's,
/// and what enters the namespace becomes its root first.
fn pod_mappings(path: &str, mappings: &[IdMapping]) -> Result<(), InvalidField> {
    match mappings {
        [] => Err(missing(path, "mode POD needs a mapping")),
        [mapping] if mapping.container_id == 0 => Ok(()),
        [mapping] => Err(invalid(
            &format!("{path}[0].container_id"),
            mapping.container_id,
            "the mapping must begin at the pod's id 0",
        )),
        more => Err(invalid(
            path,
            format_args!("{} mappings", more.len()),
            "give exactly one",
        )),
    }
}

pub(super) fn id_mappings(
    path: &str,
    mappings: Vec<v1::IdMapping>,
) -> Result<Vec<IdMapping>, InvalidField> {
    let checked = mappings.into_iter().enumerate().map(|(index, mapping)| {
        let field = format!("{path}[{index}]");
        if mapping.length == 0 {
            return Err(invalid(
                &format!("{field}.length"),
                0,
                "a mapping covers at least one id",
            ));
        }
        let last = i64::from(mapping.length) - 1;
        id(
            &format!("{field}.host_id"),
            i64::from(mapping.host_id) + last,
        )?;
        id(
            &format!("{field}.container_id"),
            i64::from(mapping.container_id) + last,
        )?;
        Ok(IdMapping {
            host_id: mapping.host_id,
            container_id: mapping.container_id,
            length: mapping.length,
        })
    });
    checked.collect()
}

/// Which names a deprecated profile text may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deprecated<'a> {
    pub(super) field: &'a str,
    pub(super) value: &'a str,
}

/// The structured field, else the deprecated text: `runtime/default`, `docker/default`, `unconfined` or `localhost/…`.
pub(super) fn profile(
    field: &str,
    profile: Option<v1::SecurityProfile>,
    deprecated: Deprecated<'_>,
) -> Result<Option<SecurityProfile>, InvalidField> {
    if let Some(profile) = profile {
        let profile_type = number(&format!("{field}.profile_type"), profile.profile_type)?;
        let reference = format!("{field}.localhost_ref");
        return match (profile_type, profile.localhost_ref.is_empty()) {
            (ProfileType::Localhost, false) => localhost(&reference, &profile.localhost_ref),
            (ProfileType::Localhost, true) => Err(missing(
                &reference,
                "name the profile that profile_type Localhost asks for",
            )),
            (ProfileType::RuntimeDefault | ProfileType::Unconfined, true) => {
                Ok(Some(SecurityProfile {
                    profile_type,
                    localhost_ref: String::new(),
                }))
            }
            (ProfileType::RuntimeDefault | ProfileType::Unconfined, false) => Err(invalid(
                &reference,
                format_args!("{:?}", profile.localhost_ref),
                "it is only for profile_type Localhost",
            )),
        };
    }
    let profile_type = match deprecated.value {
        "" => return Ok(None),
        "runtime/default" | "docker/default" => ProfileType::RuntimeDefault,
        "unconfined" => ProfileType::Unconfined,
        other => match other.strip_prefix("localhost/") {
            Some(reference) if !reference.is_empty() => {
                return localhost(deprecated.field, reference);
            }
            Some(_) | None => {
                return Err(invalid(
                    deprecated.field,
                    format_args!("{other:?}"),
                    "use runtime/default, unconfined or localhost/PROFILE",
                ));
            }
        },
    };
    Ok(Some(SecurityProfile {
        profile_type,
        localhost_ref: String::new(),
    }))
}

/// Kubelets send the absolute path of the profile, some with `localhost/` before it.
fn localhost(field: &str, reference: &str) -> Result<Option<SecurityProfile>, InvalidField> {
    let reference = reference.strip_prefix("localhost/").unwrap_or(reference);
    Ok(Some(SecurityProfile {
        profile_type: ProfileType::Localhost,
        localhost_ref: no_climbing(field, reference.to_owned())?,
    }))
}

/// Whether the node has a profile is for `spec` to say.
pub(super) fn apparmor_profile(
    field: &str,
    given: Option<v1::SecurityProfile>,
    deprecated: Deprecated<'_>,
) -> Result<Option<SecurityProfile>, InvalidField> {
    let profile = profile(field, given, deprecated)?;
    if let Some(SecurityProfile { localhost_ref, .. }) = &profile
        && localhost_ref.chars().any(char::is_control)
    {
        return Err(invalid(
            &format!("{field}.localhost_ref"),
            format_args!("{localhost_ref:?}"),
            "a profile's name has no control characters",
        ));
    }
    Ok(profile)
}

/// Kubelets send an empty message, which asks for nothing. Whether a label can be had is for `spec` to say, which knows the node.
pub(super) fn selinux_options(
    field: &str,
    options: Option<v1::SeLinuxOption>,
) -> Result<SelinuxOptions, InvalidField> {
    let options = options.unwrap_or_default();
    let part = |part: &str, value: String| {
        let field = format!("{field}.{part}");
        if value.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(invalid(
                &field,
                format_args!("{value:?}"),
                "name a part of a label, such as s0:c1,c2",
            ));
        }
        Ok(value)
    };
    Ok(SelinuxOptions {
        user: part("user", options.user)?,
        role: part("role", options.role)?,
        kind: part("type", options.r#type)?,
        level: part("level", options.level)?,
    })
}

/// The kernel's own bounds of cpu.shares; beyond the upper one it would clamp in silence.
const CPU_SHARES: u64 = 262_144;

/// The bounds of cpu.cfs_period_us.
const CPU_PERIOD_US: std::ops::RangeInclusive<u64> = 1_000..=1_000_000;

/// Below this the kernel refuses a quota.
const CPU_QUOTA_US: i64 = 1_000;

/// `LinuxContainerResources` at `path`, of something that is yet to be made.
pub(super) fn resources(
    path: &str,
    given: v1::LinuxContainerResources,
) -> Result<LinuxResources, InvalidField> {
    let resources = resource_change(path, given)?;
    let field = format!("{path}.memory_swap_limit_in_bytes");
    let memory = resources.memory_limit_in_bytes;
    let swap = resources.memory_swap_limit_in_bytes;
    if swap > 0 && memory > swap {
        return Err(invalid(
            &field,
            swap,
            format!(
                "it counts memory and swap together: use at least memory_limit_in_bytes ({memory})"
            ),
        ));
    }
    if swap > 0 && memory <= 0 {
        return Err(invalid(
            &field,
            swap,
            "it counts memory and swap together: set memory_limit_in_bytes as well",
        ));
    }
    Ok(resources)
}

/// `LinuxContainerResources` at `path`, to change what is there: what is not given stays, so that only what is already there can say
/// whether the whole makes sense.
pub(super) fn resource_change(
    path: &str,
    resources: v1::LinuxContainerResources,
) -> Result<LinuxResources, InvalidField> {
    let at = |field: &str| format!("{path}.{field}");
    let cpu_period = unsigned(&at("cpu_period"), resources.cpu_period)?;
    if cpu_period != 0 && !CPU_PERIOD_US.contains(&cpu_period) {
        return Err(invalid(
            &at("cpu_period"),
            cpu_period,
            "use 1000 to 1000000 microseconds, or 0",
        ));
    }
    if (1..CPU_QUOTA_US).contains(&resources.cpu_quota) {
        return Err(invalid(
            &at("cpu_quota"),
            resources.cpu_quota,
            "use at least 1000 microseconds, -1 (unlimited) or 0",
        ));
    }
    for (field, limit) in [
        ("cpu_quota", resources.cpu_quota),
        ("memory_limit_in_bytes", resources.memory_limit_in_bytes),
        (
            "memory_swap_limit_in_bytes",
            resources.memory_swap_limit_in_bytes,
        ),
    ] {
        // Any other would be a mistake of whoever computed it, and no limit is the worst answer to that.
        if limit < -1 {
            return Err(invalid(
                &at(field),
                limit,
                "use a limit, -1 (unlimited) or 0 (not specified)",
            ));
        }
    }
    let cpu_shares = unsigned(&at("cpu_shares"), resources.cpu_shares)?;
    if cpu_shares > CPU_SHARES {
        return Err(invalid(
            &at("cpu_shares"),
            cpu_shares,
            format!("use at most {CPU_SHARES}"),
        ));
    }
    let oom_score_adj = match i16::try_from(resources.oom_score_adj) {
        Ok(adjustment) if (-1000..=1000).contains(&adjustment) => adjustment,
        _ => {
            return Err(invalid(
                &at("oom_score_adj"),
                resources.oom_score_adj,
                "use -1000 to 1000",
            ));
        }
    };
    for (key, value) in &resources.unified {
        check_unified(&at("unified"), key, value)?;
    }
    let mut hugepage_limits = Vec::with_capacity(resources.hugepage_limits.len());
    for (index, limit) in resources.hugepage_limits.into_iter().enumerate() {
        hugepage_limits.push(hugepage_limit(
            &at(&format!("hugepage_limits[{index}]")),
            limit,
        )?);
    }
    Ok(LinuxResources {
        cpu_period,
        cpu_quota: resources.cpu_quota,
        cpu_shares,
        memory_limit_in_bytes: resources.memory_limit_in_bytes,
        oom_score_adj,
        cpuset_cpus: cpu_list(&at("cpuset_cpus"), resources.cpuset_cpus)?,
        cpuset_mems: cpu_list(&at("cpuset_mems"), resources.cpuset_mems)?,
        hugepage_limits,
        unified: resources.unified,
        memory_swap_limit_in_bytes: resources.memory_swap_limit_in_bytes,
    })
}

/// What an UpdateContainerResources changes.
pub(crate) fn container_change(
    linux: Option<v1::LinuxContainerResources>,
    windows: Option<v1::WindowsContainerResources>,
    annotations: &BTreeMap<String, String>,
) -> Result<LinuxResources, InvalidField> {
    if windows.is_some() {
        return Err(invalid("windows", "set", "this is a Linux node"));
    }
    if let Some(key) = annotations.keys().next() {
        return Err(not_implemented("annotations", format_args!("{key:?}")));
    }
    let linux = linux.ok_or_else(|| missing("linux", "name what to change"))?;
    resource_change("linux", linux)
}

/// Resources of a pod at `path`, which are recorded and set nothing: an absent message leaves what is there.
pub(crate) fn pod_resources(
    path: &str,
    given: Option<v1::LinuxContainerResources>,
) -> Result<Option<LinuxResources>, InvalidField> {
    given.map(|given| resource_change(path, given)).transpose()
}

/// The key becomes a file name in a cgroup.
fn check_unified(field: &str, key: &str, value: &str) -> Result<(), InvalidField> {
    let file_name = !key.is_empty()
        && key.contains('.')
        && !key.starts_with('.')
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '_' || c == '-');
    if !file_name {
        return Err(invalid(
            field,
            format_args!("key {key:?}"),
            "name a file of cgroup v2, such as memory.high",
        ));
    }
    if value.contains('\0') {
        return Err(invalid(
            &format!("{field}[{key}]"),
            format_args!("{value:?}"),
            "remove the NUL character",
        ));
    }
    Ok(())
}

fn hugepage_limit(path: &str, limit: v1::HugepageLimit) -> Result<HugepageLimit, InvalidField> {
    let digits = limit
        .page_size
        .strip_suffix("KB")
        .or_else(|| limit.page_size.strip_suffix("MB"))
        .or_else(|| limit.page_size.strip_suffix("GB"));
    let named = digits.is_some_and(|digits| {
        !digits.is_empty() && digits.len() < 8 && digits.bytes().all(|b| b.is_ascii_digit())
    });
    if !named {
        return Err(invalid(
            &format!("{path}.page_size"),
            format_args!("{:?}", limit.page_size),
            "use a page size as the kernel writes it, such as 2MB or 1GB",
        ));
    }
    Ok(HugepageLimit {
        page_size: limit.page_size,
        limit: limit.limit,
    })
}

/// The kernel's list format, `0-3,8`; which numbers exist is the kernel's to say.
fn cpu_list(field: &str, value: String) -> Result<String, InvalidField> {
    let number = |text: &str| text.parse::<u16>().ok();
    let in_order = |part: &str| match part.split_once('-') {
        None => number(part).is_some(),
        Some((first, last)) => {
            matches!((number(first), number(last)), (Some(a), Some(b)) if a <= b)
        }
    };
    if value.is_empty() || value.split(',').all(in_order) {
        return Ok(value);
    }
    Err(invalid(
        field,
        format_args!("{value:?}"),
        "use a list such as 0-3,8",
    ))
}
