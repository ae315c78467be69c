//! A pod sandbox: the namespaces, network and supervisor that its containers share.
//!
//! ```text
//!            RunPodSandbox                       StopPodSandbox        RemovePodSandbox
//!  (record) ──▶ Starting ────────────▶ Ready ──▶ Stopping ──▶ Stopped ──▶ Removing ──▶ (gone)
//!                  │                     │          ▲                        ▲
//!                  │ a stage fails       │          │                        │
//!                  ▼                     └─▶ Lost ──┴── (RemovePodSandbox stops first)
//!               (undone)            the supervisor hung up
//! ```
//!
//! `Starting` owns, in this order, a record, a supervisor with the pod's namespaces, and an attachment to the network
//! ([`run()`]); undoing reads backwards. A pod is listed from `Ready` on. `Lost` and everything after it is CRI's
//! `SANDBOX_NOTREADY`. After a restart of the daemon, `Starting` is undone, `Ready` is redialled (and becomes `Lost` where nobody
//! answers), `Stopping` and `Removing` are taken up again.
//!
//! One operation at a time changes a pod: it holds the pod's turn. Nothing else waits for a turn; lists and statuses read the
//! published [`Phase`].

mod bare_root;
pub(crate) mod config;
mod dial;
mod files;
mod lost;
mod network;
mod network_request;
mod parent;
mod remove;
mod run;
mod sandbox_container;
mod scope;
mod stop;
mod trial;
mod update;

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

pub(crate) use dial::{Dialled, dial, end_unknown};
pub(crate) use files::{FilesError, PodFiles, hostname};
pub(crate) use lost::{
    KillError, ended, exit_known, follow, kill_cgroup, lose, settle_container, settle_containers,
};
pub(crate) use network::NetworkError;
pub(crate) use remove::{RemoveError, remove};
pub(crate) use run::{RunError, run};
pub(crate) use sandbox_container::SandboxError;
pub(crate) use stop::{StopError, stop};
use supervisor_api::AttachEnd;
use tokio::sync::{MutexGuard, watch};
pub(crate) use trial::{Occasion, try_handlers};
pub(crate) use update::{UpdateError, update};

use crate::{
    container::{Awaited, ExecEnd},
    flight,
    handlers::MadeWith,
    id::PodId,
    pod::config::PodConfig,
    selinux::{HeldLevel, PodLabels},
    state::{NetworkRecord, PodRecord, PodResources, RecordError, Records},
    supervisor::Link,
};

/// A pod sandbox.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) id: PodId,
    pub(crate) config: PodConfig,
    pub(crate) handler: String,
    /// The external runtime that makes its containers, where one does.
    pub(crate) made_with: Option<MadeWith>,
    pub(crate) created_at_ns: i64,
    pub(crate) directory: PathBuf,
    pub(crate) cgroup_parent: String,
    phase: watch::Sender<Phase>,
    record: Mutex<PodRecord>,
    link: Mutex<Option<Arc<Link>>>,
    /// Its SELinux categories are its own as long as it is.
    _level: Option<HeldLevel>,
    turn: tokio::sync::Mutex<()>,
    pub(crate) execs: Awaited<ExecEnd>,
    pub(crate) attaches: Awaited<AttachEnd>,
}

/// What a pod is to the outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    Starting,
    Ready,
    /// Its supervisor is gone; the reason is for people.
    Lost {
        reason: String,
    },
    /// Its processes are being ended, and its supervisor with them.
    Stopping {
        reason: Option<String>,
    },
    Stopped {
        reason: Option<String>,
    },
    Removed,
}

/// The right to change a pod.
pub(crate) type Turn<'a> = MutexGuard<'a, ()>;

