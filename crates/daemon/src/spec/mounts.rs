//! `mounts`: what every container has, the pod's files, the image's volumes, and what the request mounts.

use std::path::{Path, PathBuf};

use oci_spec::{image::ImageConfiguration, runtime::Mount};

use super::{
    SpecError, SpecInput,
    namespaces::{Namespaces, mappings},
};
use crate::container::config::{ContainerConfig, Mount as Asked, MountPropagation};

/// A directory of the node for a volume that the image declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    /// Absolute path inside the container, one of [`image_volumes`].
    pub(crate) path: String,
    pub(crate) directory: PathBuf,
}

/// The files of an image that the request mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageTree {
    /// Position in the request's mounts.
    pub(crate) mount: usize,
    /// What the specification calls them.
    pub(crate) path: PathBuf,
}

/// The image's VOLUMEs, as absolute paths, that the request mounts nothing on itself. They are filled with what the image has
/// there.
pub(crate) fn image_volumes(
    image: &ImageConfiguration,
    container: &ContainerConfig,
) -> Vec<String> {
    let declared = image
        .config()
        .as_ref()
        .and_then(|config| config.volumes().as_deref());
    let mut volumes: Vec<_> = declared
        .unwrap_or_default()
        .iter()
        .map(|path| clean(path))
        .filter(|path| path != "/" && !path.contains('\0'))
        .filter(|path| !mounted_over(path, &container.mounts))
        .collect();
    volumes.sort_unstable();
    volumes.dedup();
    volumes
}

fn mounted_over(path: &str, mounts: &[Asked]) -> bool {
    mounts
        .iter()
        .any(|mount| clean(&mount.container_path) == path)
}

pub(super) struct Mounts {
    pub(super) list: Vec<Mount>,
    pub(super) rootfs_propagation: Option<&'static str>,
}

pub(super) fn mounts(
    input: &SpecInput<'_>,
    namespaces: &Namespaces<'_>,
) -> Result<Mounts, SpecError> {
    let asked = &input.container.mounts;
    let own_dev = mounted_over("/dev", asked);
    let mut list = standard(input, namespaces);
    // What the request mounts itself, it gets as it is; a /dev of its own comes with everything in it.
    list.retain(|mount| {
        let path = mount.destination().to_string_lossy();
        let replaced = mounted_over(&path, asked) || own_dev && path.starts_with("/dev/");
        !replaced
    });
    let mut below: Vec<Mount> = Vec::new();
    for volume in input.volumes {
        if !mounted_over(&clean(&volume.path), asked) {
            below.push(bind(
                &clean(&volume.path),
                &volume.directory,
                &["rbind", "rprivate", "rw"],
            ));
        }
    }
    for (index, mount) in asked.iter().enumerate() {
        let of_image = input.image_trees.iter().find(|tree| tree.mount == index);
        below.push(requested(mount, of_image));
    }
    // A mount hides those below it that came before; among equals the request's order counts.
    below.sort_by_key(|mount| mount.destination().components().count());
    list.extend(below);
    Ok(Mounts {
        list,
        rootfs_propagation: rootfs_propagation(asked),
    })
}

fn standard(input: &SpecInput<'_>, namespaces: &Namespaces<'_>) -> Vec<Mount> {
    let security = &input.container.linux.security_context;
    let access = if security.privileged { "rw" } else { "ro" };
    let mut pts = vec![
        "nosuid",
        "noexec",
        "newinstance",
        "ptmxmode=0666",
        "mode=0620",
    ];
    // Group 5 is tty everywhere; the kernel refuses a group that the user namespace does not map.
    if namespaces.has_gid(5) {
        pts.push("gid=5");
    }
    let mut list = vec![
        filesystem("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        filesystem(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        filesystem("/dev/pts", "devpts", "devpts", &pts),
        filesystem(
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        ),
        match namespaces.own_the_network() {
            true => filesystem(
                "/sys",
                "sysfs",
                "sysfs",
                &["nosuid", "noexec", "nodev", access],
            ),
            // Without what is mounted below: cgroups come from elsewhere, and the rest is none of its business.
            false => bind(
                "/sys",
                Path::new("/sys"),
                &["bind", "rprivate", "nosuid", "noexec", "nodev", access],
            ),
        },
        filesystem(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", access],
        ),
    ];
    let files = input.files;
    if let Some(shm) = files.shm {
        list.push(bind(
            "/dev/shm",
            shm,
            &["rbind", "rprivate", "nosuid", "noexec", "nodev", "rw"],
        ));
    }
    let access = if security.readonly_rootfs { "ro" } else { "rw" };
    for (path, file) in [
        ("/etc/hosts", files.hosts),
        ("/etc/hostname", files.hostname),
        ("/etc/resolv.conf", files.resolv_conf),
    ] {
        list.extend(file.map(|file| bind(path, file, &["rbind", "rprivate", access])));
    }
    list
}

fn requested(mount: &Asked, of_image: Option<&ImageTree>) -> Mount {
    let propagation = match mount.propagation {
        MountPropagation::Private => "rprivate",
        MountPropagation::HostToContainer => "rslave",
        MountPropagation::Bidirectional => "rshared",
    };
    let access = match (mount.readonly, mount.recursive_read_only) {
        (_, true) => "rro",
        (true, false) => "ro",
        (false, false) => "rw",
    };
    let mut options = vec!["rbind", propagation, access];
    options.extend(mount.mount_options.iter().map(String::as_str));
    let source = of_image.map_or(Path::new(&mount.host_path), |tree| &tree.path);
    let mut planned = bind(&clean(&mount.container_path), source, &options);
    if of_image.is_none() {
        // An image's layers are mapped before they are joined: the join cannot be.
        planned
            .set_uid_mappings(mappings(&mount.uid_mappings))
            .set_gid_mappings(mappings(&mount.gid_mappings));
    }
    planned
}

/// A mount can only pass on, or be passed, what the root it is below does.
fn rootfs_propagation(asked: &[Asked]) -> Option<&'static str> {
    let any = |propagation| asked.iter().any(|mount| mount.propagation == propagation);
    if any(MountPropagation::Bidirectional) {
        Some("rshared")
    } else if any(MountPropagation::HostToContainer) {
        Some("rslave")
    } else {
        None
    }
}

fn filesystem(target: &str, typ: &str, source: &str, options: &[&str]) -> Mount {
    mount(target, typ, Path::new(source), options)
}

fn bind(target: &str, source: &Path, options: &[&str]) -> Mount {
    mount(target, "bind", source, options)
}

fn mount(target: &str, typ: &str, source: &Path, options: &[&str]) -> Mount {
    let options = options.iter().map(|option| (*option).to_owned());
    let mut mount = Mount::default();
    mount
        .set_destination(PathBuf::from(target))
        .set_typ(Some(typ.to_owned()))
        .set_source(Some(source.to_owned()))
        .set_options(Some(options.collect()))
        .set_uid_mappings(None)
        .set_gid_mappings(None);
    mount
}

/// Absolute, without `.`, `..` and doubled slashes; never above the root.
pub(super) fn clean(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}
