//! What is attached, and the work on it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use sys::Durability;

use super::config::Network;
use super::error::{AttachError, PluginError};
use super::journal::{Record, Stage};
use super::{Plugins, chain, lock, neighbours, pin, process, result};
use crate::builtin::is_valid_id;
use crate::records::RecordError;

/// In the pod.
const INTERFACE: &str = "eth0";

/// Between tries of what has failed; doubled each time, up to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// A pod to be attached.
#[derive(Debug, Clone)]
pub struct AttachRequest {
    pub id: String,
    /// Where its network namespace is pinned. The pin goes with the attachment, when DEL has succeeded.
    pub netns: PathBuf,
    /// Pairs for `CNI_ARGS`.
    pub arguments: Vec<(String, String)>,
    /// By capability, what a plugin that has it is told as `runtimeConfig`.
    pub capabilities: Map<String, Value>,
}

/// A pod's place in the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    pub network: String,
    /// Of `eth0`, in the plugins' order; never none.
    pub ips: Vec<IpAddr>,
}

/// How far a detach has come.
#[derive(Debug, Clone)]
pub enum Detached {
    /// Nothing is left.
    Done,
    /// DEL has failed, and is tried again in the background until it succeeds.
    Later(Arc<DetachError>),
}

/// Why a pod is not detached yet.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DetachError {
    #[error(transparent)]
    Plugin(#[from] PluginError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Pin(#[from] super::PinError),
}

#[derive(Debug)]
pub(super) struct Entry {
    record: Record,
    /// Held by who runs plugins for it.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// How often DEL has failed, and why the last time.
    failures: u32,
    failure: Option<Arc<DetachError>>,
    /// Somebody in the background tries again.
    retried: bool,
    /// What CHECK has found.
    unsound: Option<PluginError>,
}

impl Entry {
    pub(super) fn new(record: Record) -> Entry {
        Entry {
            record,
            turn: Arc::default(),
            failures: 0,
            failure: None,
            retried: false,
            unsound: None,
        }
    }
}

impl Plugins {
    /// Runs ADD. After a failure, and after a cancellation, which kills a plugin that runs, part of it may have been done: detach.
    pub async fn attach(&self, request: AttachRequest) -> Result<Attachment, AttachError> {
        if !is_valid_id(&request.id) {
            return Err(AttachError::InvalidId { id: request.id });
        }
        let arguments = arguments(&request.arguments)?;
        let network = match self.network() {
            Ok(Some(network)) => network,
            Ok(None) => {
                let reason = "there is no configuration".to_owned();
                return Err(AttachError::NotReady { reason });
            }
            Err(reason) => return Err(AttachError::NotReady { reason }),
        };
        let (mut record, turn) = {
            let mut entries = lock(&self.shared.entries);
            if entries.contains_key(&request.id) {
                return Err(AttachError::Taken { id: request.id });
            }
            let sequences = entries.values().map(|entry| entry.record.sequence);
            let record = Record {
                id: request.id,
                boot_id: self.shared.journal.records.boot_id().to_owned(),
                sequence: sequences.max().unwrap_or(0) + 1,
                stage: Stage::Adding,
                interface: INTERFACE.to_owned(),
                netns: request.netns,
                network: Network::clone(&network),
                arguments,
                capabilities: request.capabilities,
                result: None,
            };
            let entry = Entry::new(record.clone());
            let turn = Arc::clone(&entry.turn);
            entries.insert(record.id.clone(), entry);
            (record, turn)
        };
        let _turn = turn.lock().await;
        // What plugins keep on disk may outlive a power cut, so the record must.
        if let Err(error) = self.write(&record, Durability::Power).await {
            lock(&self.shared.entries).remove(&record.id);
            return Err(error.into());
        }
        let result = chain::add(&self.shared.runner, &record).await?;
        let ips = result::addresses(&result, INTERFACE);
        record.result = Some(result);
        record.stage = Stage::Added;
        self.write(&record, Durability::Process).await?;
        let attachment = Attachment {
            network: record.network.name.clone(),
            ips,
        };
        let no_address = || AttachError::NoAddress {
            network: record.network.name.clone(),
            interface: INTERFACE.to_owned(),
            result: process::words(
                record
                    .result
                    .as_ref()
                    .map(Value::to_string)
                    .unwrap_or_default()
                    .as_bytes(),
            ),
        };
        let error = attachment.ips.is_empty().then(no_address);
        if let Some(entry) = lock(&self.shared.entries).get_mut(&record.id) {
            entry.record = record;
        }
        error.map_or(Ok(attachment), Err)
    }