impl Pod {
    pub(crate) fn new(
        record: PodRecord,
        directory: PathBuf,
        phase: Phase,
        level: Option<HeldLevel>,
    ) -> Self {
        Self {
            id: record.id.clone(),
            config: record.config.clone(),
            handler: record.handler.clone(),
            made_with: record.made_with.clone(),
            created_at_ns: record.created_at_ns,
            directory,
            cgroup_parent: record.cgroup_parent.clone(),
            phase: watch::Sender::new(phase),
            record: Mutex::new(record),
            link: Mutex::new(None),
            _level: level,
            turn: tokio::sync::Mutex::new(()),
            execs: Awaited::default(),
            attaches: Awaited::default(),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    pub(crate) fn is_ready(&self) -> bool {
        *self.phase.borrow() == Phase::Ready
    }

    /// Completes when the pod is not ready (any more).
    pub(crate) async fn ended(&self) {
        let mut phase = self.phase.subscribe();
        // The sender lives in `self`: the wait cannot fail.
        let _ended = phase.wait_for(|phase| *phase != Phase::Ready).await;
    }

    fn set_phase(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// The way to the supervisor; `None` when there is none (any more).
    pub(crate) fn link(&self) -> Option<Arc<Link>> {
        self.link
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn set_link(&self, link: Option<Arc<Link>>) {
        *self.link.lock().unwrap_or_else(PoisonError::into_inner) = link;
    }

    pub(crate) async fn turn(&self) -> Turn<'_> {
        flight::stage("wait until nobody else changes the pod");
        self.turn.lock().await
    }

    pub(crate) fn record(&self) -> PodRecord {
        self.record
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Notes how far its end has come. A record that cannot be written (a full disk) keeps nobody from deleting: the one that is there
    /// leads here again.
    fn note(&self, turn: &Turn<'_>, records: &Records, change: impl Fn(&mut PodRecord)) {
        if let Err(error) = self.update(turn, records, &change) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(pod = %self.id, error, "the pod goes on without its record");
            change(&mut self.record.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Changes the record, on disk first. The turn serialises writers, so the lock is not held while writing.
    fn update(
        &self,
        _turn: &Turn<'_>,
        records: &Records,
        change: impl FnOnce(&mut PodRecord),
    ) -> Result<(), RecordError> {
        let mut record = self.record();
        change(&mut record);
        records.save_pod(&record)?;
        *self.record.lock().unwrap_or_else(PoisonError::into_inner) = record;
        Ok(())
    }

    /// What the kubelet says that the pod costs and may use.
    pub(crate) fn resources(&self) -> PodResources {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.resources.clone().unwrap_or_else(|| PodResources {
            overhead: self.config.linux.overhead.clone(),
            resources: self.config.linux.resources.clone(),
        })
    }

    /// Its configuration, with what has been changed since.
    pub(crate) fn current_config(&self) -> PodConfig {
        let now = self.resources();
        let mut config = self.config.clone();
        config.linux.overhead = now.overhead;
        config.linux.resources = now.resources;
        config
    }

    pub(crate) fn network(&self) -> Option<NetworkRecord> {
        self.record
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .network
            .clone()
    }

    /// The pod's addresses, the primary one first; empty on the host's network.
    pub(crate) fn ips(&self) -> Vec<IpAddr> {
        self.network()
            .map(|network| network.ips)
            .unwrap_or_default()
    }

    /// SELinux labels of its containers and files; `None` where it has none.
    pub(crate) fn labels(&self) -> Option<PodLabels> {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.labels.clone()
    }

    /// The pod's own cgroup, beside its containers'.
    pub(crate) fn cgroup(&self) -> String {
        join_cgroup(&self.cgroup_parent, self.id.as_str())
    }

    /// That of its sandbox container, where its runtime wants one.
    pub(crate) fn sandbox_cgroup(&self) -> String {
        join_cgroup(&self.cgroup_parent, &format!("{}-sandbox", self.id))
    }

    /// The last that its supervisor wrote to its diagnostics, for the log.
    fn last_words(&self) -> String {
        const BYTES: usize = 2048;
        let words = std::fs::read(self.directory.join("supervisor.log")).unwrap_or_default();
        let tail = &words[words.len().saturating_sub(BYTES)..];
        String::from_utf8_lossy(tail).trim().to_owned()
    }

    pub(crate) fn files(&self) -> PodFiles {
        PodFiles::new(&self.directory)
    }
}

/// `parent/name`, relative to each hierarchy's root, as plans and the `cgroup` crate have it.
pub(crate) fn join_cgroup(parent: &str, name: &str) -> String {
    format!("{}/{name}", parent.trim_matches('/'))
        .trim_start_matches('/')
        .to_owned()
}
