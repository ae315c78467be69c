//! A container of a pod.
//!
//! ```text
//!        CreateContainer            StartContainer               it ends
//!  (record) ──▶ Creating ──▶ Created ─────────────▶ Running ───────────────▶ Exited ──▶ Removing ──▶ (gone)
//!                  │            │  its program cannot run (StartError)          ▲           ▲
//!                  ▼            ├───────────────────────────────────────────────┤           │
//!              (undone)         └── StopContainer, or its pod stops or is lost ─┘    RemoveContainer
//! ```
//!
//! `Creating` owns a record, a pin on its image, a writable layer with its volumes, and an init that waits in the supervisor; undoing takes
//! them apart from the end. A container is listed from `Created` on. After a restart of the daemon `Creating` is undone and `Removing` taken up
//! again; which of `Created`, `Running` and `Exited` it is, its supervisor knows, or its exit record where the supervisor has gone.
//!
//! As with pods, an operation that changes a container holds its turn, and everything else reads the published [`Phase`].

mod adjust;
mod attach;
mod awaited;
pub(crate) mod config;
mod create;
mod denied;
mod devices;
mod exec;
mod exec_sync;
mod exit;
mod found;
mod further;
mod hooks;
mod images;
mod limit;
mod log;
mod mounts;
mod net_devices;
mod outside;
mod place;
mod relabel;
mod remove;
mod start;
mod stop;
mod update;
mod volumes;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError, atomic::AtomicBool},
};

pub(crate) use attach::{AttachError, Attachment, attach, check_attach};
pub(crate) use awaited::Awaited;
pub(crate) use create::{CreateError, create, mapping_root, slot, user_namespace};
use denied::Denied;
pub(crate) use denied::denied;
pub(crate) use devices::DevicesError;
pub(crate) use exec::{
    Command, ExecEnd, ExecError, Running, begin as begin_exec, check_exec, pipe,
};
pub(crate) use exec_sync::exec_sync;
pub(crate) use exit::{Exit, exited};
pub(crate) use further::Further;
pub(crate) use hooks::HookError;
use images::Sources;
pub(crate) use images::pin_holder;
pub(crate) use limit::LimitError;
pub(crate) use log::{LogError, reopen};
pub(crate) use mounts::MountError;
pub(crate) use net_devices::{NetDevicesError, return_devices, take_back as take_devices_back};
use oci_spec::runtime::Spec;
pub(crate) use outside::OutsideError;
#[cfg(test)]
pub(crate) use outside::planned;
pub(crate) use place::PlaceError;
pub(crate) use remove::{RemoveError, remove, remove_cgroup};
pub(crate) use start::{StartError, start};
pub(crate) use stop::{StopError, stop};
use supervisor_api::ContainerStatus;
use tokio::{
    sync::{MutexGuard, watch},
    task::JoinHandle,
    time::Instant,
};
pub(crate) use update::{UpdateError, in_force, update, update_for_plugin};
pub(crate) use volumes::{root as volumes_root, sweep as sweep_volumes};

use crate::{
    container::config::ContainerConfig,
    flight,
    id::ContainerId,
    nri::Limits,
    pod::{Pod, config::LinuxResources},
    runtime::{BlockingError, DISK_BOUND, Runtime},
    spec::{Signal, User},
    state::{ContainerRecord, RecordError, Records},
};

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: ContainerId,
    pub(crate) pod: Arc<Pod>,
    pub(crate) config: ContainerConfig,
    pub(crate) created_at_ns: i64,
    pub(crate) image_id: String,
    pub(crate) image_ref: String,
    /// Ids of the images that it mounts, by their mounts' position.
    pub(crate) volume_images: BTreeMap<usize, String>,
    /// Where it is by itself.
    own_cgroup: String,
    /// Where it is otherwise.
    placed: OnceLock<String>,
    pub(crate) log_path: Option<PathBuf>,
    phase: watch::Sender<Phase>,
    record: Mutex<ContainerRecord>,
    turn: tokio::sync::Mutex<()>,
    /// When the stop in progress kills; a later request may only bring it forward.
    stop_by: watch::Sender<Option<Instant>>,
    /// What it is made from, until it is made.
    sources: Mutex<Option<Sources>>,
    /// Its undoing failed: whoever wants its name, or removes its pod, tries again.
    remains: AtomicBool,
    /// A step of its making that its maker gave up on, and that may still be making things.
    straggler: Mutex<Option<JoinHandle<()>>>,
    /// Set once plugins have been told that it has ended, or need not be.
    pub(crate) end_told: tokio::sync::OnceCell<()>,
    /// Read from the disk by the first exec after a restart.
    spec: Mutex<Option<Arc<Spec>>>,
    denied: Mutex<Denied>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    Creating,
    Created { pid: i32 },
    Running { pid: i32, started_at_ns: i64 },
    Exited(Arc<Exit>),
    Removed,
}

