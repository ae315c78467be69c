//! The parts that every operation works with, composed once.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use cgroup::Hierarchies;
use cni::{
    builtin::{Bridge, Condition as NetworkCondition},
    plugins::Plugins,
};
use image::Images;
use snapshot::Overlay;

use crate::{
    cdi::Cdi,
    checkpoint::Checkpoints,
    classes::Classes,
    config::{Config, Reload},
    container::{Container, RemoveError as RemoveContainerError},
    events::{Events, News},
    files::Files,
    flight::Flights,
    handlers::{Handlers, Limits},
    hooks::HookDirectories,
    id::{ContainerId, PodId},
    inventory::Inventory,
    metrics::Metrics,
    nri::Nri,
    paths::Paths,
    pod::{Pod, RemoveError as RemovePodError, RunError, StopError as StopPodError},
    rpc::Calls,
    selinux::Selinux,
    spec::{AppArmor, Host, SeccompProfiles},
    state::{BootId, Lock, Records},
    stats::Stats,
    supervisor::Executable,
};

/// Bit of capability 24 (`capabilities(7)`).
const CAP_SYS_RESOURCE: u64 = 1 << 24;

/// The daemon without its RPC surface.
#[derive(Debug)]
pub(crate) struct Runtime {
    pub(crate) config: Config,
    /// What became of changes to the configuration since the start.
    pub(crate) reload: Reload,
    pub(crate) boot: BootId,
    pub(crate) records: Records,
    pub(crate) inventory: Inventory,
    pub(crate) events: Events,
    pub(crate) flights: RuntimeFlights,
    pub(crate) executable: Arc<Executable>,
    pub(crate) hierarchies: Hierarchies,
    pub(crate) images: Images,
    pub(crate) overlay: Arc<Overlay>,
    /// The built-in network.
    pub(crate) network: Bridge,
    /// Networks of CNI plugins, which win over it.
    pub(crate) plugins: Plugins,
    pub(crate) seccomp: SeccompProfiles,
    pub(crate) apparmor: AppArmor,
    pub(crate) selinux: Selinux,
    pub(crate) paths: Paths,
    /// Devices that vendors describe in files.
    pub(crate) cdi: Arc<Cdi>,
    pub(crate) hooks: HookDirectories,
    pub(crate) classes: Classes,
    /// Plugins that are told of pods and containers, and change them.
    pub(crate) nri: Arc<Nri>,
    pub(crate) stats: Stats,
    /// What this machine can do, as specifications need to know it.
    pub(crate) host: Host,
    pub(crate) features: Features,
    pub(crate) handlers: Handlers,
    pub(crate) checkpoints: Checkpoints,
    /// Copies out of containers and into them.
    pub(crate) files: Files,
    /// What somebody waits for at the moment.
    pub(crate) calls: Arc<Calls>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) _locks: [Lock; 2],
}

/// What the embedded core can do on this kernel, as Status says it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Features {
    pub(crate) recursive_read_only: bool,
    pub(crate) user_namespaces: bool,
}

