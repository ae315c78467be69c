//! Calling a pod's supervisor again: at the start of a daemon, and after a connection has ended.

use std::{io, path::Path, sync::Arc, time::Duration};

use supervisor_api::{PodState, ReplyBody, RequestBody};
use tokio::{sync::mpsc, time::Instant};

use super::{Pod, lost};
use crate::{
    rpc::chain,
    supervisor::{self, CallError, Event, Link, SpawnError, mismatch},
};

/// How long a supervisor that is there may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How long a pod that nobody knows may take to end.
const END_WITHIN: Duration = Duration::from_secs(30);

const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(100);

/// What became of the call.
#[derive(Debug)]
pub(crate) enum Dialled {
    /// It answers; the pod has its link.
    Answered {
        state: PodState,
        events: mpsc::UnboundedReceiver<Event>,
    },
    /// Nobody is there any more.
    Dead,
    /// Somebody is there and does not answer, or not as we understand it.
    Mute { reason: String },
}

#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error(transparent)]
    Connect(#[from] SpawnError),
    #[error("watch the connection")]
    Link(#[source] io::Error),
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Takes at most [`ANSWER_WITHIN`].
pub(crate) async fn dial(pod: &Pod) -> Dialled {
    let deadline = Instant::now() + ANSWER_WITHIN;
    loop {
        let reason = match tokio::time::timeout_at(deadline, attempt(pod)).await {
            Ok(Ok((link, state, events))) => {
                pod.set_link(Some(Arc::new(link)));
                return Dialled::Answered { state, events };
            }
            Ok(Err(DialError::Connect(error))) if error.nobody_listens() => return Dialled::Dead,
            Ok(Err(error)) => chain(&error),
            Err(_elapsed) => format!("no answer within {} s", ANSWER_WITHIN.as_secs()),
        };
        // Its socket may outlive it in a process that it forked.
        if !lost::supervisor_lives(pod) {
            return Dialled::Dead;
        }
        if Instant::now() >= deadline {
            return Dialled::Mute { reason };
        }
        tokio::time::sleep(BETWEEN_ATTEMPTS).await;
    }
}

async fn attempt(pod: &Pod) -> Result<(Link, PodState, mpsc::UnboundedReceiver<Event>), DialError> {
    let socket = supervisor::connect(&pod.directory)?;
    let (link, events) = Link::new(socket).map_err(DialError::Link)?;
    link.greet().await?.answered().await?;
    let state = match link.call(RequestBody::State, Vec::new()).await? {
        (ReplyBody::State(state), _) => state,
        (other, _) => {
            return Err(mismatch("State", &other).into());
        }
    };
    Ok((link, state, events))
}

/// Ends a pod of which only its directory is known. Whether its supervisor has let go of everything, or was not there any more.
pub(crate) async fn end_unknown(directory: &Path) -> bool {
    let socket = match supervisor::connect(directory) {
        Ok(socket) => socket,
        Err(error) => return error.nobody_listens(),
    };
    let ending = async {
        let (link, _events) = Link::new(socket).map_err(DialError::Link)?;
        link.greet().await?.answered().await?;
        link.order("StopSandbox", RequestBody::StopSandbox, Vec::new())
            .await?;
        link.order("Shutdown", RequestBody::Shutdown, Vec::new())
            .await?;
        Ok::<(), DialError>(())
    };
    matches!(tokio::time::timeout(END_WITHIN, ending).await, Ok(Ok(())))
}
