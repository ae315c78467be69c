//! Device nodes of this node for containers: those that a request names, or all of them.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use super::mounts::clean;
use crate::container::config::Device;

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

#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    #[error("config.devices: look at {}", path.display())]
    Look {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("config.devices: {} is neither a device node nor a directory of them", path.display())]
    NotADevice { path: PathBuf },
    #[error("config.devices: {} holds more than {MOST} device nodes", path.display())]
    TooMany { path: PathBuf },
    #[error("config.devices: {} is more than {DEEPEST} directories deep", path.display())]
    TooDeep { path: PathBuf },
}

/// More nodes than any /dev was seen to have.
const MOST: usize = 8192;

/// Directories below directories that are followed.
const DEEPEST: usize = 8;

/// The nodes that a request names. A directory stands for every node below it. Blocks on the file systems it looks at.
pub(crate) fn requested_devices(devices: &[Device]) -> Result<Vec<HostDevice>, DeviceError> {
    let mut found = Vec::new();
    for device in devices {
        let host = Path::new(&device.host_path);
        let inside = match device.container_path.as_str() {
            "" => clean(&device.host_path),
            path => clean(path),
        };
        let permissions = match device.permissions.as_str() {
            "" => "rwm",
            permissions => permissions,
        };
        // A link to a node stands for the node.
        let metadata = fs::metadata(host).map_err(|source| DeviceError::Look {
            path: host.to_owned(),
            source,
        })?;
        if metadata.is_dir() {
            walk(host, &inside, permissions, 0, &mut found)?;
        } else {
            let node = node(&metadata, inside, permissions);
            found.push(node.ok_or_else(|| DeviceError::NotADevice {
                path: host.to_owned(),
            })?);
        }
    }
    Ok(found)
}

/// Every node of this node's /dev, as a privileged container gets it. Blocks on /dev.
pub(crate) fn host_devices() -> Result<Vec<HostDevice>, DeviceError> {
    let mut found = Vec::new();
    walk(Path::new("/dev"), "/dev", "rwm", 0, &mut found)?;
    // Every container has its own terminal, and its own of these.
    found.retain(|device| {
        !matches!(
            device.path.as_str(),
            "/dev/console" | "/dev/ptmx" | "/dev/tty"
        )
    });
    Ok(found)
}

/// Other file systems' mount points below /dev, which hold no devices of the node.
const NOT_DEVICES: [&str; 6] = ["pts", "shm", "mqueue", "fd", "hugepages", ".udev"];

fn walk(
    host: &Path,
    inside: &str,
    permissions: &str,
    depth: usize,
    found: &mut Vec<HostDevice>,
) -> Result<(), DeviceError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| DeviceError::Look { path, source }
    };
    if depth > DEEPEST {
        return Err(DeviceError::TooDeep {
            path: host.to_owned(),
        });
    }
    let mut entries = fs::read_dir(host)
        .map_err(failed(host))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed(host))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if NOT_DEVICES.contains(&name) {
            continue;
        }
        // Links are skipped: what they point to is found by itself.
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // Devices come and go.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(&path)(error)),
        };
        let inside = clean(&format!("{inside}/{name}"));
        if metadata.is_dir() {
            walk(&path, &inside, permissions, depth + 1, found)?;
        } else {
            found.extend(node(&metadata, inside, permissions));
        }
        if found.len() > MOST {
            return Err(DeviceError::TooMany {
                path: host.to_owned(),
            });
        }
    }
    Ok(())
}

fn node(metadata: &fs::Metadata, path: String, permissions: &str) -> Option<HostDevice> {
    let file_type = metadata.file_type();
    let block = file_type.is_block_device();
    (block || file_type.is_char_device()).then(|| HostDevice {
        path,
        block,
        major: rustix::fs::major(metadata.rdev()),
        minor: rustix::fs::minor(metadata.rdev()),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        permissions: permissions.to_owned(),
    })
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
