use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use cri::v1;
use prost::Message;
use tokio_stream::Stream;
use tonic::{Request, Status};

use super::{Streamed, container_status, pod_sandbox_status};
use crate::{
    events::{
        Event, Kind, Seat,
        queue::{self, Bound, End, Listener},
    },
    runtime::Runtime,
};

/// What may wait for one reader: minutes of a busy node, and no more memory than a large request takes.
const MAY_WAIT: Bound = Bound {
    items: 4096,
    bytes: 16 * 1024 * 1024,
};

pub(super) async fn get_container_events(
    runtime: &Arc<Runtime>,
    _request: Request<v1::GetEventsRequest>,
) -> Result<Streamed<v1::ContainerEventResponse>, Status> {
    let (teller, listener) = queue::bounded(MAY_WAIT);
    let reader = move |event: &Event<'_>| {
        let event = encoded(event);
        let bytes = event.encoded_len();
        teller.tell(event, bytes)
    };
    let seat = runtime
        .events
        .read(&runtime.inventory, Box::new(reader))
        .map_err(|closed| Status::unavailable(closed.to_string()))?;
    Ok(Box::pin(Reading {
        listener,
        seat: Some(seat),
    }))
}

/// Dropped with the client's connection, and the seat with it: no task waits for a client that has gone.
struct Reading {
    listener: Listener<v1::ContainerEventResponse>,
    /// `None`: its end has been told.
    seat: Option<Seat>,
}

impl Stream for Reading {
    type Item = Result<v1::ContainerEventResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.seat.is_none() {
            return Poll::Ready(None);
        }
        self.listener.poll_next(context).map(|next| match next {
            Ok(event) => Some(Ok(event)),
            Err(end) => {
                self.seat = None;
                Some(Err(status(end)))
            }
        })
    }
}

fn status(end: End) -> Status {
    match end {
        End::Overrun => Status::resource_exhausted(format!(
            "more than {} events, or {} bytes of them, waited for this reader, and later ones were not kept: list pods and \
             containers, and ask for events again",
            MAY_WAIT.items, MAY_WAIT.bytes
        )),
        End::Closed => Status::unavailable("the daemon is ending: ask the next one for events"),
    }
}

fn encoded(event: &Event<'_>) -> v1::ContainerEventResponse {
    let kind = match event.kind {
        Kind::Created => v1::ContainerEventType::ContainerCreatedEvent,
        Kind::Started => v1::ContainerEventType::ContainerStartedEvent,
        Kind::Stopped => v1::ContainerEventType::ContainerStoppedEvent,
        Kind::Deleted => v1::ContainerEventType::ContainerDeletedEvent,
    };
    let statuses = event.containers.iter();
    v1::ContainerEventResponse {
        container_id: event.id.to_owned(),
        container_event_type: kind.into(),
        created_at: event.at_ns,
        pod_sandbox_status: Some(pod_sandbox_status::status(event.pod)),
        containers_statuses: statuses.map(|c| container_status::status(c)).collect(),
    }
}
