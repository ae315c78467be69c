use std::time::{Duration, Instant};

use cri::v1::{ContainerEventResponse, ContainerEventType, GetEventsRequest};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tonic::Status;

use super::{
    calls::Refused,
    case::{Ended, Verdict, ensure},
    scene::Scene,
};

/// How long an event may be waited for.
const LIMIT: Duration = Duration::from_secs(60);

/// A server in Go sends no headers before its first event: after so long it is given one.
const SILENT_FOR: Duration = Duration::from_millis(700);

/// A reader of events. Dropping it ends the stream.
pub(super) struct Events {
    received: mpsc::UnboundedReceiver<Result<ContainerEventResponse, Status>>,
    reader: JoinHandle<()>,
}

impl Events {
    /// Returns once the runtime has answered: what happens from then on is told.
    pub(super) async fn listen(scene: &Scene<'_>) -> Verdict<Self> {
        let mut service = scene.calls().runtime.runtime_service();
        let (sender, received) = mpsc::unbounded_channel();
        let (opened, mut open) = oneshot::channel();
        let reader = tokio::spawn(async move {
            let answered = service.get_container_events(GetEventsRequest {}).await;
            let _ = opened.send(());
            let mut stream = match answered {
                Ok(reply) => reply.into_inner(),
                Err(status) => {
                    let _ = sender.send(Err(status));
                    return;
                }
            };
            while let Some(event) = stream.message().await.transpose() {
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        let events = Self { received, reader };
        let limit = scene.patience();
        let end = Instant::now() + limit;
        while tokio::time::timeout(SILENT_FOR, &mut open).await.is_err() {
            ensure!(Instant::now() < end, "no events begin within {limit:?}");
            let pod = scene.pod(scene.host_pod("heard")).await?;
            scene.stop_pod(&pod.id).await?;
            scene.remove_pod(&pod.id).await?;
        }
        Ok(events)
    }

    /// The next event of this pod, or of a container in it.
    async fn next_of(&mut self, pod: &str) -> Verdict<ContainerEventResponse> {
        loop {
            let event = self.next().await?;
            let about = event.pod_sandbox_status.as_ref();
            if event.container_id == pod || about.is_some_and(|status| status.id == pod) {
                return Ok(event);
            }
        }
    }

    async fn next(&mut self) -> Verdict<ContainerEventResponse> {
        match tokio::time::timeout(LIMIT, self.received.recv()).await {
            Ok(Some(Ok(event))) => Ok(event),
            Ok(Some(Err(status))) => Err(Refused {
                rpc: "GetContainerEvents",
                status,
            }
            .into()),
            Ok(None) => Err(Ended::Failed("the events have ended".to_owned())),
            Err(_) => Err(Ended::Failed(format!("no event within {LIMIT:?}"))),
        }
    }

    /// Types and ids of the pod's events until one of `kind` about `id`.
    pub(super) async fn until(
        &mut self,
        pod: &str,
        kind: ContainerEventType,
        id: &str,
    ) -> Verdict<Vec<ContainerEventResponse>> {
        let mut seen = Vec::new();
        loop {
            let event = self.next_of(pod).await?;
            let last = event.container_event_type() == kind && event.container_id == id;
            seen.push(event);
            if last {
                return Ok(seen);
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.reader.abort();
    }
}
