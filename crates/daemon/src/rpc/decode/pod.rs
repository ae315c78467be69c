//! `PodSandboxConfig`.

use std::net::IpAddr;

use cri::v1;

use super::{
    field::{
        InvalidField, ids, invalid, missing, name, no_climbing, number, optional_id, optional_path,
        unsigned,
    },
    linux::{
        Deprecated, Owner, apparmor_profile, namespace_options, profile, resources, selinux_options,
    },
};
use crate::pod::config::{
    DnsConfig, PodConfig, PodLinux, PodMetadata, PodSecurity, PortMapping, Protocol,
};

/// The kernel's limit, without a NUL.
const HOSTNAME_BYTES: usize = 64;

/// A `PodSandboxConfig` that stands at `path` (`config` in RunPodSandbox, `sandbox_config` in CreateContainer).
pub(crate) fn pod_config(
    path: &str,
    config: v1::PodSandboxConfig,
) -> Result<PodConfig, InvalidField> {
    let at = |field: &str| format!("{path}.{field}");
    if config.windows.is_some() {
        return Err(invalid(&at("windows"), "set", "this is a Linux node"));
    }
    Ok(PodConfig {
        metadata: metadata(&at("metadata"), config.metadata)?,
        hostname: hostname(&at("hostname"), config.hostname)?,
        log_directory: no_climbing(
            &at("log_directory"),
            optional_path(&at("log_directory"), config.log_directory)?,
        )?,
        dns_config: dns(&at("dns_config"), config.dns_config)?,
        port_mappings: port_mappings(&at("port_mappings"), config.port_mappings)?,
        labels: config.labels,
        annotations: config.annotations,
        linux: linux(&at("linux"), config.linux.unwrap_or_default())?,
    })
}

fn metadata(
    path: &str,
    metadata: Option<v1::PodSandboxMetadata>,
) -> Result<PodMetadata, InvalidField> {
    let metadata =
        metadata.ok_or_else(|| missing(path, "give the pod's name, uid and namespace"))?;
    Ok(PodMetadata {
        name: name(&format!("{path}.name"), metadata.name)?,
        uid: name(&format!("{path}.uid"), metadata.uid)?,
        namespace: name(&format!("{path}.namespace"), metadata.namespace)?,
        attempt: metadata.attempt,
    })
}

/// It is written into /etc/hosts and /etc/hostname: a space or a new line would write something else.
fn hostname(field: &str, hostname: String) -> Result<String, InvalidField> {
    if hostname.len() > HOSTNAME_BYTES {
        return Err(invalid(
            field,
            format_args!("{hostname:?}"),
            format!("use at most {HOSTNAME_BYTES} bytes"),
        ));
    }
    word(field, hostname)
}

/// One word of a file whose separators are white space, or empty.
fn word(field: &str, value: String) -> Result<String, InvalidField> {
    if value
        .chars()
        .any(|c| c.is_whitespace() || c.is_control() || c == '#' || c == '/')
    {
        return Err(invalid(
            field,
            format_args!("{value:?}"),
            "remove white space, control characters, '#' and '/'",
        ));
    }
    Ok(value)
}

fn dns(path: &str, config: Option<v1::DnsConfig>) -> Result<Option<DnsConfig>, InvalidField> {
    let Some(config) = config else {
        return Ok(None);
    };
    let words = |field: &str, values: Vec<String>| {
        let checked = values.into_iter().enumerate().map(|(index, value)| {
            let field = format!("{path}.{field}[{index}]");
            if value.is_empty() {
                return Err(invalid(&field, "\"\"", "remove the empty entry"));
            }
            word(&field, value)
        });
        checked.collect::<Result<Vec<_>, _>>()
    };
    Ok(Some(DnsConfig {
        servers: words("servers", config.servers)?,
        searches: words("searches", config.searches)?,
        options: words("options", config.options)?,
    }))
}

