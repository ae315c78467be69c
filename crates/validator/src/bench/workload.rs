use std::{collections::BTreeMap, path::Path};

use cri::v1::{
    ContainerConfig, ContainerMetadata, DnsConfig, ImageSpec, KeyValue, LinuxContainerConfig,
    LinuxContainerResources, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, Mount, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata,
};
use serde::Serialize;

/// Marks the workload's processes in the process table, so that they are not charged to the runtime.
pub(crate) const MARK: &str = "longshore-bench-workload";

/// Which network pods are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// The node's.
    Host,
    /// The runtime's own, or that of its CNI plugins.
    Pod,
}

/// What every pod of a run has in common.
#[derive(Debug)]
pub(crate) struct Workload {
    /// Tells this run's pods from others'.
    pub(crate) run: String,
    pub(crate) image: String,
    pub(crate) cgroup_parent: String,
}

impl Workload {
    pub(crate) fn new(image: &str, cgroup_parent: &str) -> Self {
        Self {
            run: std::process::id().to_string(),
            image: image.to_owned(),
            cgroup_parent: cgroup_parent.to_owned(),
        }
    }

    /// A pod as the kubelet asks for one. `directory` is the pod's own, for its logs and files.
    pub(crate) fn pod(&self, network: Network, name: &str, directory: &Path) -> PodSandboxConfig {
        let namespaces = namespaces(match network {
            Network::Host => NamespaceMode::Node,
            Network::Pod => NamespaceMode::Pod,
        });
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("{}-{name}", self.run),
                namespace: "longshore-bench".to_owned(),
                attempt: 0,
            }),
            hostname: match network {
                Network::Host => String::new(),
                Network::Pod => name.to_owned(),
            },
            log_directory: directory.display().to_string(),
            dns_config: Some(DnsConfig {
                servers: vec!["10.96.0.10".to_owned()],
                searches: vec!["default.svc.cluster.local".to_owned()],
                options: vec!["ndots:5".to_owned()],
            }),
            labels: labels(name, &self.run),
            annotations: BTreeMap::from([(
                "kubernetes.io/config.source".to_owned(),
                "api".to_owned(),
            )]),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup_parent.clone(),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces),
                    ..LinuxSandboxSecurityContext::default()
                }),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        }
    }

    /// A container with limits, an environment and the three mounts that every container of a kubelet has.
    pub(crate) fn container(
        &self,
        network: Network,
        name: &str,
        directory: &Path,
    ) -> ContainerConfig {
        let mount = |file: &str, container_path: &str, readonly| Mount {
            host_path: directory.join(file).display().to_string(),
            container_path: container_path.to_owned(),
            readonly,
            ..Mount::default()
        };
        let environment = (0..8).map(|number| KeyValue {
            key: format!("SERVICE_{number}_HOST"),
            value: format!("10.96.0.{number}").into(),
        });
        let namespaces = namespaces(match network {
            Network::Host => NamespaceMode::Node,
            Network::Pod => NamespaceMode::Pod,
        });
        ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: "main".to_owned(),
                attempt: 0,
            }),
            image: Some(ImageSpec {
                image: self.image.clone(),
                ..ImageSpec::default()
            }),
            // Ends on SIGTERM at once, which the first process of a PID namespace otherwise ignores.
            command: ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait", MARK]
                .map(str::to_owned)
                .to_vec(),
            envs: environment.collect(),
            mounts: vec![
                mount("etc-hosts", "/etc/hosts", false),
                mount("termination-log", "/dev/termination-log", false),
                mount(
                    "secret",
                    "/var/run/secrets/kubernetes.io/serviceaccount",
                    true,
                ),
            ],
            log_path: "main.log".to_owned(),
            labels: labels(name, &self.run),
            linux: Some(LinuxContainerConfig {
                resources: Some(LinuxContainerResources {
                    cpu_period: 100_000,
                    cpu_quota: 200_000,
                    cpu_shares: 102,
                    memory_limit_in_bytes: 64 << 20,
                    oom_score_adj: 900,
                    ..LinuxContainerResources::default()
                }),
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: Some(namespaces),
                    masked_paths: MASKED.map(str::to_owned).to_vec(),
                    readonly_paths: READ_ONLY.map(str::to_owned).to_vec(),
                    ..LinuxContainerSecurityContext::default()
                }),
            }),
            ..ContainerConfig::default()
        }
    }

    /// The files that [`Self::container`] mounts.
    pub(crate) fn files(directory: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(directory.join("secret"))?;
        std::fs::write(directory.join("secret/token"), "0123456789abcdef")?;
        std::fs::write(directory.join("etc-hosts"), "127.0.0.1 localhost\n")?;
        std::fs::write(directory.join("termination-log"), "")
    }
}

/// The kubelet's own lists.
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

fn namespaces(network: NamespaceMode) -> NamespaceOption {
    NamespaceOption {
        network: network.into(),
        pid: NamespaceMode::Container.into(),
        ipc: NamespaceMode::Pod.into(),
        ..NamespaceOption::default()
    }
}

fn labels(name: &str, run: &str) -> BTreeMap<String, String> {
    [
        ("io.kubernetes.pod.name", name),
        ("io.kubernetes.pod.namespace", "longshore-bench"),
        ("longshore.bench/run", run),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}
