//! From an OCI runtime specification (1.2) to a plan.
//!
//! In three steps, of which only the second touches the machine, and that is the caller's:
//!
//! 1. [`bind_sources`] lists the host paths that the plan needs as detached mounts,
//! 2. the caller opens them (`open_tree(2)`, under a deadline) and compiles `linux.seccomp`,
//! 3. [`container_plan`] translates everything.
//!
//! A field that the embedded core does not implement is an error that names it; none is ignored.

mod alone;
mod capability;
mod further;
mod habits;
mod memory_policy;
mod mount;
mod process;
mod refusal;
mod resource;
#[cfg(test)]
mod tests;

pub use habits::{io_priority, scheduling};
pub use process::{exec_process, process, rlimits};
pub use resource::{resources, resources_here};

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxDevice, LinuxDeviceType, LinuxIdMapping, LinuxNamespaceType, Spec,
};

use crate::{
    Alone, ContainerPlan, DeviceNode, FdSlot, IdMap, IdMappings, NamespaceSource, Namespaces,
    NodeType, Rootfs, Seccomp,
};

/// Why a specification cannot become a plan. Field paths are those of `config.json`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    #[error("{field} is not supported by the embedded core")]
    Unsupported { field: String },
    #[error("{field}: {value:?}: {reason}")]
    Invalid {
        field: String,
        value: String,
        reason: &'static str,
    },
    #[error("{field} is missing")]
    Missing { field: &'static str },
}

/// A host path to clone as a detached tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindSource {
    /// Position in the specification's `mounts`.
    pub index: usize,
    pub path: PathBuf,
    /// With every mount below it (`rbind`).
    pub recursive: bool,
}

/// What the caller resolved.
#[derive(Debug, Clone)]
pub struct Context<'a> {
    pub id: &'a str,
    /// The root file system's detached mount; `root.path` is not looked at.
    pub rootfs: FdSlot,
    /// Position in `mounts` and the detached tree, for each of [`bind_sources`].
    pub binds: &'a [(usize, FdSlot)],
    /// What the paths of `linux.namespaces` stand for.
    pub namespaces: &'a [(PathBuf, NamespaceSource)],
    /// A bind mount of this path is the pod's shared memory, which the supervisor holds.
    pub pod_shm: Option<&'a Path>,
    /// `linux.seccomp`, compiled; exactly where the specification has it.
    pub seccomp: Option<Seccomp>,
    pub reach: Reach,
}

/// Who executes the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// A supervisor, behind a socket, which gets nothing that is marked *alone*.
    Supervisor,
    /// The process that makes it: all that the core can do.
    Here,
}

/// The host paths that `mounts` binds, without the pod's shared memory at `pod_shm`.
pub fn bind_sources(spec: &Spec, pod_shm: Option<&Path>) -> Result<Vec<BindSource>, SpecError> {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let mut sources = Vec::new();
    for (index, given) in mounts.iter().enumerate() {
        if let Some((path, recursive)) = mount::bind_source(index, given)?
            && Some(path) != pod_shm
        {
            sources.push(BindSource {
                index,
                path: path.to_owned(),
                recursive,
            });
        }
    }
    Ok(sources)
}

