//! Forwarded ports: over SPDY a pair of streams for each connection, as many as the client opens; over WebSocket a pair of channels for
//! each port that was named beforehand.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::{
    io::AsyncWriteExt,
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tracing::Instrument;

use super::remote_command::Ends;
use crate::{
    hub::{Both, Hub, StreamId, WriteHalf},
    session::{SessionError, Sessions},
    spdy::{connection::Incoming, frame::status, header},
};

/// The two streams of one forwarded connection, as far as they have come.
#[derive(Debug, Default)]
struct Pair {
    data: Option<StreamId>,
    error: Option<StreamId>,
    port: u16,
    since: Option<Instant>,
}

/// Serves the pairs that the client opens, until it has gone.
pub(super) async fn serve<S: Sessions>(
    sessions: &Arc<S>,
    sandbox_id: &str,
    hub: &Arc<Hub>,
    mut incoming: mpsc::Receiver<Incoming>,
    creation: Duration,
    mut ends: Ends,
) {
    let mut halves: HashMap<String, Pair> = HashMap::new();
    let mut pairs = JoinSet::new();
    let mut said = false;
    loop {
        let oldest = halves.values().filter_map(|pair| pair.since).min();
        let until = oldest.unwrap_or_else(Instant::now) + creation;
        let next = async {
            if oldest.is_some() {
                timeout_at(until, incoming.recv()).await
            } else {
                Ok(incoming.recv().await)
            }
        };
        let next = tokio::select! {
            next = next => next,
            () = ends.server_ends() => break,
            Some(_) = pairs.join_next() => continue,
        };
        let opened = match next {
            Ok(Some(opened)) => opened,
            Ok(None) => break,
            Err(_) => {
                halves.retain(|request, pair| {
                    let late = pair.since.is_some_and(|since| since + creation <= until);
                    if late {
                        tracing::warn!(
                            request,
                            "one stream of a forwarded connection came alone: reset"
                        );
                        let alone = pair.data.or(pair.error);
                        alone.inspect(|id| hub.reset(*id, status::CANCEL));
                    }
                    !late
                });
                continue;
            }
        };
        let id = opened.id;
        match file(&mut halves, &opened) {
            Ok(whole) => {
                hub.reply(id);
                if let Some((data, error, port)) = whole {
                    let (sessions, hub) = (Arc::clone(sessions), Arc::clone(hub));
                    let (sandbox_id, ends) = (sandbox_id.to_owned(), ends.clone());
                    let forwarding = async move {
                        forward(&*sessions, sandbox_id, &hub, (data, error), port, ends).await;
                    };
                    // It knows the peer.
                    pairs.spawn(forwarding.in_current_span());
                }
            }
            Err(reason) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(
                        stream = id,
                        reason,
                        "a stream for a forwarded port: this one, and any more of the like, is refused"
                    );
                }
                hub.reset(id, status::REFUSED_STREAM);
            }
        }
    }
    // Each tells its client why, and ends within its bound.
    while pairs.join_next().await.is_some() {}
}

/// Puts a stream beside its counterpart; both, and the port, when that is there already.
fn file(
    halves: &mut HashMap<String, Pair>,
    opened: &Incoming,
) -> Result<Option<(StreamId, StreamId, u16)>, &'static str> {
    let Incoming { id, headers } = opened;
    let port = header(headers, "port").and_then(|port| port.parse().ok());
    let port: u16 = port
        .filter(|port| *port > 0)
        .ok_or("its port is none from 1 to 65535")?;
    let kind = header(headers, "streamtype");
    let is_data = match kind {
        Some("data") => true,
        Some("error") => false,
        _ => return Err("its type is neither data nor error"),
    };
    // Before there were request ids, a client opened the two one after the other, the error stream first.
    let request = match header(headers, "requestid") {
        Some(request) => request.to_owned(),
        None if is_data => format!("stream {}", id.saturating_sub(2)),
        None => format!("stream {id}"),
    };
    let pair = halves.entry(request.clone()).or_default();
    let slot = if is_data {
        &mut pair.data
    } else {
        &mut pair.error
    };
    if slot.is_some() {
        return Err("its request has one of that type already");
    }
    if pair.since.is_some() && pair.port != port {
        return Err("its request has another port");
    }
    *slot = Some(*id);
    pair.port = port;
    pair.since = Some(Instant::now());
    let Pair {
        data: Some(data),
        error: Some(error),
        ..
    } = *pair
    else {
        return Ok(None);
    };
    halves.remove(&request);
    Ok(Some((data, error, port)))
}

/// One connection, from its first byte to its last.
pub(super) async fn forward<S: Sessions>(
    sessions: &S,
    sandbox_id: String,
    hub: &Arc<Hub>,
    (data, error): (StreamId, StreamId),
    port: u16,
    mut ends: Ends,
) {
    let words = hub.write_half(error);
    let stream = Box::new(Both::new(hub, data));
    let session = sessions.port_forward(sandbox_id, port, stream);
    // One that panics must not look like one that ended well.
    let session = AssertUnwindSafe(session).catch_unwind();
    tokio::pin!(session);
    let outcome = tokio::select! {
        biased;
        // Before the session, which sees no more than a reset.
        () = hub.stall(data) => {
            tracing::warn!(port, "nobody reads a forwarded connection, and it holds up the others: reset");
            // Channels have no resets. A client in Go takes words for a reason to close everything, which is what the reset is to spare it.
            if !hub.bounds().newcomers {
                let text = format!(
                    "forward port {port}: what was sent has not been read for too long, and other connections had to wait for it"
                );
                tell(words, &text).await;
            }
            return;
        }
        outcome = &mut session => outcome.unwrap_or_else(|_| {
            Err(SessionError::new(format!("forward port {port}: the runtime has failed")))
        }),
        () = hub.lost() => {
            // Its stream fails, and that ends it.
            if tokio::time::timeout(ends.farewell, session).await.is_err() {
                tracing::warn!(port, "a forwarded connection did not end when its client had gone: dropped");
            }
            return;
        }
        () = ends.server_ends() => {
            Err(SessionError::new(format!("forward port {port}: the runtime is shutting down")))
        }
    };
    match outcome {
        Ok(()) => hub.end(data),
        Err(error) => {
            let text = error.chain();
            if hub.is_lost() {
                // Why is said once, for the connection, and not for each that it carried.
                tracing::debug!(port, error = text, "a forwarded connection is lost");
                return;
            }
            if hub.is_over(data) {
                // The client has reset it, and knows. Words would have a client in Go close everything.
                tracing::debug!(
                    port,
                    error = text,
                    "a forwarded connection was reset by its client"
                );
                return;
            }
            tracing::info!(port, error = text, "a forwarded connection failed");
            tell(words, &text).await;
            hub.reset(data, status::INTERNAL_ERROR);
        }
    }
}

async fn tell(mut words: WriteHalf, text: &str) {
    // Who has gone need not know.
    drop(words.write_all(text.as_bytes()).await);
    drop(words.shutdown().await);
}
