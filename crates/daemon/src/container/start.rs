//! StartContainer.

use std::sync::Arc;

use supervisor_api::{ReplyBody, RequestBody};

use super::{Container, Exit, Phase};
use crate::{
    events::{Kind, News},
    failpoint,
    flight::Crashed,
    id::ContainerId,
    runtime::Runtime,
    supervisor::{CallError, mismatch},
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

async fn start_now(runtime: &Runtime, container: &Arc<Container>) -> Result<(), StartError> {
    let _turn = container.turn().await;
    let id = &container.id;
    let refused = |state| StartError::State {
        id: id.clone(),
        state,
    };
    match container.phase() {
        Phase::Created { .. } => {}
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
    }
    let link = match container.pod.link() {
        Some(link) if container.pod.is_ready() => link,
        Some(_) | None => return Err(StartError::PodNotReady(id.clone())),
    };
    failpoint::reach("container.starting", &container.pod);
    let request = RequestBody::StartContainer { id: id.to_string() };
    match link.call(request, Vec::new()).await {
        Ok((ReplyBody::Started { pid, started_at_ns }, _)) => {
            failpoint::reach("container.started", &container.pod);
            container.started(runtime, pid, started_at_ns);
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