/// The whole translation.
pub fn container_plan(spec: &Spec, context: Context<'_>) -> Result<ContainerPlan, SpecError> {
    refusal::check(spec, context.reach)?;
    let linux = spec
        .linux()
        .as_ref()
        .ok_or(SpecError::Missing { field: "linux" })?;
    let root = spec
        .root()
        .as_ref()
        .ok_or(SpecError::Missing { field: "root" })?;
    let process = spec
        .process()
        .as_ref()
        .ok_or(SpecError::Missing { field: "process" })?;
    let here = context.reach == Reach::Here;
    let namespaces = namespaces(linux, context.namespaces, here)?;
    if linux.seccomp().is_some() && context.seccomp.is_none() {
        return Err(SpecError::Unsupported {
            field: "linux.seccomp without its compiled form".to_owned(),
        });
    }
    let own_uts = match namespaces.uts {
        NamespaceSource::New => true,
        NamespaceSource::Fd(_) => here,
        NamespaceSource::Host | NamespaceSource::Pod | NamespaceSource::Container(_) => false,
    };
    if spec.hostname().is_some() && !own_uts {
        return Err(invalid(
            "hostname",
            spec.hostname().as_deref().unwrap_or_default(),
            "it needs a UTS namespace of the container's own",
        ));
    }
    let mounts = mount::mounts(spec, &context)?;
    Ok(ContainerPlan {
        id: context.id.to_owned(),
        hostname: spec.hostname().clone(),
        rootfs: Rootfs {
            mount: context.rootfs,
            readonly: root.readonly().unwrap_or(false),
            propagation: mount::rootfs_propagation(linux)?,
        },
        mounts,
        devices: devices(linux)?,
        masked_paths: linux.masked_paths().clone().unwrap_or_default(),
        readonly_paths: linux.readonly_paths().clone().unwrap_or_default(),
        sysctls: sysctls(linux),
        cgroup: cgroup(linux)?,
        resources: match linux.resources() {
            Some(given) if here => resource::resources_here(given)?,
            Some(given) => resource::resources(given)?,
            None => crate::Resources::default(),
        },
        process: match here {
            true => process::process(process, Some(linux), context.seccomp)?,
            false => process::init(process, Some(linux), context.seccomp)?,
        },
        alone: match here {
            true => alone::alone(spec, linux, context.namespaces)?,
            false => Alone::default(),
        },
        namespaces,
    })
}

fn namespaces(
    linux: &Linux,
    known: &[(PathBuf, NamespaceSource)],
    here: bool,
) -> Result<Namespaces, SpecError> {
    let mut namespaces = Namespaces {
        pid: NamespaceSource::Host,
        net: NamespaceSource::Host,
        ipc: NamespaceSource::Host,
        uts: NamespaceSource::Host,
        user: NamespaceSource::Host,
        cgroup: NamespaceSource::Host,
        mappings: None,
    };
    let mut mount_namespace = false;
    for (index, namespace) in linux.namespaces().iter().flatten().enumerate() {
        let field = || format!("linux.namespaces[{index}]");
        let source = match namespace.path() {
            None => NamespaceSource::New,
            Some(path) => known
                .iter()
                .find(|(listed, _)| listed == path)
                .map(|(_, source)| source.clone())
                .ok_or_else(|| SpecError::Unsupported {
                    field: format!("{}.path {}", field(), path.display()),
                })?,
        };
        let slot = match namespace.typ() {
            LinuxNamespaceType::Pid => &mut namespaces.pid,
            LinuxNamespaceType::Network => &mut namespaces.net,
            LinuxNamespaceType::Ipc => &mut namespaces.ipc,
            LinuxNamespaceType::Uts => &mut namespaces.uts,
            LinuxNamespaceType::User => &mut namespaces.user,
            LinuxNamespaceType::Cgroup => &mut namespaces.cgroup,
            LinuxNamespaceType::Mount if here || source == NamespaceSource::New => {
                mount_namespace = true;
                continue;
            }
            LinuxNamespaceType::Mount => {
                return Err(SpecError::Unsupported {
                    field: format!("{}.path (mount)", field()),
                });
            }
            LinuxNamespaceType::Time if here => continue,
            LinuxNamespaceType::Time => {
                return Err(SpecError::Unsupported {
                    field: format!("{} (time)", field()),
                });
            }
        };
        *slot = source;
    }
    if !mount_namespace {
        return Err(SpecError::Unsupported {
            field: "linux.namespaces without a new mount namespace".to_owned(),
        });
    }
    if namespaces.user == NamespaceSource::New {
        let mappings = id_mappings(
            linux.uid_mappings().as_deref(),
            linux.gid_mappings().as_deref(),
        );
        namespaces.mappings = Some(mappings.ok_or(SpecError::Missing {
            field: "linux.uidMappings or linux.gidMappings",
        })?);
    } else if here && matches!(namespaces.user, NamespaceSource::Fd(_)) {
        namespaces.mappings = id_mappings(
            linux.uid_mappings().as_deref(),
            linux.gid_mappings().as_deref(),
        );
    } else if namespaces.user == NamespaceSource::Host
        && (linux.uid_mappings().is_some() || linux.gid_mappings().is_some())
    {
        return Err(invalid(
            "linux.uidMappings",
            "set",
            "mappings need a user namespace",
        ));
    }
    Ok(namespaces)
}

