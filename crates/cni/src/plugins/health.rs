//! Whether there is a network, and whether it takes pods.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::config::{self, Network};
use super::{Plugins, chain, lock};

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
        let due = stale && !health.asking && (health.trouble.is_some() || health.network.is_some());
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
        let directory = self.shared.config.configurations.clone();
        let loaded = tokio::task::spawn_blocking(move || config::load(&directory)).await;
        let (network, trouble) = match loaded {
            Ok(Ok(Some(network))) => self.agree(network).await,
            Ok(Ok(None)) if lock(&self.shared.health).seen => (None, Some(self.gone())),
            Ok(Ok(None)) => (None, None),
            Ok(Err(error)) => (
                None,
                Some(trouble("InvalidConfiguration", chain_of(&error))),
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
        let directory = self.shared.config.configurations.display();
        let message = format!(
            "the configuration in {directory} is gone: put one there, or restart the daemon to go back to the built-in network"
        );
        trouble("ConfigurationGone", message)
    }

    /// Finds the plugins, the newest version that all of them speak, and whether they would take a pod.
    async fn agree(&self, mut network: Network) -> (Option<Network>, Option<Trouble>) {
        let runner = &self.shared.runner;
        let mut versions = network.versions.clone();
        for plugin in &network.plugins {
            match chain::versions(runner, &network, plugin).await {
                Ok(None) => {}
                Ok(Some(spoken)) => {
                    let wanted = versions.clone();
                    versions.retain(|version| spoken.contains(version));
                    if versions.is_empty() {
                        let list = |versions: &[super::version::Version]| {
                            let texts: Vec<_> = versions.iter().map(|v| v.as_str()).collect();
                            texts.join(", ")
                        };
                        let message = format!(
                            "{}: plugin {} speaks {}, which is none of {}",
                            network.file.display(),
                            plugin.kind,
                            list(&spoken),
                            list(&wanted),
                        );
                        return (Some(network), Some(trouble("NoCommonVersion", message)));
                    }
                }
                Err(error) => {
                    let message = format!("{}: {error}", network.file.display());
                    return (Some(network), Some(trouble("PluginMissing", message)));
                }
            }
        }
        network.version = versions.first().copied().unwrap_or(network.version);
        if network.version.has_gc_and_status()
            && let Err(error) = chain::status(runner, &network).await
        {
            return (
                Some(network),
                Some(trouble("PluginNotReady", error.to_string())),
            );
        }
        (Some(network), None)
    }
}

fn trouble(reason: &'static str, message: String) -> Trouble {
    Trouble { reason, message }
}

/// An error and its causes, outermost first.
fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
