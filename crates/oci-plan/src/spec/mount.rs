//! `mounts` and `linux.rootfsPropagation`.

use std::path::Path;

use oci_spec::runtime::{Linux, Mount as SpecMount, Spec};

use super::{Context, Reach, SpecError, id_mappings, invalid, text};
use crate::{CONTEXT, Mount, MountFlags, MountSource, Propagation};

pub(super) fn mounts(spec: &Spec, context: &Context<'_>) -> Result<Vec<Mount>, SpecError> {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let label = spec.linux().as_ref().and_then(label);
    let planned = mounts.iter().enumerate();
    planned
        .map(|(index, given)| mount(index, given, context, label))
        .collect()
}

/// The source of a bind mount, and whether it takes the mounts below along.
pub(super) fn bind_source(
    index: usize,
    mount: &SpecMount,
) -> Result<Option<(&Path, bool)>, SpecError> {
    let options = mount.options().as_deref().unwrap_or_default();
    let given = |name: &str| options.iter().any(|option| option == name);
    let recursive = given("rbind");
    if !recursive && !given("bind") && mount.typ().as_deref() != Some("bind") {
        return Ok(None);
    }
    match mount.source() {
        Some(source) if source.is_absolute() => Ok(Some((source, recursive))),
        Some(source) => Err(invalid(
            format!("mounts[{index}].source"),
            source.display(),
            "a bind mount needs an absolute path",
        )),
        None => Err(SpecError::Unsupported {
            field: format!("mounts[{index}] (bind) without source"),
        }),
    }
}

/// `linux.mountLabel`: of what the runtime mounts anew. An empty one is none.
fn label(linux: &Linux) -> Option<&str> {
    linux
        .mount_label()
        .as_deref()
        .filter(|label| !label.is_empty())
}

fn mount(
    index: usize,
    mount: &SpecMount,
    context: &Context<'_>,
    label: Option<&str>,
) -> Result<Mount, SpecError> {
    let field = |name: &str| format!("mounts[{index}].{name}");
    let target = text(&field("destination"), mount.destination())?;
    if !target.starts_with('/') {
        return Err(invalid(
            field("destination"),
            target,
            "use an absolute path",
        ));
    }
    let bind = bind_source(index, mount)?;
    let mut options = Options::default();
    for option in mount.options().iter().flatten() {
        options.take(&field("options"), option)?;
    }
    let idmap = match (mount.uid_mappings(), mount.gid_mappings()) {
        (None, None) => None,
        (uids, gids) => Some(
            id_mappings(uids.as_deref(), gids.as_deref()).ok_or_else(|| {
                invalid(
                    field("uidMappings"),
                    "one of uidMappings and gidMappings",
                    "give both or neither",
                )
            })?,
        ),
    };
    if idmap.is_none() && options.idmap {
        return Err(SpecError::Unsupported {
            field: format!("{} idmap without mappings", field("options")),
        });
    }
    let source = match bind {
        Some((path, _)) => {
            // mount(2) does not look at a file system's parameters where it binds, and bundles have them.
            let far = context.reach == Reach::Supervisor;
            if let (Some((name, _)), true) = (options.data.first(), far) {
                return Err(SpecError::Unsupported {
                    field: format!("{} {name:?} of a bind mount", field("options")),
                });
            }
            if context.pod_shm == Some(path) {
                MountSource::PodShm
            } else {
                let slot = context.binds.iter().find(|(listed, _)| *listed == index);
                let (_, slot) = slot.ok_or_else(|| SpecError::Unsupported {
                    field: format!("{} without its opened tree", field("source")),
                })?;
                MountSource::Tree(*slot)
            }
        }
        None => filesystem(&field("type"), mount, options.data, label)?,
    };
    Ok(Mount {
        target,
        source,
        flags: options.flags,
        propagation: options.propagation,
        idmap,
    })
}