    /// Runs DEL and removes the namespace's pin; an unknown id is fine. Waits for work on the attachment that is under way. When DEL fails, it
    /// is tried again in the background: nobody need call again.
    pub async fn detach(&self, id: &str) -> Detached {
        let Some(turn) = self.turn_of(id) else {
            return Detached::Done;
        };
        let result = {
            let _turn = turn.lock().await;
            self.try_detach(id).await
        };
        match result {
            Ok(()) => Detached::Done,
            Err(error) => {
                self.retry(id, FIRST_PAUSE);
                Detached::Later(error)
            }
        }
    }

    /// At start: detaches in the background what is not `live` or was half attached or half detached, CHECKs the others, and has plugins
    /// collect what is not on record.
    ///
    /// GC is run on networks only on which we have attached something, and is told of what other runtimes are known to have.
    pub fn collect(&self, live: &BTreeSet<String>) {
        let mut records: Vec<Record> = {
            let entries = lock(&self.shared.entries);
            entries.values().map(|entry| entry.record.clone()).collect()
        };
        records.sort_by_key(|record| record.sequence);
        let mut kept = Vec::new();
        for record in &records {
            match live.contains(&record.id) && record.stage == Stage::Added {
                true => kept.push(record.id.clone()),
                false => self.retry(&record.id, Duration::ZERO),
            }
        }
        let plugins = self.clone();
        tokio::spawn(async move {
            plugins.collect_garbage(&records).await;
            for id in kept {
                plugins.check(&id).await;
            }
        });
    }

    /// What an operator should know, a sentence each. From memory.
    #[must_use]
    pub fn conditions(&self) -> Vec<String> {
        let entries = lock(&self.shared.entries);
        let of = |entry: &Entry| {
            let id = &entry.record.id;
            let failure = entry.failure.as_ref().map(|error| {
                format!(
                    "{id} is not detached yet, after {} tries: {error}",
                    entry.failures
                )
            });
            let unsound = entry.unsound.as_ref();
            failure
                .or(unsound.map(|error| format!("{id} is not attached as it should be: {error}")))
        };
        entries.values().filter_map(of).collect()
    }

    fn turn_of(&self, id: &str) -> Option<Arc<tokio::sync::Mutex<()>>> {
        let entries = lock(&self.shared.entries);
        entries.get(id).map(|entry| Arc::clone(&entry.turn))
    }

