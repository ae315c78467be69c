//! What a client asks a pod to be, checked: the domain's own form of CRI's `PodSandboxConfig`.
//!
//! Field names and enum numbers are CRI's, and defaults are left out, so that the JSON of these types (the `config` of
//! a verbose status, and of our records) reads and parses like the peers'. Only `rpc/` knows the protobuf messages;
//! a value of these types has passed `rpc::decode`.

use std::{collections::BTreeMap, net::IpAddr};

use oci_plan::PodNamespaces;
use serde::{Deserialize, Serialize};

/// `PodSandboxConfig`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PodConfig {
    pub(crate) metadata: PodMetadata,
    /// Empty: the node's own is used.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) hostname: String,
    /// Absolute, or empty: containers' relative log paths have nowhere to go then.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) log_directory: String,
    /// `None`: the node's own resolv.conf.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dns_config: Option<DnsConfig>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) port_mappings: Vec<PortMapping>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) linux: PodLinux,
}

impl PodConfig {
    /// The namespaces that the pod owns; the others are the node's.
    pub(crate) fn namespaces(&self) -> PodNamespaces {
        let options = &self.linux.security_context.namespace_options;
        let own = |mode: NamespaceMode| mode != NamespaceMode::Node;
        PodNamespaces {
            net: own(options.network),
            ipc: own(options.ipc),
            // A pod on the node's network keeps the node's name, as on the peers.
            uts: own(options.network),
            // With any other mode each container has its own, or the node's.
            pid: options.pid == NamespaceMode::Pod,
        }
    }

    /// The user namespace that the pod owns, if it does.
    pub(crate) fn user_namespace(&self) -> Option<&UserNamespace> {
        let options = &self.linux.security_context.namespace_options;
        let user = options.userns_options.as_ref();
        user.filter(|user| user.mode != NamespaceMode::Node)
    }
}

/// The four together name a pod: the same four again mean the same pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PodMetadata {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) namespace: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) attempt: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct DnsConfig {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) servers: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) searches: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) options: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PortMapping {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) protocol: Protocol,
    pub(crate) container_port: u16,
    /// 0: the port is declared and nothing is mapped.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) host_port: u16,
    /// `None`: every address of the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) host_ip: Option<IpAddr>,
}

/// `LinuxPodSandboxConfig`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PodLinux {
    /// Empty: the daemon's own choice.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) cgroup_parent: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) security_context: PodSecurity,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) sysctls: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) overhead: Option<LinuxResources>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resources: Option<LinuxResources>,
}

/// `LinuxSandboxSecurityContext`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PodSecurity {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) namespace_options: NamespaceOptions,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) selinux_options: SelinuxOptions,
    #[serde(skip_serializing_if = "Option::is_none", with = "wrapped_id")]
    pub(crate) run_as_user: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none", with = "wrapped_id")]
    pub(crate) run_as_group: Option<u32>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) readonly_rootfs: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) supplemental_groups: Vec<u32>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) supplemental_groups_policy: SupplementalGroupsPolicy,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) privileged: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seccomp: Option<SecurityProfile>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) apparmor: Option<SecurityProfile>,
}

/// `SELinuxOption`: a label, or parts of one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SelinuxOptions {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) user: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) role: String,
    #[serde(rename = "type", skip_serializing_if = "is_default")]
    pub(crate) kind: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) level: String,
}

/// `NamespaceOption`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct NamespaceOptions {
    /// `Pod` or `Node`.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) network: NamespaceMode,
    /// Any mode; `Target` only in a container.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) pid: NamespaceMode,
    /// `Pod` or `Node`.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) ipc: NamespaceMode,
    /// Container id; set exactly when `pid` is `Target`.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) target_id: String,
    /// `None`: the node's user namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) userns_options: Option<UserNamespace>,
}

/// `mode` is `Pod`, with mappings, or `Node`, without.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct UserNamespace {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) mode: NamespaceMode,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) uids: Vec<IdMapping>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) gids: Vec<IdMapping>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct IdMapping {
    pub(crate) host_id: u32,
    pub(crate) container_id: u32,
    /// At least 1, and neither range passes the last id.
    pub(crate) length: u32,
}

/// A seccomp or AppArmor profile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SecurityProfile {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) profile_type: ProfileType,
    /// Set exactly when the type is `Localhost`: a file, absolute or below the profile directory.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) localhost_ref: String,
}

/// `LinuxContainerResources`. A zero, or an empty text, is "not specified".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LinuxResources {
    /// Microseconds.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) cpu_period: u64,
    /// Microseconds per period; -1 is unlimited.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) cpu_quota: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) cpu_shares: u64,
    /// -1 is unlimited.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) memory_limit_in_bytes: i64,
    /// −1000 to 1000.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) oom_score_adj: i16,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) cpuset_cpus: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) cpuset_mems: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) hugepage_limits: Vec<HugepageLimit>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) unified: BTreeMap<String, String>,
    /// Memory and swap together; -1 is unlimited.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) memory_swap_limit_in_bytes: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct HugepageLimit {
    /// As the kernel writes it: `2MB`, `1GB`.
    pub(crate) page_size: String,
    /// Bytes.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) limit: u64,
}

/// An enum of CRI: serialised as its number, which `TryFrom<i32>` reads.
macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident { $first:ident = 0 $(, $variant:ident = $number:literal)* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(into = "i32", try_from = "i32")]
        pub(crate) enum $name {
            #[default]
            $first,
            $($variant,)*
        }

        impl From<$name> for i32 {
            fn from(value: $name) -> i32 {
                match value {
                    $name::$first => 0,
                    $($name::$variant => $number,)*
                }
            }
        }

        impl TryFrom<i32> for $name {
            type Error = $crate::pod::config::UnknownNumber;

            fn try_from(number: i32) -> Result<Self, Self::Error> {
                match number {
                    0 => Ok($name::$first),
                    $($number => Ok($name::$variant),)*
                    number => Err($crate::pod::config::UnknownNumber { of: stringify!($name), number }),
                }
            }
        }
    };
}
pub(crate) use numbered;

/// A number that no value of the enum has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{of} has no value {number}")]
pub(crate) struct UnknownNumber {
    pub(crate) of: &'static str,
    pub(crate) number: i32,
}

numbered!(NamespaceMode { Pod = 0, Container = 1, Node = 2, Target = 3 });
numbered!(Protocol { Tcp = 0, Udp = 1, Sctp = 2 });
numbered!(
    /// Which groups a process gets beside its own: those that /etc/group of the image lists the user in, and the
    /// request's (`Merge`), or the request's alone (`Strict`).
    SupplementalGroupsPolicy { Merge = 0, Strict = 1 }
);
numbered!(ProfileType { RuntimeDefault = 0, Unconfined = 1, Localhost = 2 });

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// An optional id as CRI's `Int64Value` reads in JSON: `{"value": 1000}`.
pub(crate) mod wrapped_id {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Wrapped {
        #[serde(default)]
        value: u32,
    }

    pub(crate) fn serialize<S: Serializer>(id: &Option<u32>, to: S) -> Result<S::Ok, S::Error> {
        id.map(|value| Wrapped { value }).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
        Ok(Option::<Wrapped>::deserialize(from)?.map(|wrapped| wrapped.value))
    }
}