/// `None` where either is missing.
fn id_mappings(
    uids: Option<&[LinuxIdMapping]>,
    gids: Option<&[LinuxIdMapping]>,
) -> Option<IdMappings> {
    let maps = |given: &[LinuxIdMapping]| {
        let maps = given.iter().map(|map| IdMap {
            container_id: map.container_id(),
            host_id: map.host_id(),
            length: map.size(),
        });
        maps.collect::<Vec<_>>()
    };
    match (uids.map(maps), gids.map(maps)) {
        (Some(uids), Some(gids)) if !uids.is_empty() && !gids.is_empty() => {
            Some(IdMappings { uids, gids })
        }
        _ => None,
    }
}

fn devices(linux: &Linux) -> Result<Vec<DeviceNode>, SpecError> {
    let devices = linux.devices().iter().flatten().enumerate();
    devices.map(|(index, given)| device(index, given)).collect()
}

/// Permission bits where the specification leaves them out.
const DEVICE_MODE: u32 = 0o666;

fn device(index: usize, device: &LinuxDevice) -> Result<DeviceNode, SpecError> {
    let field = |name: &str| format!("linux.devices[{index}].{name}");
    let node_type = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => NodeType::Char,
        LinuxDeviceType::B => NodeType::Block,
        LinuxDeviceType::P => NodeType::Fifo,
        LinuxDeviceType::A => {
            return Err(invalid(field("type"), "a", "a device is c, b, u or p"));
        }
    };
    let number = |name: &str, value: i64| {
        u32::try_from(value).map_err(|_| invalid(field(name), value, "not the number of a device"))
    };
    Ok(DeviceNode {
        path: text(&field("path"), device.path())?,
        node_type,
        major: number("major", device.major())?,
        minor: number("minor", device.minor())?,
        mode: device.file_mode().unwrap_or(DEVICE_MODE) & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

/// In the order of their names.
fn sysctls(linux: &Linux) -> Vec<(String, String)> {
    let given = linux.sysctl().iter().flatten();
    let mut sysctls: Vec<_> = given.map(|(k, v)| (k.clone(), v.clone())).collect();
    sysctls.sort_unstable();
    sysctls
}

fn cgroup(linux: &Linux) -> Result<String, SpecError> {
    let path = linux.cgroups_path().as_ref().ok_or(SpecError::Missing {
        field: "linux.cgroupsPath",
    })?;
    let path = text("linux.cgroupsPath", path)?;
    let relative = path.trim_start_matches('/');
    if relative.is_empty() || relative.split('/').any(|part| part == "..") {
        return Err(invalid(
            "linux.cgroupsPath",
            &path,
            "name a cgroup below the root, without \"..\"",
        ));
    }
    Ok(relative.to_owned())
}

fn text(field: &str, path: &Path) -> Result<String, SpecError> {
    let text = path.to_str();
    text.map(str::to_owned)
        .ok_or_else(|| invalid(field, path.display(), "not UTF-8"))
}

fn invalid(
    field: impl Into<String>,
    value: impl std::fmt::Display,
    reason: &'static str,
) -> SpecError {
    SpecError::Invalid {
        field: field.into(),
        value: value.to_string(),
        reason,
    }
}
