//! Handlers: who makes the containers of a pod. `native` is the core in the pod's own supervisor; the others are command lines that the
//! configuration names.
//!
//! A pod keeps what it was made with, in its record and in its supervisor's memory: the configuration may change, and the daemon may go,
//! and nothing is asked about a pod's handler again.

mod bundle;
mod probe;
mod trial;

use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use oci_plan::FdSlot;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use supervisor_api::{OciRuntime, RequestBody};

pub(crate) use bundle::{BundleError, make_places, write_bundle, write_process};
pub(crate) use probe::Probe;
use trial::Trial;
pub(crate) use trial::{Outcome, Program, Proven};

use crate::{
    config::{Config, KernelOf, NATIVE, RuntimeKind, RuntimeSettings},
    id::PodId,
    state::Records,
    supervisor::Executable,
};

/// What is known of the handlers.
#[derive(Debug, Default)]
pub(crate) struct Handlers {
    probes: Mutex<BTreeMap<String, Arc<Probe>>>,
    trials: Mutex<BTreeMap<String, Trial>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A handler as a pod is made with it. `None` in a pod's record: the embedded core.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MadeWith {
    pub(crate) name: String,
    pub(crate) settings: RuntimeSettings,
    /// Its `exec` knows `--cgroup`.
    pub(crate) exec_cgroup: bool,
    /// It loads seccomp profiles. So did all that records of an earlier version are of.
    #[serde(default = "yes")]
    pub(crate) seccomp: bool,
    /// Each container is in a sandbox of its own, with a kernel of its own.
    #[serde(default)]
    pub(crate) own_kernel: bool,
    /// Its execs stay outside a user namespace that its containers are in.
    #[serde(default)]
    pub(crate) exec_outside: bool,
    /// It gives containers memory policies.
    #[serde(default)]
    pub(crate) memory_policy: bool,
}

fn yes() -> bool {
    true
}

/// Who carries what a pod's containers send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stack {
    /// The pod's network namespace.
    Namespace,
    /// A kernel of their own, by the interfaces of the namespace.
    Own,
    /// The same, and without any interface.
    Loopback,
}

#[derive(Debug, thiserror::Error)]
#[error(
    "runtime_handler {asked:?} is not configured: use {}, or leave it empty",
    list(known)
)]
pub(crate) struct UnknownHandler {
    asked: String,
    known: Vec<String>,
}

fn list(known: &[String]) -> String {
    let quoted: Vec<_> = known.iter().map(|name| format!("{name:?}")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("one of {} and {last}", others.join(", ")),
        None => String::new(),
    }
}

impl Handlers {
    /// Names and settings of all of them; the one that is always there first.
    pub(crate) fn all(config: &Config) -> Vec<(String, RuntimeSettings)> {
        let native = (NATIVE.to_owned(), RuntimeSettings::default());
        let configured = config.runtimes.get();
        let configured = configured.0.iter();
        std::iter::once(native)
            .chain(configured.map(|(name, settings)| (name.clone(), settings.clone())))
            .collect()
    }

    /// What a pod that asks for a handler is made with.
    pub(crate) fn choose(
        &self,
        config: &Config,
        asked: &str,
    ) -> Result<Option<MadeWith>, UnknownHandler> {
        let default = config.default_handler.get();
        let name = if asked.is_empty() {
            default.as_str()
        } else {
            asked
        };
        let all = Self::all(config);
        let Some((_, settings)) = all.iter().find(|(known, _)| known == name) else {
            return Err(UnknownHandler {
                asked: name.to_owned(),
                known: all.into_iter().map(|(known, _)| known).collect(),
            });
        };
        match settings.kind {
            RuntimeKind::Native => Ok(None),
            RuntimeKind::Oci => {
                let probe = self.probed(name);
                let probe = probe.as_deref();
                let tried = self.outcome(name, settings).flatten().unwrap_or_default();
                Ok(Some(MadeWith {
                    name: name.to_owned(),
                    settings: settings.clone(),
                    exec_cgroup: probe.is_some_and(Probe::exec_cgroup),
                    seccomp: probe.is_some_and(|probe| probe.seccomp),
                    own_kernel: probe.is_some_and(Probe::own_kernel),
                    exec_outside: tried.exec_outside || probe.is_some_and(Probe::exec_outside),
                    memory_policy: probe.is_some_and(Probe::memory_policy),
                }))
            }
        }
    }

    /// The last that was found out about a handler of kind `oci`.
    pub(crate) fn probed(&self, name: &str) -> Option<Arc<Probe>> {
        lock(&self.probes).get(name).cloned()
    }

    /// Looks at every handler of kind `oci` anew, at all of them at once. Bounded; one that hangs is known to hang.
    pub(crate) async fn probe(&self, executable: &Arc<Executable>, config: &Config) {
        let external = Self::all(config)
            .into_iter()
            .filter(|(_, settings)| settings.kind == RuntimeKind::Oci);
        let looks: Vec<_> = external
            .map(|(name, settings)| {
                let executable = Arc::clone(executable);
                let look = tokio::spawn(async move { Probe::run(&executable, &settings).await });
                (name, look)
            })
            .collect();
        let mut found = BTreeMap::new();
        for (name, look) in looks {
            if let Ok(probe) = look.await {
                if let Some(trouble) = &probe.trouble {
                    tracing::warn!(handler = name, trouble, "a handler is in trouble");
                }
                found.insert(name, Arc::new(probe));
            }
        }
        *lock(&self.probes) = found;
    }
}

impl MadeWith {
    /// Whether the pod's containers run in one sandbox, on its kernel.
    pub(crate) fn has_sandbox(&self) -> bool {
        self.own_kernel && self.settings.kernel_of() == KernelOf::Pod
    }

    /// Where its containers' network stack is.
    pub(crate) fn stack(&self) -> Stack {
        match self.settings.network() {
            _ if !self.own_kernel => Stack::Namespace,
            Some("host") => Stack::Namespace,
            Some("none") => Stack::Loopback,
            Some(_) | None => Stack::Own,
        }
    }

    /// The request that makes a supervisor use it, with its descriptors.
    pub(crate) fn request(
        &self,
        records: &Records,
        id: &PodId,
        pod: &Path,
    ) -> std::io::Result<(RequestBody, Vec<OwnedFd>)> {
        let program = self.settings.path.clone().unwrap_or_default();
        let runtime = OciRuntime {
            handler: self.name.clone(),
            program: text(&program),
            options: self.settings.options.clone(),
            bundles: text(records.bundles()),
            exec_cgroup: self.exec_cgroup,
            sandbox: self.has_sandbox().then(|| id.to_string()),
        };
        let open = |path: &Path, flags: OFlags| {
            rustix::fs::open(
                path,
                flags | OFlags::RDONLY | OFlags::CLOEXEC,
                Mode::empty(),
            )
        };
        let descriptors = vec![
            open(Path::new("/proc/self/ns/mnt"), OFlags::empty())?,
            open(pod, OFlags::DIRECTORY)?,
        ];
        let request = RequestBody::UseRuntime {
            runtime,
            mounts: FdSlot(0),
            directory: FdSlot(1),
        };
        Ok((request, descriptors))
    }
}

/// Paths of the configuration are text.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// What the bundle of a container is made of and for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// No score below it can be given; `None`: any can.
    pub(crate) least_oom_score: Option<i32>,
    /// Hard limits cannot be raised.
    pub(crate) may_raise: bool,
}

pub(crate) fn bundles(state: &Path) -> PathBuf {
    state.join("bundles")
}
