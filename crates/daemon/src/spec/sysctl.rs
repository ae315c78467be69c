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

/// The pod's sysctls with dotted names, each of a namespace that the pod owns.
pub(crate) fn pod_sysctls(pod: &PodConfig) -> Result<Vec<(String, String)>, SpecError> {
    let given = pod.linux.sysctls.iter();
    given
        .map(|(name, value)| Ok((allowed(name, pod)?, value.clone())))
        .collect()
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
