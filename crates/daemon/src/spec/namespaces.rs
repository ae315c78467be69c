//! Which namespaces a container is in.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType,
};

use super::{Host, SpecError, SpecInput, annotations, apparmor, host::check_selinux};
use crate::pod::config::{IdMapping, NamespaceMode, NamespaceOptions, PodConfig, UserNamespace};

/// Paths of the namespaces that the pod owns, by which any process of the node could join them. `None`: the pod is in the
/// node's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NamespacePaths {
    pub(crate) net: Option<PathBuf>,
    pub(crate) ipc: Option<PathBuf>,
    pub(crate) uts: Option<PathBuf>,
    /// Where the pod has one for all containers.
    pub(crate) pid: Option<PathBuf>,
    pub(crate) user: Option<PathBuf>,
    /// Of the container that `target_id` names, where the mode is `TARGET`.
    pub(crate) target_pid: Option<PathBuf>,
}

#[derive(Debug)]
pub(super) struct Namespaces<'a> {
    list: Vec<LinuxNamespace>,
    uids: &'a [IdMapping],
    gids: &'a [IdMapping],
}

const PATH: &str = "config.linux.security_context.namespace_options";

pub(super) fn resolve<'a>(input: &SpecInput<'a>) -> Result<Namespaces<'a>, SpecError> {
    let pod = &input.pod.linux.security_context.namespace_options;
    let container = &input.container.linux.security_context.namespace_options;
    let paths = input.namespaces;
    refuse_more_than_the_pods(container, pod)?;
    let mut list = vec![namespace(LinuxNamespaceType::Mount, None)];

    // A container that says nothing says POD, and the pod may be in the node's.
    let net = pods(container.network, paths.net.as_deref());
    let ipc = pods(container.ipc, paths.ipc.as_deref());
    list.extend(net.map(|path| namespace(LinuxNamespaceType::Network, Some(path))));
    list.extend(ipc.map(|path| namespace(LinuxNamespaceType::Ipc, Some(path))));
    let uts = paths.uts.as_deref();
    list.extend(uts.map(|path| namespace(LinuxNamespaceType::Uts, Some(path))));

    match container.pid {
        NamespaceMode::Node => {}
        NamespaceMode::Container => list.push(namespace(LinuxNamespaceType::Pid, None)),
        NamespaceMode::Pod => match (&paths.pid, pod.pid) {
            (Some(path), _) => list.push(namespace(LinuxNamespaceType::Pid, Some(path))),
            (None, NamespaceMode::Node) => {}
            (None, mode) => {
                return Err(SpecError::field(
                    format!("{PATH}.pid"),
                    "POD",
                    format!(
                        "the pod was made with pid mode {mode:?} and has no PID namespace to share: use CONTAINER here, or POD there"
                    ),
                ));
            }
        },
        NamespaceMode::Target => match &paths.target_pid {
            Some(path) => list.push(namespace(LinuxNamespaceType::Pid, Some(path))),
            None => {
                return Err(SpecError::field(
                    format!("{PATH}.target_id"),
                    format_args!("{:?}", container.target_id),
                    "name a running container of the same pod",
                ));
            }
        },
    }

    let user = pod.userns_options.as_ref();
    let node = |asked: &UserNamespace| asked.mode == NamespaceMode::Node;
    if let Some(asked) = &container.userns_options
        && Some(asked) != user
        && !(node(asked) && user.is_none())
    {
        return Err(SpecError::field(
            format!("{PATH}.userns_options"),
            "other than the pod's",
            "give a container the pod's user namespace, or leave the field out",
        ));
    }
    if user.is_some() {
        refuse_node_namespaces(container)?;
        let Some(path) = &paths.user else {
            return Err(SpecError::field(
                format!("{PATH}.userns_options"),
                "the pod's user namespace",
                "it is not there any more: make the pod anew",
            ));
        };
        list.push(namespace(LinuxNamespaceType::User, Some(path)));
    }

    // A privileged container is there to see the node's cgroups.
    if !input.container.linux.security_context.privileged {
        list.push(namespace(LinuxNamespaceType::Cgroup, None));
    }
    Ok(Namespaces {
        list,
        uids: user.map_or(&[], |user| &user.uids),
        gids: user.map_or(&[], |user| &user.gids),
    })
}

