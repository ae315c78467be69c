//! Kernel parameters of a pod: only those of namespaces that are the pod's own.

use super::SpecError;
use crate::pod::config::{NamespaceMode, PodConfig};

const PATH: &str = "config.linux.sysctls";

/// Of the IPC namespace, beside `fs.mqueue.`.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// What a pod with a network of its own gets where it does not ask for something else. Its network has nobody else to protect.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SysctlDefaults {
    /// Everybody may listen on ports below 1024.
    pub(crate) unprivileged_ports: bool,
    /// Everybody may open ping sockets, which carry ICMP echo and nothing else.
    pub(crate) unprivileged_ping: bool,
}

const PORT_START: &str = "net.ipv4.ip_unprivileged_port_start";
const PING_RANGE: &str = "net.ipv4.ping_group_range";

/// The last group that the kernel takes for a ping range.
const LAST_PING_GROUP: u32 = i32::MAX as u32;

/// The pod's sysctls with dotted names, each of a namespace that the pod owns.
pub(crate) fn pod_sysctls(
    pod: &PodConfig,
    defaults: SysctlDefaults,
) -> Result<Vec<(String, String)>, SpecError> {
    let given = pod.linux.sysctls.iter();
    let mut sysctls = given
        .map(|(name, value)| Ok((allowed(name, pod)?, value.clone())))
        .collect::<Result<Vec<_>, SpecError>>()?;
    if !pod.namespaces().net {
        return Ok(sysctls);
    }
    let unset = |wanted: &str| sysctls.iter().all(|(name, _)| name != wanted);
    let ports = (defaults.unprivileged_ports && unset(PORT_START))
        .then(|| (PORT_START.to_owned(), "0".to_owned()));
    let ping = (defaults.unprivileged_ping && unset(PING_RANGE))
        .then(|| (PING_RANGE.to_owned(), format!("0 {}", last_group(pod))));
    sysctls.extend(ports);
    sysctls.extend(ping);
    Ok(sysctls)
}

/// The kernel takes no group that the pod's user namespace does not map.
fn last_group(pod: &PodConfig) -> u32 {
    let mappings = pod.user_namespace().map(|user| user.gids.as_slice());
    match mappings.and_then(<[_]>::first) {
        Some(mapping) => (mapping.length - 1).min(LAST_PING_GROUP),
        None => LAST_PING_GROUP,
    }
}

fn allowed(given: &str, pod: &PodConfig) -> Result<String, SpecError> {
    let refuse = |remedy: &str| Err(SpecError::field(PATH, format_args!("{given:?}"), remedy));
    let name = match (given.contains('.'), given.contains('/')) {
        // A dot beside slashes belongs to a name, such as a VLAN's, that dots cannot write.
        (true, true) => return refuse("write the name with dots alone"),
        (false, true) => given.replace('/', "."),
        (true | false, false) => given.to_owned(),
    };
    let options = &pod.linux.security_context.namespace_options;
    let own_network = options.network != NamespaceMode::Node;
    let own_ipc = options.ipc != NamespaceMode::Node;
    if name.starts_with("net.") {
        return match own_network {
            true => Ok(name),
            false => refuse("the pod uses the node's network, whose parameters it cannot set"),
        };
    }
    if name.starts_with("fs.mqueue.") || IPC.contains(&name.as_str()) {
        return match own_ipc {
            true => Ok(name),
            false => {
                refuse("the pod uses the node's IPC namespace, whose parameters it cannot set")
            }
        };
    }
    // A pod on the node's network is in its UTS namespace as well.
    if name == "kernel.domainname" {
        return match own_network {
            true => Ok(name),
            false => {
                refuse("the pod uses the node's UTS namespace, whose parameters it cannot set")
            }
        };
    }
    if name == "kernel.hostname" {
        return refuse("set config.hostname instead");
    }
    refuse("it belongs to the node and not to a namespace of the pod")
}