/// Instances that the core makes. Block devices and network file systems are the node's to mount.
fn filesystem(
    field: &str,
    mount: &SpecMount,
    mut data: Vec<(String, Option<String>)>,
    label: Option<&str>,
) -> Result<MountSource, SpecError> {
    let Some(fs_type) = mount.typ().as_deref() else {
        return Err(SpecError::Unsupported {
            field: format!("{field} left out"),
        });
    };
    match fs_type {
        "cgroup" | "cgroup2" => Ok(MountSource::Cgroup),
        "proc" | "sysfs" | "tmpfs" | "mqueue" | "devpts" => {
            // The kernel's own views have labels of the policy's.
            let own = !matches!(fs_type, "proc" | "sysfs");
            if let Some(label) = label
                && own
                && data.iter().all(|(name, _)| name != CONTEXT)
            {
                data.push((CONTEXT.to_owned(), Some(label.to_owned())));
            }
            let source = mount.source().as_deref().and_then(Path::to_str);
            Ok(MountSource::Filesystem {
                fs_type: fs_type.to_owned(),
                source: source.unwrap_or(fs_type).to_owned(),
                data,
            })
        }
        other => Err(SpecError::Unsupported {
            field: format!("{field} {other:?}"),
        }),
    }
}

#[derive(Default)]
struct Options {
    flags: MountFlags,
    propagation: Option<Propagation>,
    idmap: bool,
    /// Parameters of the file system itself.
    data: Vec<(String, Option<String>)>,
}

impl Options {
    /// Later options win, as with mount(8).
    fn take(&mut self, field: &str, option: &str) -> Result<(), SpecError> {
        let flags = &mut self.flags;
        if let Some(propagation) = propagation(option) {
            self.propagation = Some(propagation);
            return Ok(());
        }
        match option {
            "bind" | "rbind" | "defaults" => {}
            "norelatime" => flags.relatime = false,
            "ro" => flags.readonly = true,
            "rro" => {
                flags.readonly = true;
                flags.recursive_readonly = true;
            }
            "rw" => {
                flags.readonly = false;
                flags.recursive_readonly = false;
            }
            "nosuid" => flags.nosuid = true,
            "suid" => flags.nosuid = false,
            "nodev" => flags.nodev = true,
            "dev" => flags.nodev = false,
            "noexec" => flags.noexec = true,
            "exec" => flags.noexec = false,
            "noatime" => flags.noatime = true,
            "atime" => flags.noatime = false,
            "nodiratime" => flags.nodiratime = true,
            "diratime" => flags.nodiratime = false,
            "relatime" => flags.relatime = true,
            "strictatime" => flags.strictatime = true,
            "nostrictatime" => flags.strictatime = false,
            "nosymfollow" => flags.nosymfollow = true,
            "symfollow" => flags.nosymfollow = false,
            "idmap" | "ridmap" => self.idmap = true,
            "remount" | "tmpcopyup" | "rrw" | "rnosuid" | "rsuid" | "rnodev" | "rdev"
            | "rnoexec" | "rexec" | "rnoatime" | "ratime" | "rnodiratime" | "rdiratime"
            | "rrelatime" | "rnorelatime" | "rstrictatime" | "rnostrictatime" | "rnosymfollow"
            | "rsymfollow" => {
                return Err(SpecError::Unsupported {
                    field: format!("{field} {option:?}"),
                });
            }
            parameter => self.data.push(match parameter.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (parameter.to_owned(), None),
            }),
        }
        Ok(())
    }
}

/// With or without the `r`: a detached tree's mounts share what its root has.
fn propagation(option: &str) -> Option<Propagation> {
    match option {
        "private" | "rprivate" => Some(Propagation::Private),
        "slave" | "rslave" => Some(Propagation::Slave),
        "shared" | "rshared" => Some(Propagation::Shared),
        "unbindable" | "runbindable" => Some(Propagation::Unbindable),
        _ => None,
    }
}

pub(super) fn rootfs_propagation(linux: &Linux) -> Result<Propagation, SpecError> {
    match linux.rootfs_propagation().as_deref() {
        None | Some("") => Ok(Propagation::Private),
        Some(given) => propagation(given).ok_or_else(|| {
            invalid(
                "linux.rootfsPropagation",
                given,
                "use private, slave, shared or unbindable",
            )
        }),
    }
}