impl Namespaces<'_> {
    pub(super) fn list(&self) -> Vec<LinuxNamespace> {
        self.list.clone()
    }

    pub(super) fn uid_mappings(&self) -> Option<Vec<LinuxIdMapping>> {
        mappings(self.uids)
    }

    pub(super) fn gid_mappings(&self) -> Option<Vec<LinuxIdMapping>> {
        mappings(self.gids)
    }

    /// Whether the kernel lets the container mount a sysfs, which shows a network: only who owns that.
    pub(super) fn own_the_network(&self) -> bool {
        let has = |typ| self.list.iter().any(|namespace| namespace.typ() == typ);
        has(LinuxNamespaceType::Network) || !has(LinuxNamespaceType::User)
    }

    /// Whether a group of the container has an id of the node.
    pub(super) fn has_gid(&self, gid: u32) -> bool {
        self.gids.is_empty()
            || self
                .gids
                .iter()
                .any(|map| gid >= map.container_id && gid - map.container_id < map.length)
    }
}

/// What a pod asks for that no pod of ours, or none on this node, can be.
pub(crate) fn check_pod(pod: &PodConfig, host: &Host) -> Result<(), SpecError> {
    annotations::check_pod(pod)?;
    let security = &pod.linux.security_context;
    check_selinux(&security.selinux_options, host)?;
    // A pod has no process to confine, but who asks for what nothing here enforces is mistaken.
    apparmor::name(security.apparmor.as_ref(), security.privileged, host)?;
    let options = &pod.linux.security_context.namespace_options;
    if options.userns_options.is_some() {
        refuse_node_namespaces(options)?;
    }
    if pod.user_namespace().is_some() && !host.maps_layers {
        return Err(SpecError::field(
            format!("{PATH}.userns_options"),
            "POD",
            "this kernel shows no image through a user namespace: that takes Linux 5.19",
        ));
    }
    Ok(())
}

/// Whoever lets a pod run lets it run as what it says that it is. Kubelets say the same twice.
fn refuse_more_than_the_pods(
    container: &NamespaceOptions,
    pod: &NamespaceOptions,
) -> Result<(), SpecError> {
    for (field, asked, pods) in [
        ("network", container.network, pod.network),
        ("pid", container.pid, pod.pid),
        ("ipc", container.ipc, pod.ipc),
    ] {
        if asked == NamespaceMode::Node && pods != NamespaceMode::Node {
            return Err(SpecError::field(
                format!("{PATH}.{field}"),
                "NODE",
                format!("the pod was made with {pods:?}: make it with NODE as well"),
            ));
        }
    }
    Ok(())
}

/// The kernel mounts neither proc nor mqueue of namespaces that the user namespace does not own. Of the network that is sysfs, and the node's
/// own stands in for it.
fn refuse_node_namespaces(options: &NamespaceOptions) -> Result<(), SpecError> {
    for (field, mode) in [("pid", options.pid), ("ipc", options.ipc)] {
        if mode == NamespaceMode::Node {
            return Err(SpecError::field(
                format!("{PATH}.{field}"),
                "NODE in a user namespace",
                "this runtime does not combine the two: use POD, or no user namespace",
            ));
        }
    }
    Ok(())
}

/// The pod's, unless the container asks for the node's.
fn pods(mode: NamespaceMode, path: Option<&Path>) -> Option<&Path> {
    match mode {
        NamespaceMode::Node => None,
        NamespaceMode::Pod | NamespaceMode::Container | NamespaceMode::Target => path,
    }
}

fn namespace(typ: LinuxNamespaceType, path: Option<&Path>) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(typ).set_path(path.map(Path::to_owned));
    namespace
}

pub(super) fn mappings(given: &[IdMapping]) -> Option<Vec<LinuxIdMapping>> {
    let mapped = given.iter().map(|map| {
        LinuxIdMappingBuilder::default()
            .host_id(map.host_id)
            .container_id(map.container_id)
            .size(map.length)
            .build()
            .expect("a builder whose every field has a default does not fail")
    });
    (!given.is_empty()).then(|| mapped.collect())
}
