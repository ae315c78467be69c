//! What systemd makes for a pod where the tree of cgroups is systemd's: a scope around its containers, and one, which all pods have together,
//! around the supervisors.

use std::{os::fd::OwnedFd, sync::Arc};

use oci_plan::FdSlot;
use rustix::process::Pid;
use supervisor_api::{ErrorKind, ReplyBody, RequestBody};
use tokio::time::Instant;

use super::{Pod, run::RunError};
use crate::{
    runtime::Runtime,
    supervisor::{CallError, Link, mismatch},
    systemd::{self, Scope, ScopeError},
};

/// Has systemd make the pod's scope, around a process of its supervisor's.
pub(super) async fn enter(
    runtime: &Arc<Runtime>,
    pod: &Pod,
    link: &Link,
    scope: &Scope,
) -> Result<(), RunError> {
    let sandbox = |error| RunError::Sandbox(pod.id.clone(), error);
    let failed = |error| RunError::Scope(pod.id.clone(), error);
    let request = || RequestBody::Anchor { socket: FdSlot(0) };
    let deadline = Instant::now() + systemd::ANSWER_WITHIN;
    let reply = connect(link, request, deadline).await;
    let (anchor, connection) = match reply.map_err(failed)?.map_err(sandbox)? {
        (ReplyBody::Anchored { pid }, mut descriptors) => match descriptors.pop() {
            Some(connection) => (pid, connection),
            None => return Err(sandbox(CallError::Gone)),
        },
        (other, _) => return Err(sandbox(mismatch("Anchor", &other))),
    };
    scope.start(connection).await.map_err(failed)?;
    scope
        .settle(&runtime.hierarchies, &pod.cgroup_parent, anchor)
        .map_err(failed)
}

/// Has systemd make the scope of all supervisors around this one, or moves it into the one that another pod has had made meanwhile.
pub(super) async fn enter_nest(
    runtime: &Arc<Runtime>,
    pod: &Pod,
    link: &Link,
    supervisor: Pid,
) -> Result<(), RunError> {
    let sandbox = |error| RunError::Sandbox(pod.id.clone(), error);
    let failed = |error| RunError::Nest(pod.id.clone(), error);
    let Some(nest) = runtime.executable.nest() else {
        return Ok(());
    };
    let Some(scope) = nest.scope() else {
        return Ok(());
    };
    let request = || RequestBody::Connect { socket: FdSlot(0) };
    let deadline = Instant::now() + systemd::ANSWER_WITHIN;
    loop {
        let moved = nest.take_in(supervisor);
        if moved.map_err(|error| RunError::EnterNest(pod.id.clone(), error))? {
            return Ok(());
        }
        let reply = connect(link, request, deadline).await;
        let connection = match reply.map_err(failed)?.map_err(sandbox)? {
            (ReplyBody::Connected, mut descriptors) => descriptors.pop(),
            (other, _) => return Err(sandbox(mismatch("Connect", &other))),
        };
        let connection = connection.ok_or_else(|| sandbox(CallError::Gone))?;
        match scope.start(connection).await {
            Ok(()) => return Ok(()),
            // It is being made for another pod, or is about to go with the last supervisor that was in it.
            Err(error) if error.is_there_already() && Instant::now() < deadline => {
                tokio::time::sleep(systemd::TRY_AGAIN).await;
            }
            Err(error) => return Err(failed(error)),
        }
    }
}

type Reply = Result<(ReplyBody, Vec<OwnedFd>), CallError>;

/// A connection to systemd, of a process of the pod's.
async fn connect(
    link: &Link,
    request: impl Fn() -> RequestBody,
    deadline: Instant,
) -> Result<Reply, ScopeError> {
    let greeting = match link.greet().await {
        Ok(greeting) => greeting,
        Err(error) => return Ok(Err(error)),
    };
    let reply = loop {
        match link.call(request(), vec![systemd::socket()?]).await {
            // While systemd executes itself anew, its socket is one that nobody listens at, and then another.
            Err(CallError::Refused(error))
                if error.kind == ErrorKind::Unavailable && Instant::now() < deadline =>
            {
                tokio::time::sleep(systemd::TRY_AGAIN).await;
            }
            other => break other,
        }
    };
    Ok(match greeting.answered().await {
        Ok(()) => reply,
        Err(error) => Err(error),
    })
}
