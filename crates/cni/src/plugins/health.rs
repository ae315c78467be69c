//! Whether there is a network, and whether it takes pods.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::config::{self, Network};
use super::error::Reason;
use super::version::Version;
use super::{Plugins, chain, lock, process};
use crate::causes::with_causes;

/// How old the plugins' word may be. Asking for readiness has it renewed in the background.
const FRESH: Duration = Duration::from_secs(10);

/// What Status says of the network. The texts are for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// There is no configuration, and never was since the daemon's start.
    Absent,
    Ready {
        network: String,
        file: String,
    },
    /// `reason` is one word, for programs.
    NotReady {
        reason: &'static str,
        message: String,
    },
}

#[derive(Debug, Default)]
pub(super) struct Health {
    /// What the file said when it was last read, and what came of it.
    network: Option<Arc<Network>>,
    trouble: Option<Trouble>,
    /// A configuration was there at some time.
    seen: bool,
    asked: Option<Instant>,
    asking: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Trouble {
    reason: &'static str,
    message: String,
}

impl Health {
    fn readiness(&self) -> Readiness {
        match (&self.trouble, &self.network) {
            (Some(trouble), _) => Readiness::NotReady {
                reason: trouble.reason,
                message: trouble.message.clone(),
            },
            (None, Some(network)) => Readiness::Ready {
                network: network.name.clone(),
                file: network.file.display().to_string(),
            },
            (None, None) => Readiness::Absent,
        }
    }
}

impl Plugins {
    /// From memory. The plugins are asked anew, in the background, when their last word is ten seconds old.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let mut health = lock(&self.shared.health);
        let stale = health.asked.is_none_or(|asked| asked.elapsed() > FRESH);
        let due = stale && !health.asking;
        health.asking |= due;
        let readiness = health.readiness();
        drop(health);
        if due {
            let plugins = self.clone();
            tokio::spawn(async move {
                // A plugin that was missing may be there.
                plugins.reload().await;
                lock(&plugins.shared.health).asking = false;
            });
        }
        readiness
    }

    /// Whether pods are these plugins' business: there is a configuration, or there was one.
    #[must_use]
    pub fn serves(&self) -> bool {
        let health = lock(&self.shared.health);
        health.network.is_some() || health.trouble.is_some()
    }

    /// The network that takes pods now.
    pub(super) fn network(&self) -> Result<Option<Arc<Network>>, String> {
        let health = lock(&self.shared.health);
        match &health.trouble {
            Some(trouble) => Err(trouble.message.clone()),
            None => Ok(health.network.clone()),
        }
    }

    /// Looks at the directories again; to be called when something in them has changed.
    pub async fn reload(&self) {
        let _one_at_a_time = self.shared.reloading.lock().await;
        let Some(directory) = self.shared.config.configurations.clone() else {
            return;
        };
        let loaded = tokio::task::spawn_blocking(move || config::load(&directory)).await;
        let (network, trouble) = match loaded {
            Ok(Ok(Some(network))) => self.agree(network).await,
            Ok(Ok(None)) if lock(&self.shared.health).seen => (None, Some(self.gone())),
            Ok(Ok(None)) => (None, None),
            Ok(Err(error)) => (
                None,
                Some(trouble("InvalidConfiguration", with_causes(&error))),
            ),
            Err(error) => (
                None,
                Some(trouble("InvalidConfiguration", error.to_string())),
            ),
        };
        let mut health = lock(&self.shared.health);
        if trouble != health.trouble {
            match &trouble {
                Some(trouble) => {
                    tracing::error!(reason = trouble.message, "the CNI network takes no pods")
                }
                None => tracing::info!("the CNI network takes pods"),
            }
        }
        if let Some(network) = &network
            && health.network.as_deref() != Some(network)
        {
            tracing::info!(network = network.name, file = %network.file.display(), version = %network.version, "CNI configuration");
        }
        health.seen |= network.is_some() || trouble.is_some();
        health.network = network.map(Arc::new);
        health.trouble = trouble;
        health.asked = Some(Instant::now());
    }

    /// It was there, and its pods are: who takes the file away for a moment does not mean pods to get another network.
    fn gone(&self) -> Trouble {
        let directory = self.shared.config.configurations.as_deref();
        let message = format!(
            "the configuration in {} is gone: put one there, or restart the daemon to go back to the built-in network",
            directory.unwrap_or(Path::new("?")).display()
        );
        trouble("ConfigurationGone", message)
    }

    /// Finds the plugins, the newest version that all of them speak, and whether they would take a pod.
    async fn agree(&self, mut network: Network) -> (Option<Network>, Option<Trouble>) {
        let runner = &self.shared.runner;
        if let Some(agreed) = self.agreed_before(&network) {
            network.version = agreed;
        } else {
            let versions = self.common_versions(&network).await;
            match versions {
                Ok(versions) => {
                    network.version = versions.first().copied().unwrap_or(network.version);
                }
                Err(trouble) => return (Some(network), Some(trouble)),
            }
        }
        if network.version.has_gc_and_status()
            && let Err(error) = chain::status(runner, &network).await
        {
            let reason = match error.reason {
                Reason::Missing { .. } | Reason::Start { .. } => "PluginMissing",
                Reason::Refused { .. }
                | Reason::Failed { .. }
                | Reason::Late { .. }
                | Reason::TooMuch { .. }
                | Reason::Garbage { .. }
                | Reason::Process(_) => "PluginNotReady",
            };
            return (Some(network), Some(trouble(reason, error.to_string())));
        }
        (Some(network), None)
    }

    /// The version that was agreed on, while neither the configuration nor the presence of the plugins has changed.
    fn agreed_before(&self, network: &Network) -> Option<Version> {
        let health = lock(&self.shared.health);
        let before = health.network.as_deref()?;
        let refused = ["NoCommonVersion", "PluginMissing"];
        if health
            .trouble
            .as_ref()
            .is_some_and(|trouble| refused.contains(&trouble.reason))
        {
            return None;
        }
        let same = Network {
            version: before.version,
            ..network.clone()
        } == *before;
        let directories = &self.shared.runner.directories;
        let mut kinds = network.plugins.iter().map(|plugin| &plugin.kind);
        let there = kinds.all(|kind| process::find(directories, kind).is_ok());
        (same && there).then_some(before.version)
    }

    /// Those of the configuration that every plugin speaks, the newest first.
    async fn common_versions(&self, network: &Network) -> Result<Vec<Version>, Trouble> {
        let runner = &self.shared.runner;
        let mut versions = network.versions.clone();
        for plugin in &network.plugins {
            match chain::versions(runner, network, plugin).await {
                Ok(None) => {}
                Ok(Some(spoken)) => {
                    let wanted = versions.clone();
                    versions.retain(|version| spoken.contains(version));
                    if versions.is_empty() {
                        let message = format!(
                            "{}: plugin {} speaks {}, which is none of {}",
                            network.file.display(),
                            plugin.kind,
                            list(&spoken),
                            list(&wanted),
                        );
                        return Err(trouble("NoCommonVersion", message));
                    }
                }
                Err(error) => {
                    let message = format!("{}: {error}", network.file.display());
                    return Err(trouble("PluginMissing", message));
                }
            }
        }
        Ok(versions)
    }
}

fn list(versions: &[Version]) -> String {
    let texts: Vec<_> = versions.iter().map(|version| version.as_str()).collect();
    texts.join(", ")
}

fn trouble(reason: &'static str, message: String) -> Trouble {
    Trouble { reason, message }
}
