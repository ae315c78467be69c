//! Edits into a specification.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use oci_spec::runtime::{
    Hook, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxIntelRdt, LinuxNetDevice, Mount,
    Spec,
};
use supervisor_api::DeviceNode as HostNode;

use super::file::{self, ContainerEdits, DeviceNode};
use crate::hooks;

/// Why a device cannot be given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InjectError {
    #[error("{}: device node {path}: the node has none of type {wanted} there", file.display())]
    Type {
        file: PathBuf,
        path: String,
        wanted: String,
    },
    #[error("{}: device node {path}: it is a directory on the node: name the nodes in it", file.display())]
    Directory { file: PathBuf, path: String },
    #[error("{}: mount {path}: the container is not privileged: shared propagation is not its", file.display())]
    Shared { file: PathBuf, path: String },
}

/// The paths of the node whose types and numbers edits leave to be looked up, one for each such device, in order.
pub(crate) fn host_nodes(edits: &ContainerEdits) -> Vec<PathBuf> {
    let nodes = edits.device_nodes.iter();
    nodes
        .filter(|node| node.is_incomplete())
        .map(|node| PathBuf::from(node.on_host()))
        .collect()
}

impl DeviceNode {
    fn on_host(&self) -> &str {
        self.host_path.as_deref().unwrap_or(&self.path)
    }

    fn given_type(&self) -> Option<&str> {
        self.node_type.as_deref().filter(|kind| !kind.is_empty())
    }

    fn is_incomplete(&self) -> bool {
        let complete = self.given_type() == Some("p")
            || self.given_type().is_some() && self.major.is_some() && self.minor.is_some();
        !complete
    }
}

/// Applies the edits that a file makes. `found` is what the node has at [`host_nodes`].
///
/// # Errors
/// The specification is useless then.
pub(crate) fn inject(
    spec: &mut Spec,
    file: &Path,
    edits: &ContainerEdits,
    found: Vec<Vec<HostNode>>,
    privileged: bool,
) -> Result<(), InjectError> {
    // What the container mounts below, the node would see.
    let shared = |option: &String| ["shared", "rshared"].contains(&option.as_str());
    let mut mounts = edits.mounts.iter();
    if !privileged && let Some(mount) = mounts.find(|mount| mount.options.iter().any(shared)) {
        return Err(InjectError::Shared {
            file: file.to_owned(),
            path: mount.container_path.clone(),
        });
    }
    let mut found = found.into_iter();
    for node in &edits.device_nodes {
        let host = match node.is_incomplete() {
            true => found.next().unwrap_or_default(),
            false => Vec::new(),
        };
        device(spec, file, node, &host)?;
    }
    apply(spec, edits);
    Ok(())
}

fn apply(spec: &mut Spec, edits: &ContainerEdits) {
    if let Some(process) = spec.process_mut() {
        let env = process.env_mut().get_or_insert_default();
        for entry in &edits.env {
            let name = entry.split_once('=').map_or("", |(name, _)| name);
            let same = |known: &&mut String| {
                known
                    .split_once('=')
                    .is_some_and(|(known, _)| known == name)
            };
            match env.iter_mut().find(same) {
                Some(known) => known.clone_from(entry),
                None => env.push(entry.clone()),
            }
        }
        let mut user = process.user().clone();
        let groups = user.additional_gids_mut().get_or_insert_default();
        for gid in &edits.additional_gids {
            // Root's group is never given on the side.
            if *gid != 0 && !groups.contains(gid) {
                groups.push(*gid);
            }
        }
        process.set_user(user);
    }
    if !edits.mounts.is_empty() {
        let mounts = spec.mounts_mut().get_or_insert_default();
        for edit in &edits.mounts {
            mounts.retain(|mount| mount.destination() != Path::new(&edit.container_path));
            mounts.push(mount(edit));
        }
        // A mount hides those below it that came before.
        mounts.sort_by_key(|mount| mount.destination().components().count());
    }
    for edit in &edits.hooks {
        hooks::add(spec, edit.hook_name, hook(edit));
    }
    if let Some(linux) = spec.linux_mut() {
        if let Some(rdt) = &edits.intel_rdt {
            linux.set_intel_rdt(Some(intel_rdt(rdt)));
        }
        for device in &edits.net_devices {
            let mut named = LinuxNetDevice::default();
            named.set_name(Some(device.name.clone()));
            let devices: &mut HashMap<_, _> = linux.net_devices_mut().get_or_insert_default();
            devices.insert(device.host_interface_name.clone(), named);
        }
    }
}

