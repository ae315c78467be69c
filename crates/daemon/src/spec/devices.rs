//! Device nodes of this node for containers: those that a request names, or all of them.

use std::path::PathBuf;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};
use supervisor_api::DeviceNode;

use super::mounts::clean;
use crate::container::config::ContainerConfig;

/// A device node as it shall appear in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostDevice {
    /// Inside the container.
    pub(crate) path: String,
    pub(crate) block: bool,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// A subset of `rwm`.
    pub(crate) permissions: String,
}

/// Where to look for the nodes that a container gets: the node's own for a privileged one, then those that the request names. A directory
/// stands for every node below it.
pub(crate) fn device_paths(container: &ContainerConfig) -> Vec<PathBuf> {
    let own = container
        .linux
        .security_context
        .privileged
        .then(|| PathBuf::from(OWN));
    let requested = container.devices.iter();
    let requested = requested.map(|device| PathBuf::from(&device.host_path));
    own.into_iter().chain(requested).collect()
}

const OWN: &str = "/dev";

/// Every container has its own terminal, and its own of these.
const NOT_SHARED: [&str; 3] = ["/dev/console", "/dev/ptmx", "/dev/tty"];

/// The nodes that a container gets, of those found at each of [`device_paths`].
pub(crate) fn devices(container: &ContainerConfig, found: Vec<Vec<DeviceNode>>) -> Vec<HostDevice> {
    let mut found = found.into_iter();
    let mut devices = Vec::new();
    if container.linux.security_context.privileged {
        let own = found.next().unwrap_or_default().into_iter();
        let own = own.map(|node| device(node, OWN, "rwm"));
        devices.extend(own.filter(|device| !NOT_SHARED.contains(&device.path.as_str())));
    }
    for (requested, nodes) in container.devices.iter().zip(found) {
        let inside = match requested.container_path.as_str() {
            "" => &requested.host_path,
            path => path,
        };
        let permissions = match requested.permissions.as_str() {
            "" => "rwm",
            permissions => permissions,
        };
        let nodes = nodes.into_iter();
        devices.extend(nodes.map(|node| device(node, inside, permissions)));
    }
    devices
}

fn device(node: DeviceNode, inside: &str, permissions: &str) -> HostDevice {
    HostDevice {
        path: clean(&format!("{inside}{}", node.below)),
        block: node.block,
        major: node.major,
        minor: node.minor,
        mode: node.mode,
        uid: node.uid,
        gid: node.gid,
        permissions: permissions.to_owned(),
    }
}

/// `linux.devices`; of two with one path the later is meant.
pub(super) fn nodes(devices: &[HostDevice]) -> Option<Vec<LinuxDevice>> {
    let mut nodes: Vec<LinuxDevice> = Vec::new();
    for device in devices {
        let mut node = LinuxDevice::default();
        node.set_path(PathBuf::from(&device.path))
            .set_typ(device_type(device.block))
            .set_major(i64::from(device.major))
            .set_minor(i64::from(device.minor))
            .set_file_mode(Some(device.mode))
            .set_uid(Some(device.uid))
            .set_gid(Some(device.gid));
        match nodes.iter_mut().find(|listed| listed.path() == node.path()) {
            Some(listed) => *listed = node,
            None => nodes.push(node),
        }
    }
    (!nodes.is_empty()).then_some(nodes)
}

fn device_type(block: bool) -> LinuxDeviceType {
    if block {
        LinuxDeviceType::B
    } else {
        LinuxDeviceType::C
    }
}

/// What any container may use: node type, major, minor (`None`: any), access. Making a node gives no access to its device.
const EVERYBODYS: [(LinuxDeviceType, Option<i64>, Option<i64>, &str); 11] = [
    (LinuxDeviceType::C, None, None, "m"),
    (LinuxDeviceType::B, None, None, "m"),
    (LinuxDeviceType::C, Some(1), Some(3), "rwm"), // null
    (LinuxDeviceType::C, Some(1), Some(5), "rwm"), // zero
    (LinuxDeviceType::C, Some(1), Some(7), "rwm"), // full
    (LinuxDeviceType::C, Some(1), Some(8), "rwm"), // random
    (LinuxDeviceType::C, Some(1), Some(9), "rwm"), // urandom
    (LinuxDeviceType::C, Some(5), Some(0), "rwm"), // tty
    (LinuxDeviceType::C, Some(5), Some(1), "rwm"), // console
    (LinuxDeviceType::C, Some(5), Some(2), "rwm"), // ptmx
    (LinuxDeviceType::C, Some(136), None, "rwm"),  // pts
];

/// `linux.resources.devices`: everything for a privileged container, else what everybody may use and what was asked for.
pub(super) fn rules(devices: &[HostDevice], privileged: bool) -> Vec<LinuxDeviceCgroup> {
    if privileged {
        return vec![rule(true, LinuxDeviceType::A, None, None, "rwm")];
    }
    let mut rules = vec![rule(false, LinuxDeviceType::A, None, None, "rwm")];
    for (typ, major, minor, access) in EVERYBODYS {
        rules.push(rule(true, typ, major, minor, access));
    }
    for device in devices {
        rules.push(rule(
            true,
            device_type(device.block),
            Some(i64::from(device.major)),
            Some(i64::from(device.minor)),
            &device.permissions,
        ));
    }
    rules
}

fn rule(
    allow: bool,
    typ: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow)
        .set_typ(Some(typ))
        .set_major(major)
        .set_minor(minor)
        .set_access(Some(access.to_owned()));
    rule
}
