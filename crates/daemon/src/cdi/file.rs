//! One file: what it may say, and whether what it says makes sense. Field names are the specification's.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::name;
use crate::hooks::Stage;

/// More than any vendor's file was seen to have.
pub(super) const MOST_BYTES: u64 = 8 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct File {
    pub(super) cdi_version: String,
    pub(super) kind: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) devices: Vec<Device>,
    /// Once for a container that gets any of the devices.
    #[serde(default)]
    pub(super) container_edits: ContainerEdits,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Device {
    pub(super) name: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    pub(super) container_edits: ContainerEdits,
}

/// What changes in a container's specification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct ContainerEdits {
    /// `NAME=value`.
    pub(super) env: Vec<String>,
    pub(super) device_nodes: Vec<DeviceNode>,
    pub(super) net_devices: Vec<NetDevice>,
    pub(super) hooks: Vec<Hook>,
    pub(super) mounts: Vec<Mount>,
    pub(super) intel_rdt: Option<IntelRdt>,
    #[serde(rename = "additionalGids")]
    pub(super) additional_gids: Vec<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct DeviceNode {
    /// Inside the container.
    pub(super) path: String,
    /// On the node; `None` is the same.
    pub(super) host_path: Option<String>,
    /// `b`, `c`, `u` or `p`; `None` is what the node has there.
    #[serde(rename = "type")]
    pub(super) node_type: Option<String>,
    pub(super) major: Option<i64>,
    pub(super) minor: Option<i64>,
    pub(super) file_mode: Option<u32>,
    /// Some of `rwm`, or `none`; `None` is all of them.
    pub(super) permissions: Option<String>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NetDevice {
    pub(super) host_interface_name: String,
    pub(super) name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Mount {
    pub(super) host_path: String,
    pub(super) container_path: String,
    #[serde(default, rename = "type")]
    pub(super) fs_type: Option<String>,
    #[serde(default)]
    pub(super) options: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Hook {
    pub(super) hook_name: Stage,
    pub(super) path: String,
    #[serde(default)]
    pub(super) args: Vec<String>,
    #[serde(default)]
    pub(super) env: Vec<String>,
    /// Seconds.
    #[serde(default)]
    pub(super) timeout: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct IntelRdt {
    #[serde(rename = "closID")]
    pub(super) clos_id: Option<String>,
    #[serde(rename = "l3CacheSchema")]
    pub(super) l3_cache_schema: Option<String>,
    #[serde(rename = "memBwSchema")]
    pub(super) mem_bw_schema: Option<String>,
    pub(super) schemata: Option<Vec<String>>,
    #[serde(rename = "enableMonitoring")]
    pub(super) enable_monitoring: Option<bool>,
    #[serde(rename = "enableCMT")]
    pub(super) enable_cmt: Option<bool>,
    #[serde(rename = "enableMBM")]
    pub(super) enable_mbm: Option<bool>,
}

/// Why a file is left out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum FileError {
    #[error("it cannot be read: {0}")]
    Read(String),
    #[error("it is longer than {MOST_BYTES} bytes")]
    Long,
    #[error("it does not parse: {0}")]
    Parse(String),
    #[error("{field}: {value:?}: {why}")]
    Field {
        field: String,
        value: String,
        why: &'static str,
    },
    #[error("{field} needs cdiVersion {needs} or later, and the file has {has}")]
    Version {
        field: &'static str,
        needs: &'static str,
        has: String,
    },
}

/// Every version that there has been.
const VERSIONS: [&str; 10] = [
    "0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0",
];

/// Parses JSON, or YAML, of which JSON is nearly a part, and checks it.
pub(super) fn parse(text: &str, json: bool) -> Result<File, FileError> {
    let file: File = if json {
        serde_json::from_str(text).map_err(|error| FileError::Parse(error.to_string()))?
    } else {
        serde_saphyr::from_str(text).map_err(|error| FileError::Parse(error.to_string()))?
    };
    file.check()?;
    Ok(file)
}

impl File {
    fn check(&self) -> Result<(), FileError> {
        let version = self.cdi_version.trim_start_matches('v');
        let Some(version) = VERSIONS.iter().position(|known| *known == version) else {
            return Err(wrong("cdiVersion", &self.cdi_version, "use 0.3.0 to 1.1.0"));
        };
        name::kind(&self.kind).map_err(|why| wrong("kind", &self.kind, why))?;
        if self.devices.is_empty() {
            return Err(wrong("devices", "", "describe at least one"));
        }
        self.container_edits.check("containerEdits")?;
        for (index, device) in self.devices.iter().enumerate() {
            let field = format!("devices[{index}]");
            name::device(&device.name)
                .map_err(|why| wrong(format!("{field}.name"), &device.name, why))?;
            if self.devices[..index]
                .iter()
                .any(|other| other.name == device.name)
            {
                let field = format!("{field}.name");
                return Err(wrong(field, &device.name, "another device has it"));
            }
            device
                .container_edits
                .check(&format!("{field}.containerEdits"))?;
        }
        self.check_version(version)
    }

    /// A field that its version does not have was meant for a reader of another.
    fn check_version(&self, version: usize) -> Result<(), FileError> {
        let edits = || {
            let devices = self.devices.iter().map(|device| &device.container_edits);
            devices.chain([&self.container_edits])
        };
        let nodes = || edits().flat_map(|edits| &edits.device_nodes);
        let rdt = || edits().filter_map(|edits| edits.intel_rdt.as_ref());
        let later = |rdt: &IntelRdt| rdt.schemata.is_some() || rdt.enable_monitoring.is_some();
        let earlier = |rdt: &IntelRdt| rdt.enable_cmt.is_some() || rdt.enable_mbm.is_some();
        let class = self.kind.split_once('/').map_or("", |(_, class)| class);
        let annotated = |device: &Device| !device.annotations.is_empty();
        for (field, needs, given) in [
            (
                "mounts[].type",
                "0.4.0",
                edits().any(|edits| edits.mounts.iter().any(|mount| mount.fs_type.is_some())),
            ),
            (
                "deviceNodes[].hostPath",
                "0.5.0",
                nodes().any(|node| node.host_path.is_some()),
            ),
            (
                "a device's name that begins with a digit",
                "0.5.0",
                self.devices
                    .iter()
                    .any(|device| device.name.starts_with(|c: char| c.is_ascii_digit())),
            ),
            (
                "annotations",
                "0.6.0",
                !self.annotations.is_empty() || self.devices.iter().any(annotated),
            ),
            ("a class with a dot", "0.6.0", class.contains('.')),
            ("intelRdt", "0.7.0", rdt().next().is_some()),
            (
                "additionalGids",
                "0.7.0",
                edits().any(|edits| !edits.additional_gids.is_empty()),
            ),
            (
                "netDevices",
                "1.1.0",
                edits().any(|edits| !edits.net_devices.is_empty()),
            ),
            ("intelRdt.schemata", "1.1.0", rdt().any(later)),
        ] {
            let since = VERSIONS.iter().position(|known| *known == needs);
            if given && since.is_some_and(|since| version < since) {
                let has = self.cdi_version.clone();
                return Err(FileError::Version { field, needs, has });
            }
        }
        if VERSIONS[version] == "1.1.0" && rdt().any(earlier) {
            let why = "enableCMT and enableMBM ended with 1.1.0: use enableMonitoring";
            return Err(wrong("intelRdt", "", why));
        }
        Ok(())
    }
}

impl ContainerEdits {
    fn check(&self, path: &str) -> Result<(), FileError> {
        let at = |list: &str, index: usize, field: &str| format!("{path}.{list}[{index}].{field}");
        for (index, entry) in self.env.iter().enumerate() {
            variable(entry).map_err(|why| wrong(format!("{path}.env[{index}]"), entry, why))?;
        }
        for (index, node) in self.device_nodes.iter().enumerate() {
            absolute(&node.path)
                .map_err(|why| wrong(at("deviceNodes", index, "path"), &node.path, why))?;
            if let Some(path) = &node.host_path {
                absolute(path)
                    .map_err(|why| wrong(at("deviceNodes", index, "hostPath"), path, why))?;
            }
            let kind = node.node_type.as_deref().unwrap_or_default();
            if !["", "b", "c", "u", "p"].contains(&kind) {
                let field = at("deviceNodes", index, "type");
                return Err(wrong(field, kind, "use b, c, u or p"));
            }
            for (field, number) in [("major", node.major), ("minor", node.minor)] {
                // A negative one is every number to the rules of the device cgroup.
                if let Some(number) = number
                    && u32::try_from(number).is_err()
                {
                    let field = at("deviceNodes", index, field);
                    return Err(wrong(field, number, "use the number of one device"));
                }
            }
            let access = node.permissions.as_deref().unwrap_or_default();
            if access != "none" && !access.chars().all(|c| "rwm".contains(c)) {
                let field = at("deviceNodes", index, "permissions");
                return Err(wrong(field, access, "use some of r, w and m, or none"));
            }
        }
        for (index, mount) in self.mounts.iter().enumerate() {
            absolute(&mount.host_path)
                .map_err(|why| wrong(at("mounts", index, "hostPath"), &mount.host_path, why))?;
            absolute(&mount.container_path).map_err(|why| {
                wrong(
                    at("mounts", index, "containerPath"),
                    &mount.container_path,
                    why,
                )
            })?;
        }
        for (index, hook) in self.hooks.iter().enumerate() {
            absolute(&hook.path)
                .map_err(|why| wrong(at("hooks", index, "path"), &hook.path, why))?;
            for entry in &hook.env {
                variable(entry).map_err(|why| wrong(at("hooks", index, "env"), entry, why))?;
            }
            if let Some(seconds) = hook.timeout
                && seconds < 1
            {
                let field = at("hooks", index, "timeout");
                return Err(wrong(field, seconds, "use a number of seconds"));
            }
        }
        if let Some(class) = self.intel_rdt.as_ref().and_then(|rdt| rdt.clos_id.as_ref())
            && (class.len() >= 4096
                || [".", ".."].contains(&class.as_str())
                || class.contains(['/', '\n', '\0']))
        {
            let field = format!("{path}.intelRdt.closID");
            return Err(wrong(field, class, "it cannot name a directory"));
        }
        for (index, device) in self.net_devices.iter().enumerate() {
            for (field, name) in [
                ("hostInterfaceName", &device.host_interface_name),
                ("name", &device.name),
            ] {
                let others = &self.net_devices[..index];
                let twice = others.iter().any(|other| {
                    &other.host_interface_name == name && field != "name"
                        || &other.name == name && field == "name"
                });
                if name.is_empty() || twice {
                    let field = at("netDevices", index, field);
                    return Err(wrong(field, name, "use a name, once"));
                }
            }
        }
        Ok(())
    }
}

fn variable(entry: &str) -> Result<(), &'static str> {
    match entry.split_once('=') {
        Some((name, _)) if !name.is_empty() && !entry.contains('\0') => Ok(()),
        _ => Err("write NAME=value"),
    }
}

fn absolute(path: &str) -> Result<(), &'static str> {
    if path.starts_with('/') && !path.contains('\0') {
        Ok(())
    } else {
        Err("use an absolute path")
    }
}

fn wrong(field: impl Into<String>, value: impl ToString, why: &'static str) -> FileError {
    FileError::Field {
        field: field.into(),
        value: value.to_string(),
        why,
    }
}