fn device(
    spec: &mut Spec,
    file: &Path,
    node: &DeviceNode,
    host: &[HostNode],
) -> Result<(), InjectError> {
    let found = match host {
        [one] if one.below.is_empty() => Some(one),
        [] => None,
        _ => {
            return Err(InjectError::Directory {
                file: file.to_owned(),
                path: node.on_host().to_owned(),
            });
        }
    };
    let on_host = found.map(|one| if one.block { "b" } else { "c" });
    let kind = match (node.given_type(), on_host) {
        (Some("u"), Some("c")) => "c",
        (Some(given), Some(on_host)) if given != on_host => {
            return Err(InjectError::Type {
                file: file.to_owned(),
                path: node.on_host().to_owned(),
                wanted: given.to_owned(),
            });
        }
        (Some(given), _) => given,
        (None, on_host) => on_host.unwrap_or("c"),
    };
    let typ = match kind {
        "b" => LinuxDeviceType::B,
        "p" => LinuxDeviceType::P,
        _ => LinuxDeviceType::C,
    };
    let major = node.major.or(found.map(|one| i64::from(one.major)));
    let minor = node.minor.or(found.map(|one| i64::from(one.minor)));
    // A device that belongs to nobody in particular belongs to who runs in the container.
    let user = spec.process().as_ref().map(|process| process.user());
    let uid = user.map(|user| user.uid()).filter(|uid| *uid != 0);
    let gid = user.map(|user| user.gid()).filter(|gid| *gid != 0);
    let mut made = LinuxDevice::default();
    made.set_path(PathBuf::from(&node.path))
        .set_typ(typ)
        .set_major(major.unwrap_or(0))
        .set_minor(minor.unwrap_or(0))
        .set_file_mode(node.file_mode.or(found.map(|one| one.mode)))
        .set_uid(node.uid.or(uid))
        .set_gid(node.gid.or(gid));
    let Some(linux) = spec.linux_mut() else {
        return Ok(());
    };
    let devices = linux.devices_mut().get_or_insert_default();
    devices.retain(|known| known.path() != made.path());
    devices.push(made);
    let access = match node.permissions.as_deref() {
        Some("none") => return Ok(()),
        None | Some("") => "rwm",
        Some(access) => access,
    };
    if typ != LinuxDeviceType::P {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(true)
            .set_typ(Some(typ))
            .set_major(major)
            .set_minor(minor)
            .set_access(Some(access.to_owned()));
        let resources = linux.resources_mut().get_or_insert_default();
        resources.devices_mut().get_or_insert_default().push(rule);
    }
    Ok(())
}

/// Without a kind it is what its options make of it: a bind, as `rbind` or `bind` says.
fn mount(edit: &file::Mount) -> Mount {
    let mut options = edit.options.clone();
    let kind = edit.fs_type.as_deref().filter(|kind| !kind.is_empty());
    let binds = options
        .iter()
        .any(|one| ["bind", "rbind"].contains(&one.as_str()));
    if kind.is_none() && !binds {
        options.insert(0, "bind".to_owned());
    }
    let mut mount = Mount::default();
    mount
        .set_destination(PathBuf::from(&edit.container_path))
        .set_source(Some(PathBuf::from(&edit.host_path)))
        .set_typ(Some(kind.unwrap_or("bind").to_owned()))
        .set_options(Some(options))
        .set_uid_mappings(None)
        .set_gid_mappings(None);
    mount
}

fn hook(edit: &file::Hook) -> Hook {
    let args = match edit.args.is_empty() {
        true => vec![edit.path.clone()],
        false => edit.args.clone(),
    };
    let mut hook = Hook::default();
    hook.set_path(PathBuf::from(&edit.path))
        .set_args(Some(args))
        .set_env(Some(edit.env.clone()))
        .set_timeout(edit.timeout);
    hook
}

fn intel_rdt(rdt: &file::IntelRdt) -> LinuxIntelRdt {
    let mut made = LinuxIntelRdt::default();
    made.set_clos_id(rdt.clos_id.clone())
        .set_l3_cache_schema(rdt.l3_cache_schema.clone())
        .set_mem_bw_schema(rdt.mem_bw_schema.clone())
        .set_schemata(rdt.schemata.clone())
        .set_enable_monitoring(rdt.enable_monitoring)
        .set_enable_cmt(rdt.enable_cmt)
        .set_enable_mbm(rdt.enable_mbm);
    made
}
