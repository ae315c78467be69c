//! A pod sets parameters of its own namespaces only.

use super::super::{Host, SysctlDefaults, check_pod, pod_sysctls};
use crate::pod::config::{IdMapping, NamespaceMode, PodConfig, UserNamespace};

fn pod(name: &str, network: NamespaceMode, ipc: NamespaceMode) -> PodConfig {
    let mut pod = PodConfig::default();
    pod.linux.sysctls.insert(name.to_owned(), "1".to_owned());
    let options = &mut pod.linux.security_context.namespace_options;
    (options.network, options.ipc) = (network, ipc);
    pod
}

#[test]
fn of_namespaces() {
    use NamespaceMode::{Node, Pod};
    let none = SysctlDefaults::default();
    let allowed = |name: &str, network, ipc| pod_sysctls(&pod(name, network, ipc), none).is_ok();
    for name in [
        "net.ipv4.ip_forward",
        "net/ipv4/ip_forward",
        "kernel.domainname",
    ] {
        assert!(allowed(name, Pod, Node), "{name}");
        assert!(!allowed(name, Node, Pod), "{name}");
    }
    for name in [
        "kernel.shmmax",
        "kernel.sem",
        "fs.mqueue.msg_max",
        "kernel/msgmax",
    ] {
        assert!(allowed(name, Node, Pod), "{name}");
        assert!(!allowed(name, Pod, Node), "{name}");
    }
    for name in [
        "vm.swappiness",
        "kernel.core_pattern",
        "kernel.hostname",
        "kernel.shmmax.x",
        "net/ipv4/conf/eth0.1/forwarding",
        "network.x",
        "fs.mqueue",
    ] {
        assert!(!allowed(name, Pod, Pod), "{name}");
    }
    let named = pod_sysctls(&pod("net/core/somaxconn", Pod, Pod), none).unwrap();
    assert_eq!(named, [("net.core.somaxconn".to_owned(), "1".to_owned())]);
}

#[test]
fn a_network_of_its_own_is_for_everybody() {
    use NamespaceMode::{Node, Pod};
    let both = SysctlDefaults {
        unprivileged_ports: true,
        unprivileged_ping: true,
    };
    let set = |pod: &PodConfig| {
        let sysctls = pod_sysctls(pod, both).unwrap();
        let lines = sysctls
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        lines.collect::<Vec<_>>()
    };
    let ports = "net.ipv4.ip_unprivileged_port_start=0";
    let ping = "net.ipv4.ping_group_range=0 2147483647";
    assert_eq!(set(&PodConfig::default()), [ports, ping]);
    let mut asked = pod("net/ipv4/ping_group_range", Pod, Pod);
    assert_eq!(set(&asked), ["net.ipv4.ping_group_range=1", ports]);
    asked.linux.sysctls.clear();
    let options = &mut asked.linux.security_context.namespace_options;
    options.network = Node;
    assert_eq!(set(&asked), [""; 0]);
    let options = &mut asked.linux.security_context.namespace_options;
    options.network = Pod;
    let maps = vec![IdMapping {
        host_id: 65536,
        container_id: 0,
        length: 1000,
    }];
    options.userns_options = Some(UserNamespace {
        mode: Pod,
        uids: maps.clone(),
        gids: maps,
    });
    assert_eq!(set(&asked), [ports, "net.ipv4.ping_group_range=0 999"]);
}

#[test]
fn a_user_namespace_owns_the_others() {
    let mut pod = PodConfig::default();
    let maps = vec![IdMapping {
        host_id: 65536,
        container_id: 0,
        length: 65536,
    }];
    let options = &mut pod.linux.security_context.namespace_options;
    options.userns_options = Some(UserNamespace {
        mode: NamespaceMode::Pod,
        uids: maps.clone(),
        gids: maps,
    });
    let host = Host {
        maps_layers: true,
        ..Host::default()
    };
    check_pod(&pod, &host).unwrap();
    pod.linux.security_context.namespace_options.network = NamespaceMode::Node;
    check_pod(&pod, &host).unwrap();
    pod.linux.security_context.namespace_options.ipc = NamespaceMode::Node;
    let error = check_pod(&pod, &host).unwrap_err().to_string();
    assert!(
        error.contains("namespace_options.ipc: NODE in a user namespace"),
        "{error}"
    );
}