    /// With the turn. Each step does nothing where there is nothing to do.
    async fn try_detach(&self, id: &str) -> Result<(), Arc<DetachError>> {
        let record = match lock(&self.shared.entries).get_mut(id) {
            None => return Ok(()),
            Some(entry) => {
                entry.record.stage = Stage::Deleting;
                entry.record.clone()
            }
        };
        // Undoing must work on a full disk, and an old record leads here again.
        if let Err(error) = self.write(&record, Durability::Process).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(id, error, "detaching all the same");
        }
        let result = self.delete(&record).await.map_err(Arc::new);
        let mut entries = lock(&self.shared.entries);
        match &result {
            Ok(()) => drop(entries.remove(id)),
            Err(error) => {
                tracing::warn!(id, %error, "detach");
                if let Some(entry) = entries.get_mut(id) {
                    entry.failures += 1;
                    entry.failure = Some(Arc::clone(error));
                }
            }
        }
        result
    }

    async fn delete(&self, record: &Record) -> Result<(), DetachError> {
        chain::delete(&self.shared.runner, record).await?;
        // Plugins need the namespace, where it is: so it goes after them.
        pin::unpin(&record.netns)?;
        self.shared.journal.remove(&record.id)?;
        Ok(())
    }

    /// Tries again for as long as it takes, unless somebody does already.
    fn retry(&self, id: &str, first_pause: Duration) {
        match lock(&self.shared.entries).get_mut(id) {
            Some(entry) if !entry.retried => entry.retried = true,
            Some(_) | None => return,
        }
        let (plugins, id) = (self.clone(), id.to_owned());
        tokio::spawn(async move {
            let mut pause = first_pause;
            while let Some(turn) = plugins.turn_of(&id) {
                tokio::time::sleep(pause).await;
                let _few = plugins.shared.background.acquire().await;
                let _turn = turn.lock().await;
                if plugins.try_detach(&id).await.is_ok() {
                    return;
                }
                pause = (pause * 2).clamp(FIRST_PAUSE, LAST_PAUSE);
            }
        });
    }

    async fn collect_garbage(&self, records: &[Record]) {
        let mut done = BTreeSet::new();
        // The newest record has the newest configuration.
        for record in records.iter().rev() {
            let network = match self.network() {
                Ok(Some(now)) if now.name == record.network.name => Network::clone(&now),
                Ok(_) | Err(_) => record.network.clone(),
            };
            if !done.insert(network.name.clone())
                || network.disable_gc
                || !network.version.has_gc_and_status()
            {
                continue;
            }
            let mut valid = neighbours::attached(&self.shared.config.neighbours, &network.name);
            {
                let entries = lock(&self.shared.entries);
                let ours = entries.values().map(|entry| &entry.record);
                let ours = ours.filter(|record| record.network.name == network.name);
                valid.extend(ours.map(|record| (record.id.clone(), record.interface.clone())));
            }
            if let Err(error) = chain::collect(&self.shared.runner, &network, &valid).await {
                tracing::warn!(%error, "collect what is not on record");
            }
        }
    }

    async fn check(&self, id: &str) {
        let Some(turn) = self.turn_of(id) else { return };
        let _few = self.shared.background.acquire().await;
        let _turn = turn.lock().await;
        let record = match lock(&self.shared.entries).get(id) {
            Some(entry) if entry.record.stage == Stage::Added => entry.record.clone(),
            Some(_) | None => return,
        };
        if record.network.disable_check || !record.network.version.has_check() {
            return;
        }
        let found = chain::check(&self.shared.runner, &record).await;
        if let Err(error) = &found {
            tracing::warn!(id, %error, "a pod is not attached as it should be");
        }
        if let Some(entry) = lock(&self.shared.entries).get_mut(id) {
            entry.unsound = found.err();
        }
    }

    /// Flushing to the disk may take its time.
    async fn write(&self, record: &Record, durability: Durability) -> Result<(), RecordError> {
        let (shared, copy) = (Arc::clone(&self.shared), record.clone());
        let written = tokio::task::spawn_blocking(move || shared.journal.write(&copy, durability));
        written.await.unwrap_or_else(|panic| {
            Err(RecordError {
                doing: "write",
                path: self.shared.journal.records.path().join(&record.id),
                source: Arc::new(panic.into()),
            })
        })
    }
}

/// Pairs as `CNI_ARGS` has them, which knows no quoting.
fn arguments(pairs: &[(String, String)]) -> Result<String, AttachError> {
    let mut texts = Vec::new();
    for (key, value) in pairs {
        if value.contains([';', '=', '\0']) {
            return Err(AttachError::Argument {
                key: key.clone(),
                value: process::words(value.as_bytes()),
            });
        }
        texts.push(format!("{key}={value}"));
    }
    Ok(texts.join(";"))
}
