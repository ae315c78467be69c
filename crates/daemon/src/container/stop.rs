//! StopContainer: a signal, a grace period, and then the end, within a bound.

use std::{sync::Arc, time::Duration};

use supervisor_api::RequestBody;
use tokio::time::Instant;

use super::{Container, Phase, Turn};
use crate::{
    failpoint,
    flight::{self, Crashed},
    id::ContainerId,
    pod,
    runtime::{BlockingError, DISK_BOUND, Runtime, blocking},
    spec::Signal,
};

/// How long a killed container may take until its exit is known: the kernel's work, and a bounded drain of its output. Longer
/// means a process in an uninterruptible sleep.
const DEATH_WITHIN: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
pub(crate) enum StopError {
    #[error(
        "stop container {0}: it outlives SIGKILL by {1} s: a process of it is in an uninterruptible sleep (a hung disk or network \
         file system?)"
    )]
    Undead(ContainerId, u64),
    #[error("stop container {0}: its supervisor is gone; kill its processes")]
    Orphans(ContainerId, #[source] pod::KillError),
    #[error("stop container {0}")]
    Blocking(ContainerId, #[source] BlockingError),
    #[error(transparent)]
    Crashed(#[from] Crashed),
}

/// Stops a container; one that has exited is stopped. A repeated request joins; a shorter `grace` shortens the one in progress, and 0
/// kills at once. Cancellation: the stop goes on.
pub(crate) async fn stop(
    runtime: &Arc<Runtime>,
    container: &Arc<Container>,
    grace: Duration,
) -> Result<(), Arc<StopError>> {
    container.hurry(grace);
    let joined = runtime
        .flights
        .stop_container
        .join(container.id.clone(), || {
            let (runtime, container) = (Arc::clone(runtime), Arc::clone(container));
            async move {
                let turn = container.turn().await;
                // The stop before this one may have cleared what this one asked for.
                container.hurry(grace);
                let stopped = stop_in_turn(&runtime, &container, &turn)
                    .await
                    .map_err(Arc::new);
                // A container that outlived its kill gets the whole of the next request's grace.
                container.stop_by.send_replace(None);
                runtime.nri.stop(&runtime, &container).await;
                stopped
            }
        });
    joined.await.map_err(|crashed| Arc::new(crashed.into()))?
}

impl Container {
    /// Brings the end of the grace period forward, never back.
    pub(super) fn hurry(&self, grace: Duration) {
        // A grace of centuries is none that ends.
        let deadline = Instant::now().checked_add(grace);
        self.stop_by.send_if_modified(|stop_by| {
            let earlier = deadline.is_some_and(|deadline| stop_by.is_none_or(|by| deadline < by));
            if earlier {
                *stop_by = deadline;
            }
            earlier
        });
    }
}

pub(super) async fn stop_in_turn(
    runtime: &Arc<Runtime>,
    container: &Arc<Container>,
    _turn: &Turn<'_>,
) -> Result<(), StopError> {
    let id = &container.id;
    let running = match container.phase() {
        Phase::Creating | Phase::Exited(_) | Phase::Removed => return Ok(()),
        Phase::Created { .. } => false,
        Phase::Running { .. } => true,
    };
    let grace_is_over = container
        .stop_by
        .borrow()
        .is_some_and(|by| by <= Instant::now());
    failpoint::reach("container.stopping", &container.pod);
    if running && !grace_is_over {
        flight::stage("wait for its end, or that of its grace period");
        signal(runtime, container, container.stop_signal(), false).await?;
        tokio::select! {
            () = container.exited() => {
                failpoint::reach("container.stopped", &container.pod);
                return Ok(());
            }
            () = grace_ends(container) => {}
        }
    }
    flight::stage("kill it");
    signal(runtime, container, Signal::KILL, true).await?;
    failpoint::reach("container.killed", &container.pod);
    if pod::exit_known(runtime, container, DEATH_WITHIN).await {
        return Ok(());
    }
    Err(StopError::Undead(id.clone(), DEATH_WITHIN.as_secs()))
}

/// Completes when the grace period has run out, however often it was shortened.
async fn grace_ends(container: &Container) {
    let mut stop_by = container.stop_by.subscribe();
    loop {
        let deadline = *stop_by.borrow_and_update();
        let over = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = over => return,
            // The sender lives in `container`: the wait cannot fail.
            _changed = stop_by.changed() => {}
        }
    }
}

async fn signal(
    runtime: &Arc<Runtime>,
    container: &Arc<Container>,
    signal: Signal,
    all: bool,
) -> Result<(), StopError> {
    let id = &container.id;
    if let Some(link) = container.pod.link() {
        let request = RequestBody::Signal {
            id: id.to_string(),
            signal: signal.number(),
            all,
        };
        match link.order("Signal", request, Vec::new()).await {
            Ok(()) => return Ok(()),
            // Its supervisor has gone, hangs, or does not know it: the cgroup is there all the same.
            Err(error) => tracing::warn!(
                container = %id,
                error = &error as &dyn std::error::Error,
                "the supervisor sent no signal; killing the container by its cgroup"
            ),
        }
    }
    let (hierarchies, cgroup) = (runtime.hierarchies.clone(), container.cgroup().to_owned());
    blocking(DISK_BOUND, move || pod::kill_cgroup(&hierarchies, &cgroup))
        .await
        .map_err(|error| StopError::Blocking(id.clone(), error))?
        .map_err(|error| StopError::Orphans(id.clone(), error))?;
    // A supervisor that is there knows better how it ended.
    if container.pod.link().is_none() || !pod::exit_known(runtime, container, DEATH_WITHIN).await {
        pod::settle_container(runtime, container);
    }
    Ok(())
}
