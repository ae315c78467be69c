//! StartContainer.

use std::{sync::Arc, time::Duration};

use supervisor_api::{ReplyBody, RequestBody};

use super::{Container, Exit, HookError, Phase, Turn, hooks, stop::stop_in_turn};
use crate::{
    events::{Kind, News},
    failpoint,
    flight::{self, Crashed},
    id::ContainerId,
    nri::NriError,
    runtime::Runtime,
    spec::Signal,
    state::RecordError,
    supervisor::{CallError, Link, mismatch},
};

#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("start container {id}: it is {state}; only a created container can be started")]
    State {
        id: ContainerId,
        state: &'static str,
    },
    #[error(
        "start container {id}: it failed to start before ({message}); remove it and create another"
    )]
    FailedBefore { id: ContainerId, message: String },
    #[error("start container {0}")]
    Nri(ContainerId, #[source] NriError),
    #[error("start container {0}")]
    Hook(ContainerId, #[source] HookError),
    #[error("start container {0}: read how it was made")]
    Record(ContainerId, #[source] RecordError),
    #[error("start container {0}: its pod is not ready")]
    PodNotReady(ContainerId),
    #[error("start container {0}")]
    Supervisor(ContainerId, #[source] CallError),
    #[error(transparent)]
    Crashed(#[from] Crashed),
}

/// Starts a created container. Cancellation: the start goes on, and the same request joins it.
pub(crate) async fn start(
    runtime: &Arc<Runtime>,
    container: &Arc<Container>,
) -> Result<(), Arc<StartError>> {
    let joined = runtime
        .flights
        .start_container
        .join(container.id.clone(), || {
            let (runtime, container) = (Arc::clone(runtime), Arc::clone(container));
            async move { start_now(&runtime, &container).await.map_err(Arc::new) }
        });
    joined.await.map_err(|crashed| Arc::new(crashed.into()))?
}

async fn start_now(runtime: &Arc<Runtime>, container: &Arc<Container>) -> Result<(), StartError> {
    let turn = container.turn().await;
    let id = &container.id;
    let refused = |state| StartError::State {
        id: id.clone(),
        state,
    };
    let pid = match container.phase() {
        Phase::Created { pid } => pid,
        Phase::Creating => return Err(refused("being created")),
        Phase::Running { .. } => return Err(refused("running")),
        Phase::Exited(exit) if exit.started_at_ns == 0 => {
            let message = exit.message.clone();
            return Err(StartError::FailedBefore {
                id: id.clone(),
                message,
            });
        }
        Phase::Exited(_) => return Err(refused("exited")),
        Phase::Removed => return Err(refused("removed")),
    };
    let link = match container.pod.link() {
        Some(link) if container.pod.is_ready() => link,
        Some(_) | None => return Err(StartError::PodNotReady(id.clone())),
    };
    failpoint::reach("container.starting", &container.pod);
    runtime
        .nri
        .start(runtime, container)
        .await
        .map_err(|error| StartError::Nri(id.clone(), error))?;
    let spec = match container.is_hooked() {
        true => container.spec(&runtime.records).map(Some),
        false => Ok(None),
    };
    let spec = spec.map_err(|error| StartError::Record(id.clone(), error))?;
    if let Some(spec) = &spec
        && let Err(error) = hooks::before_start(runtime, container, &link, spec, pid).await
    {
        let error = StartError::Hook(id.clone(), error);
        container.not_started(runtime, &streaming::chain(&error));
        end(runtime, container, &link, &turn).await;
        return Err(error);
    }
    flight::stage("have its supervisor start it");
    let request = RequestBody::StartContainer { id: id.to_string() };
    match link.call(request, Vec::new()).await {
        Ok((ReplyBody::Started { pid, started_at_ns }, _)) => {
            failpoint::reach("container.started", &container.pod);
            container.started(runtime, pid, started_at_ns);
            if let Some(spec) = &spec
                && let Err(error) = hooks::after_start(runtime, container, &link, spec, pid).await
            {
                end(runtime, container, &link, &turn).await;
                return Err(StartError::Hook(id.clone(), error));
            }
            runtime.nri.started(runtime, container).await;
            Ok(())
        }
        Ok((other, _)) => {
            let error = mismatch("StartContainer", &other);
            Err(StartError::Supervisor(id.clone(), error))
        }
        Err(CallError::Refused(refusal)) => {
            // The supervisor writes the same down.
            container.not_started(runtime, &refusal.message);
            Err(StartError::Supervisor(
                id.clone(),
                CallError::Refused(refusal),
            ))
        }
        Err(error) => Err(StartError::Supervisor(id.clone(), error)),
    }
}

/// Ends a container that a hook has spoilt.
async fn end(runtime: &Arc<Runtime>, container: &Arc<Container>, link: &Link, turn: &Turn<'_>) {
    container.hurry(Duration::ZERO);
    let stopped = stop_in_turn(runtime, container, turn).await;
    container.stop_by.send_replace(None);
    if let Err(error) = stopped {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(container = %container.id, error, "a container whose hook failed goes on");
    }
    // One that has exited for its readers still waits to be started.
    let request = RequestBody::Signal {
        id: container.id.to_string(),
        signal: Signal::KILL.number(),
        all: true,
    };
    if let Err(error) = link.order("Signal", request, Vec::new()).await {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(container = %container.id, error, "a container whose hook failed is not killed");
    }
}

impl Container {
    /// Its exit may have been told before the reply to its start was read.
    pub(super) fn started(self: &Arc<Self>, runtime: &Runtime, pid: i32, started_at_ns: i64) {
        runtime.happen(|news| {
            self.phase.send_if_modified(|phase| match phase {
                Phase::Exited(exit) if exit.started_at_ns == 0 => {
                    let exit = Exit {
                        started_at_ns,
                        ..Exit::clone(exit)
                    };
                    *phase = Phase::Exited(Arc::new(exit));
                    true
                }
                Phase::Creating
                | Phase::Created { .. }
                | Phase::Running { .. }
                | Phase::Exited(_)
                | Phase::Removed => false,
            });
            self.run(news, pid, started_at_ns);
        });
    }

    /// It runs, if it was only created before.
    pub(super) fn run(self: &Arc<Self>, news: &mut News<'_>, pid: i32, started_at_ns: i64) {
        let runs = self.phase.send_if_modified(|phase| {
            let news = matches!(phase, Phase::Created { .. });
            if news {
                *phase = Phase::Running { pid, started_at_ns };
            }
            news
        });
        if runs {
            news.container(Kind::Started, self);
        }
    }
}
