//! What a client asks a container to be, checked: the domain's own form of CRI's `ContainerConfig`.
//!
//! As in [`crate::pod::config`], names and numbers in JSON are CRI's.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    pod::config::{
        IdMapping, LinuxResources, NamespaceOptions, SecurityProfile, SelinuxOptions,
        SupplementalGroupsPolicy, is_default, numbered, wrapped_id,
    },
    spec::Signal,
};

/// `ContainerConfig`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ContainerConfig {
    pub(crate) metadata: ContainerMetadata,
    pub(crate) image: ImageSpec,
    /// Replaces the image's entrypoint.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) command: Vec<String>,
    /// Replaces the image's cmd.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) args: Vec<String>,
    /// Absolute, or empty: the image's, or `/`.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) working_dir: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) envs: Vec<KeyValue>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) mounts: Vec<Mount>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) devices: Vec<Device>,
    #[serde(rename = "CDI_devices", skip_serializing_if = "is_default")]
    pub(crate) cdi_devices: Vec<CdiDevice>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) annotations: BTreeMap<String, String>,
    /// Relative to the pod's log directory, or absolute; empty: output is dropped.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) log_path: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) stdin: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) stdin_once: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) tty: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) linux: ContainerLinux,
    /// `None`: the image's, or SIGTERM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stop_signal: Option<Signal>,
    /// Of no request for a container: the part of a pod's checkpoint that RestorePod makes this one from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) checkpoint: Option<PathBuf>,
}

/// The two together name a container of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ContainerMetadata {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) attempt: u32,
}

/// `ImageSpec`: which image, as the request wrote it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ImageSpec {
    /// An id, a digest or a name.
    pub(crate) image: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) user_specified_image: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) runtime_handler: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) image_ref: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct KeyValue {
    pub(crate) key: String,
    pub(crate) value: String,
}

/// `Mount`, of a host path or of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Mount {
    /// Absolute, or relative to `/`.
    pub(crate) container_path: String,
    /// Absolute; empty exactly where `image` is set.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) host_path: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) readonly: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) selinux_relabel: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) propagation: MountPropagation,
    #[serde(rename = "uidMappings", skip_serializing_if = "is_default")]
    pub(crate) uid_mappings: Vec<IdMapping>,
    #[serde(rename = "gidMappings", skip_serializing_if = "is_default")]
    pub(crate) gid_mappings: Vec<IdMapping>,
    /// Only with `readonly` and private propagation.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) recursive_read_only: bool,
    /// The image whose files are mounted, read-only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<ImageSpec>,
    /// A directory of the image, relative; empty: its root.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) image_sub_path: String,
    /// Restrictions of the mount, such as `noexec`.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) mount_options: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Device {
    /// Absolute; empty: the same as `host_path`.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) container_path: String,
    /// A device node, or a directory of them.
    pub(crate) host_path: String,
    /// A subset of `rwm`; empty is `rwm`.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) permissions: String,
}

/// `CDIDevice`: a device that a vendor's file describes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct CdiDevice {
    /// `VENDOR/CLASS=NAME`.
    pub(crate) name: String,
}

/// `LinuxContainerConfig`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ContainerLinux {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) resources: LinuxResources,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) security_context: ContainerSecurity,
}

/// `LinuxContainerSecurityContext`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ContainerSecurity {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) capabilities: CapabilityChanges,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) privileged: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) namespace_options: NamespaceOptions,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) selinux_options: SelinuxOptions,
    #[serde(skip_serializing_if = "Option::is_none", with = "wrapped_id")]
    pub(crate) run_as_user: Option<u32>,
    /// A name or a number; at most one of it and `run_as_user` is set.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) run_as_username: String,
    /// Only beside one of the two above.
    #[serde(skip_serializing_if = "Option::is_none", with = "wrapped_id")]
    pub(crate) run_as_group: Option<u32>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) readonly_rootfs: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) supplemental_groups: Vec<u32>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) supplemental_groups_policy: SupplementalGroupsPolicy,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) no_new_privs: bool,
    /// Exactly these are masked; none is none.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) masked_paths: Vec<String>,
    /// Exactly these are read-only; none is none.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) readonly_paths: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seccomp: Option<SecurityProfile>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) apparmor: Option<SecurityProfile>,
}

/// Names with or without `CAP_`, in any case, or `ALL`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct CapabilityChanges {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) add_capabilities: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) drop_capabilities: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) add_ambient_capabilities: Vec<String>,
}

numbered!(MountPropagation { Private = 0, HostToContainer = 1, Bidirectional = 2 });