/// Something about the node that an operator should know.
#[derive(Debug, Clone)]
pub(crate) struct Condition {
    pub(crate) kind: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// Operations that a repeated request joins.
#[derive(Debug, Default)]
pub(crate) struct RuntimeFlights {
    pub(crate) run_pod: Flights<PodId, Result<Arc<Pod>, Arc<RunError>>>,
    pub(crate) stop_pod: Flights<PodId, Result<(), Arc<StopPodError>>>,
    pub(crate) remove_pod: Flights<PodId, Result<(), Arc<RemovePodError>>>,
    pub(crate) create_container:
        Flights<ContainerId, Result<Arc<Container>, Arc<crate::container::CreateError>>>,
    pub(crate) start_container: Flights<ContainerId, Result<(), Arc<crate::container::StartError>>>,
    pub(crate) stop_container: Flights<ContainerId, Result<(), Arc<crate::container::StopError>>>,
    pub(crate) remove_container: Flights<ContainerId, Result<(), Arc<RemoveContainerError>>>,
}

impl Runtime {
    /// What is wrong with the node, though pods run.
    pub(crate) fn conditions(&self) -> Vec<Condition> {
        let mut conditions: Vec<_> = self
            .network
            .conditions()
            .into_iter()
            // What the network changed for itself is in the log.
            .filter(|condition| !matches!(condition, NetworkCondition::SysctlChanged { .. }))
            .map(|message| Condition {
                kind: "LongshoreNetwork",
                reason: "NetworkImpaired",
                message: message.to_string(),
            })
            .collect();
        conditions.extend(
            self.plugins
                .conditions()
                .into_iter()
                .map(|message| Condition {
                    kind: "LongshoreNetwork",
                    reason: "AttachmentImpaired",
                    message,
                }),
        );
        conditions.extend(self.reload.trouble().map(|(reason, message)| Condition {
            kind: "LongshoreConfiguration",
            reason,
            message,
        }));
        conditions.extend(self.cdi.trouble().into_iter().map(|message| Condition {
            kind: "LongshoreDevices",
            reason: "SpecificationLeftOut",
            message,
        }));
        conditions.extend(self.nri.trouble().into_iter().map(|message| Condition {
            kind: "LongshoreNri",
            reason: "PluginMissing",
            message,
        }));
        conditions.extend(self.hooks.trouble().map(|message| Condition {
            kind: "LongshoreHooks",
            reason: "HookUnreadable",
            message,
        }));
        conditions.extend(self.selinux.trouble().map(|message| Condition {
            kind: "LongshoreSelinux",
            reason: "NoLabels",
            message,
        }));
        if self.host.capabilities & CAP_SYS_RESOURCE == 0 {
            conditions.push(Condition {
                kind: "LongshoreResourcePrivilege",
                reason: "NoCapSysResource",
                message: "the daemon lacks CAP_SYS_RESOURCE: negative oom_score_adj and raised hard limits are clamped to its own"
                    .to_owned(),
            });
        }
        conditions
    }

    /// How far a runtime that this daemon's children start can go.
    pub(crate) fn limits(&self) -> Limits {
        let may_raise = self.host.capabilities & CAP_SYS_RESOURCE != 0;
        let own = || {
            let own = std::fs::read_to_string("/proc/self/oom_score_adj");
            own.ok().and_then(|own| own.trim().parse().ok())
        };
        Limits {
            least_oom_score: (!may_raise).then(|| own().unwrap_or(0).min(0)),
            may_raise,
        }
    }

    /// Makes a change of a phase, and tells of it before anything else happens.
    pub(crate) fn happen<T>(&self, change: impl FnOnce(&mut News<'_>) -> T) -> T {
        self.events.happen(&self.inventory, change)
    }

    /// Where the network namespace of a pod is pinned.
    pub(crate) fn netns_path(&self, pod: &PodId) -> PathBuf {
        self.config.netns_directory.join(format!("longshore-{pod}"))
    }
}

/// Nanoseconds since the Unix epoch.
pub(crate) fn now_ns() -> i64 {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX)
}

/// Runs something that may block on the disk where it stalls nobody else, for as long as `bound`. A call that outlives the bound is
/// left behind on its thread: its operation fails, and no other one waits for it.
pub(crate) async fn blocking<T: Send + 'static>(
    bound: Duration,
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T, BlockingError> {
    match tokio::time::timeout(bound, tokio::task::spawn_blocking(call)).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(_panicked)) => Err(BlockingError::Crashed),
        Err(_elapsed) => Err(BlockingError::Stuck(bound)),
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum BlockingError {
    #[error("the disk did not answer within {} s", .0.as_secs())]
    Stuck(Duration),
    #[error("a call ended without a result; the daemon's log has the reason")]
    Crashed,
}

/// How long a local disk may take over one step before the operation gives up on it.
pub(crate) const DISK_BOUND: Duration = Duration::from_secs(60);
