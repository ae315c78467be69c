//! System calls that a container's seccomp filter has denied, where its pod's annotation asks for them to be told.
//!
//! Each is counted and logged. Where the annotation says `stop`, the container is stopped once it has been denied nothing more for a while, so
//! that one run tells of all calls that its profile lacks.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use supervisor_api::DeniedCall;
use tokio::task::AbortHandle;

use super::{Container, stop};
use crate::{
    id::ContainerId,
    runtime::Runtime,
    spec::{Notifier, notifier},
};

/// As on CRI-O.
const QUIET_FOR: Duration = Duration::from_secs(5);

/// What is known of one container.
#[derive(Debug, Default)]
pub(super) struct Denied {
    calls: BTreeMap<String, u64>,
    stopping: Option<AbortHandle>,
}

/// A supervisor tells of all calls so far.
pub(crate) fn denied(runtime: &Arc<Runtime>, id: &str, calls: &[DeniedCall]) {
    let container = ContainerId::parse(id).and_then(|id| runtime.inventory.container(&id));
    let Some(container) = container else {
        return;
    };
    let mut more = false;
    let mut denied = container
        .denied
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    for call in calls {
        let name = seccomp::call_name(call.architecture, call.number);
        let name = name.map_or_else(|| format!("call {}", call.number), str::to_owned);
        let known = denied.calls.entry(name.clone()).or_default();
        let news = call.count.saturating_sub(*known);
        if news == 0 {
            continue;
        }
        more = true;
        *known = call.count;
        let count = call.count;
        tracing::info!(container = %container.id, name = container.config.metadata.name, call = name, count, "seccomp denied a system call");
        runtime.metrics.denied(&container, &name, news);
    }
    if more && matches!(notifier(&container.pod.config), Ok(Some(Notifier::Stop))) {
        if let Some(earlier) = denied.stopping.take() {
            earlier.abort();
        }
        let (runtime, container) = (Arc::clone(runtime), Arc::clone(&container));
        let stopping = tokio::spawn(async move {
            tokio::time::sleep(QUIET_FOR).await;
            // From here on it is not to be aborted.
            tokio::spawn(async move { stop_for_calls(&runtime, &container).await });
        });
        denied.stopping = Some(stopping.abort_handle());
    }
}

async fn stop_for_calls(runtime: &Arc<Runtime>, container: &Arc<Container>) {
    if container.has_exited() {
        return;
    }
    let calls = container.denied_calls();
    {
        let turn = container.turn().await;
        container.note(&turn, &runtime.records, |record| {
            record.forbidden = Some(format!("Used forbidden syscalls: {calls}"));
        });
    }
    tracing::info!(container = %container.id, calls, "stopping a container for its denied system calls");
    if let Err(error) = stop(runtime, container, Duration::ZERO).await {
        let error = &*error as &dyn std::error::Error;
        tracing::error!(container = %container.id, error, "a container is not stopped that made denied system calls");
    }
}

impl Container {
    /// `swapoff (3x), mount (1x)`.
    fn denied_calls(&self) -> String {
        let denied = self.denied.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = denied.calls.iter();
        let calls = calls.map(|(name, count)| format!("{name} ({count}x)"));
        calls.collect::<Vec<_>>().join(", ")
    }

    /// It is removed.
    pub(super) fn forget_denied(&self, runtime: &Runtime) {
        let mut denied = self.denied.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stopping) = denied.stopping.take() {
            stopping.abort();
        }
        let calls = std::mem::take(&mut denied.calls);
        runtime.metrics.forget(self, calls.keys());
    }
}