/// The right to change a container.
pub(crate) type Turn<'a> = MutexGuard<'a, ()>;

impl Container {
    pub(crate) fn new(record: ContainerRecord, pod: Arc<Pod>, phase: Phase) -> Self {
        Self {
            id: record.id.clone(),
            pod,
            config: record.config.clone(),
            created_at_ns: record.created_at_ns,
            image_id: record.image_id.clone(),
            image_ref: record.image_ref.clone(),
            volume_images: record.volume_images.clone(),
            own_cgroup: record.cgroup.clone(),
            placed: OnceLock::new(),
            log_path: record.log_path.clone(),
            phase: watch::Sender::new(phase),
            record: Mutex::new(record),
            turn: tokio::sync::Mutex::new(()),
            stop_by: watch::Sender::new(None),
            sources: Mutex::new(None),
            remains: AtomicBool::new(false),
            straggler: Mutex::new(None),
            end_told: tokio::sync::OnceCell::new(),
            spec: Mutex::new(None),
            denied: Mutex::default(),
        }
    }

    /// Its cgroup, which a plugin may have chosen.
    pub(crate) fn cgroup(&self) -> &str {
        self.placed.get().unwrap_or(&self.own_cgroup)
    }

    /// Once, before it is made, under the inventory's lock.
    pub(crate) fn place(&self, path: &str) {
        let _placed = self.placed.set(path.to_owned());
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    pub(crate) fn has_exited(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Exited(_) | Phase::Removed)
    }

    /// What a restarted daemon found it to be.
    pub(crate) fn recovered(&self, phase: Phase) {
        if let Phase::Exited(_) = phase {
            // Whoever was told of it before was told of its end, and who comes now is not told of it at all.
            let _told = self.end_told.set(());
        }
        self.phase.send_replace(phase);
    }

    /// Completes when the container has exited, at once if it has.
    pub(crate) async fn exited(&self) {
        let mut phase = self.phase.subscribe();
        // The sender lives in `self`: the wait cannot fail.
        let _exited = phase
            .wait_for(|p| matches!(p, Phase::Exited(_) | Phase::Removed))
            .await;
    }

    /// 0 if it never ran.
    pub(crate) fn started_at_ns(&self) -> i64 {
        match &*self.phase.borrow() {
            Phase::Running { started_at_ns, .. } => *started_at_ns,
            Phase::Exited(exit) => exit.started_at_ns,
            Phase::Creating | Phase::Created { .. } | Phase::Removed => 0,
        }
    }

