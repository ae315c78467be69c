//! Containers that plugins change, or end, beside the one that they are asked about. That is done once nothing else can be wrong with what
//! they are asked about; where it comes to nothing all the same, the others get back what they had.

use std::sync::Arc;

use nri::api;

use super::{Nri, NriError, limits::Limits};
use crate::container::{self, Container};

/// What is to become of others, by who wants it.
#[derive(Debug, Default)]
pub(crate) struct Others {
    updates: Vec<(String, api::ContainerUpdate)>,
    evictions: Vec<(String, Vec<api::ContainerEviction>)>,
}

/// What others had before, the first to be changed first.
#[derive(Debug, Default)]
pub(crate) struct Before(Vec<(Arc<Container>, Limits)>);

impl Others {
    /// What two plugins want of one container adds up. `own` is what they are asked about.
    pub(super) fn take(
        &mut self,
        updates: Vec<api::ContainerUpdate>,
        plugin: &str,
        own: &str,
    ) -> Result<(), NriError> {
        for update in updates {
            if update.container_id == own {
                let why = format!(
                    "plugin {plugin} wants to update it while it is made: it can adjust it"
                );
                return Err(NriError::Update(update.container_id, why));
            }
            self.updates.push((plugin.to_owned(), update));
        }
        Ok(())
    }

    pub(super) fn evict(&mut self, evictions: Vec<api::ContainerEviction>, plugin: &str) {
        if !evictions.is_empty() {
            self.evictions.push((plugin.to_owned(), evictions));
        }
    }

    pub(super) fn list(&self) -> Vec<api::ContainerUpdate> {
        let updates = self.updates.iter();
        updates.map(|(_, update)| update.clone()).collect()
    }
}

impl Nri {
    /// Changes others: all of them, but for those whose plugins do not mind, or none.
    pub(crate) async fn change(&self, others: &Others) -> Result<Before, NriError> {
        let mut before = Before::default();
        for (plugin, update) in &others.updates {
            match self.apply_update(update).await {
                Ok(had) => before.0.extend(had),
                Err(why) if update.ignore_failure => tracing::info!(
                    plugin,
                    container = update.container_id,
                    why,
                    "a plugin cannot change a container, and does not mind"
                ),
                Err(why) => {
                    self.give_back(before).await;
                    return Err(NriError::Update(update.container_id.clone(), why));
                }
            }
        }
        Ok(before)
    }

    /// What they were changed for has come to nothing.
    pub(crate) async fn give_back(&self, before: Before) {
        let Some(runtime) = self.runtime() else {
            return;
        };
        for (container, had) in before.0.into_iter().rev() {
            if let Err(error) = container::update_for_plugin(&runtime, &container, had).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(container = %container.id, error, "a container does not get its limits back");
            }
        }
    }

    /// Ends others: what they make room for is there.
    pub(crate) fn end(&self, others: Others) {
        for (plugin, evictions) in others.evictions {
            self.evict(&plugin, evictions);
        }
    }
}