fn port_mappings(
    path: &str,
    mappings: Vec<v1::PortMapping>,
) -> Result<Vec<PortMapping>, InvalidField> {
    let checked = mappings.into_iter().enumerate().map(|(index, mapping)| {
        let at = |field: &str| format!("{path}[{index}].{field}");
        let protocol = number(&at("protocol"), mapping.protocol)?;
        let container_port = port(&at("container_port"), mapping.container_port)?;
        if container_port == 0 {
            return Err(invalid(
                &at("container_port"),
                0,
                "use a port from 1 to 65535",
            ));
        }
        let host_port = port(&at("host_port"), mapping.host_port)?;
        if host_port != 0 && protocol == Protocol::Sctp {
            return Err(invalid(
                &at("protocol"),
                "SCTP",
                "host ports are implemented for TCP and UDP; leave host_port out",
            ));
        }
        let host_ip = match mapping.host_ip.as_str() {
            "" => None,
            text => Some(text.parse::<IpAddr>().map_err(|_| {
                invalid(
                    &at("host_ip"),
                    format_args!("{text:?}"),
                    "use an IPv4 or IPv6 address, or leave it out",
                )
            })?),
        };
        Ok(PortMapping {
            protocol,
            container_port,
            host_port,
            host_ip,
        })
    });
    checked.collect()
}

fn port(field: &str, value: i32) -> Result<u16, InvalidField> {
    u16::try_from(value).map_err(|_| invalid(field, value, "use a port from 0 to 65535"))
}

fn linux(path: &str, linux: v1::LinuxPodSandboxConfig) -> Result<PodLinux, InvalidField> {
    let at = |field: &str| format!("{path}.{field}");
    for (key, value) in &linux.sysctls {
        check_sysctl(&at("sysctls"), key, value)?;
    }
    Ok(PodLinux {
        cgroup_parent: no_climbing(&at("cgroup_parent"), linux.cgroup_parent)?,
        security_context: security(
            &at("security_context"),
            linux.security_context.unwrap_or_default(),
        )?,
        sysctls: linux.sysctls,
        overhead: linux
            .overhead
            .map(|overhead| resources(&at("overhead"), overhead))
            .transpose()?,
        resources: linux
            .resources
            .map(|given| resources(&at("resources"), given))
            .transpose()?,
    })
}

/// The name becomes a path below /proc/sys; which names a pod may set is for `spec` to say.
fn check_sysctl(field: &str, key: &str, value: &str) -> Result<(), InvalidField> {
    let parts_named = key
        .split(['.', '/'])
        .all(|part| !part.is_empty() && !part.chars().any(|c| c.is_control() || c.is_whitespace()));
    if !parts_named {
        return Err(invalid(
            field,
            format_args!("key {key:?}"),
            "name a kernel parameter, such as net.core.somaxconn",
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

fn security(
    path: &str,
    security: v1::LinuxSandboxSecurityContext,
) -> Result<PodSecurity, InvalidField> {
    let at = |field: &str| format!("{path}.{field}");
    let run_as_user = optional_id(&at("run_as_user"), security.run_as_user)?;
    let run_as_group = optional_id(&at("run_as_group"), security.run_as_group)?;
    if run_as_group.is_some() && run_as_user.is_none() {
        return Err(invalid(
            &at("run_as_group"),
            "set without a user",
            "set run_as_user as well",
        ));
    }
    #[allow(deprecated)]
    let deprecated_seccomp = security.seccomp_profile_path;
    let empty = Deprecated {
        field: "",
        value: "",
    };
    Ok(PodSecurity {
        namespace_options: namespace_options(
            &at("namespace_options"),
            security.namespace_options,
            Owner::Pod,
        )?,
        selinux_options: selinux_options(&at("selinux_options"), security.selinux_options)?,
        run_as_user,
        run_as_group,
        readonly_rootfs: security.readonly_rootfs,
        supplemental_groups: ids(&at("supplemental_groups"), security.supplemental_groups)?,
        supplemental_groups_policy: number(
            &at("supplemental_groups_policy"),
            security.supplemental_groups_policy,
        )?,
        privileged: security.privileged,
        seccomp: profile(
            &at("seccomp"),
            security.seccomp,
            Deprecated {
                field: &at("seccomp_profile_path"),
                value: &deprecated_seccomp,
            },
        )?,
        apparmor: apparmor_profile(&at("apparmor"), security.apparmor, empty)?,
    })
}

/// Seconds to wait in StopContainer; the kubelet's own bound is far below a year.
pub(crate) fn stop_timeout(timeout: i64) -> Result<std::time::Duration, InvalidField> {
    unsigned("timeout", timeout).map(std::time::Duration::from_secs)
}