    pub(crate) async fn turn(&self) -> Turn<'_> {
        flight::stage("wait until nobody else changes the container");
        self.turn.lock().await
    }

    pub(crate) fn record(&self) -> ContainerRecord {
        self.record
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The user that its init runs as, once that is known.
    pub(crate) fn user(&self) -> Option<User> {
        self.record
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .user
            .clone()
    }

    /// Whether it has hooks.
    fn is_hooked(&self) -> bool {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.hooked
    }

    /// Whether its pod is lent devices of the node's network for it.
    fn has_net_devices(&self) -> bool {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.net_devices
    }

    /// What asks it to end: the request's signal, the image's, or SIGTERM.
    pub(crate) fn stop_signal(&self) -> Signal {
        let image = || {
            let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
            record.image_stop_signal
        };
        self.config
            .stop_signal
            .or_else(image)
            .unwrap_or(Signal::TERM)
    }

    fn sources(&self) -> Option<Sources> {
        self.sources
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_sources(&self, sources: Option<Sources>) {
        *self.sources.lock().unwrap_or_else(PoisonError::into_inner) = sources;
    }

    /// Whether clients have been told of it, and not yet of its end.
    pub(crate) fn is_told(&self) -> bool {
        matches!(
            *self.phase.borrow(),
            Phase::Created { .. } | Phase::Running { .. }
        )
    }

    /// Takes in what its supervisor says it is now.
    pub(crate) fn reconcile(self: &Arc<Self>, runtime: &Runtime, status: &ContainerStatus) {
        match status {
            ContainerStatus::Created { .. } => {}
            ContainerStatus::Running { pid, started_at_ns } => {
                self.started(runtime, *pid, *started_at_ns);
            }
            ContainerStatus::Exited(exit) => self.take_exit(runtime, exit),
        }
    }

    /// Leaves a step behind that did not end within its bound.
    fn leave(&self, straggler: JoinHandle<()>) {
        *self
            .straggler
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(straggler);
    }

    /// Waits, bounded, until nothing of its making is under way any more: what is taken apart before that would be made again.
    async fn landed(&self) -> Result<(), BlockingError> {
        let straggler = self
            .straggler
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(mut straggler) = straggler else {
            return Ok(());
        };
        match tokio::time::timeout(DISK_BOUND, &mut straggler).await {
            Ok(_ended_or_panicked) => Ok(()),
            Err(_elapsed) => {
                self.leave(straggler);
                Err(BlockingError::Stuck(DISK_BOUND))
            }
        }
    }

    /// Notes how far its end has come. A record that cannot be written (a full disk) keeps nobody from deleting: the one that is there
    /// leads here again.
    fn note(&self, turn: &Turn<'_>, records: &Records, change: impl Fn(&mut ContainerRecord)) {
        if let Err(error) = self.update(turn, records, &change) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(container = %self.id, error, "the container goes on without its record");
            change(&mut self.record.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Changes the record, on disk first. The turn serialises writers, so the lock is not held while writing.
    fn update(
        &self,
        _turn: &Turn<'_>,
        records: &Records,
        change: impl FnOnce(&mut ContainerRecord),
    ) -> Result<(), RecordError> {
        let mut record = self.record();
        change(&mut record);
        records.save_container(&record)?;
        *self.record.lock().unwrap_or_else(PoisonError::into_inner) = record;
        Ok(())
    }

    /// Its OCI specification, as its init got it but for resources that have been changed since.
    pub(crate) fn spec(&self, records: &Records) -> Result<Arc<Spec>, RecordError> {
        let kept = || self.spec.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(spec) = &*kept() {
            return Ok(Arc::clone(spec));
        }
        let spec = Arc::new(records.load_spec(&self.pod.id, &self.id)?);
        // One that was changed meanwhile is the newer one.
        Ok(Arc::clone(kept().get_or_insert(spec)))
    }

    fn set_spec(&self, spec: Spec) {
        *self.spec.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(spec));
    }

    /// The limits in force.
    pub(crate) fn resources(&self) -> LinuxResources {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = record.resources.as_ref();
        changed.unwrap_or(&self.config.linux.resources).clone()
    }

    /// The same, with what only plugins know.
    pub(crate) fn limits(&self, records: &Records) -> Limits {
        let spec = self.spec(records).ok();
        let linux = spec.as_ref().and_then(|spec| spec.linux().as_ref());
        let resources = linux.and_then(|linux| linux.resources().as_ref());
        let pids = resources.and_then(|resources| resources.pids().as_ref());
        Limits {
            asked: self.resources(),
            pids: pids.map(|pids| pids.limit()),
            further: spec.as_deref().map(Further::of).unwrap_or_default(),
        }
    }
}
