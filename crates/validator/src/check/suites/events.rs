use cri::v1::{
    ContainerEventResponse,
    ContainerEventType::{
        self, ContainerCreatedEvent, ContainerDeletedEvent, ContainerStartedEvent,
        ContainerStoppedEvent,
    },
    ContainerState,
};

use crate::check::{
    case::{Case, Verdict, case, ensure, ensure_eq},
    events::Events,
    scene::Scene,
};

pub(super) const CASES: &[Case] = &[
    case!(
        "events",
        "a pod's and a container's life is told in order",
        order
    ),
    case!(
        "events",
        "each has the pod's and its containers' statuses of its moment",
        statuses
    ),
    case!("events", "two readers are told the same", two_readers),
    case!("events", "many containers' are told without a gap", no_gap),
    case!(
        "events",
        "a reader that comes later is told what is new, and nothing twice",
        later
    ),
];

fn kinds(events: &[ContainerEventResponse], id: &str) -> Vec<ContainerEventType> {
    let own = events.iter().filter(|it| it.container_id == id);
    own.map(ContainerEventResponse::container_event_type)
        .collect()
}

const LIFE: [ContainerEventType; 4] = [
    ContainerCreatedEvent,
    ContainerStartedEvent,
    ContainerStoppedEvent,
    ContainerDeletedEvent,
];

async fn order(scene: &Scene<'_>) -> Verdict {
    let mut events = Events::listen(scene).await?;
    let (pod, id) = scene.any_container().await?;
    scene.stop(&id, 30).await?;
    scene.remove(&id).await?;
    scene.stop_pod(&pod.id).await?;
    scene.remove_pod(&pod.id).await?;
    let seen = events
        .until(&pod.id, ContainerDeletedEvent, &pod.id)
        .await?;
    ensure_eq!(kinds(&seen, &id), LIFE, "the container's");
    ensure_eq!(kinds(&seen, &pod.id), LIFE, "the pod's");
    let place = |id: &str, kind| {
        seen.iter()
            .position(|it| it.container_id == id && it.container_event_type() == kind)
    };
    ensure!(
        place(&pod.id, ContainerStartedEvent) < place(&id, ContainerCreatedEvent),
        "the container is created before its pod has started"
    );
    ensure!(
        place(&id, ContainerDeletedEvent) < place(&pod.id, ContainerDeletedEvent),
        "the pod is deleted before its container"
    );
    let mut times = seen.iter().map(|it| it.created_at);
    ensure!(
        times
            .clone()
            .zip(times.by_ref().skip(1))
            .all(|(a, b)| a <= b),
        "times go back"
    );
    Ok(())
}

async fn statuses(scene: &Scene<'_>) -> Verdict {
    let mut events = Events::listen(scene).await?;
    let pod = scene.any_pod().await?;
    let id = scene.run(&pod, scene.script(&pod, "one", "exit 5")).await?;
    let seen = events.until(&pod.id, ContainerStoppedEvent, &id).await?;
    let Some(last) = seen.last() else {
        return Ok(());
    };
    let status = last.containers_statuses.iter().find(|it| it.id == id);
    ensure_eq!(
        status.map(|it| (it.state(), it.exit_code)),
        Some((ContainerState::ContainerExited, 5)),
        "state and code in the event of its end"
    );
    let about = last
        .pod_sandbox_status
        .as_ref()
        .map(|it| it.metadata.clone());
    ensure_eq!(
        about,
        Some(pod.config.metadata.clone()),
        "the pod's metadata in it"
    );
    Ok(())
}

async fn two_readers(scene: &Scene<'_>) -> Verdict {
    let mut one = Events::listen(scene).await?;
    let mut two = Events::listen(scene).await?;
    let (pod, id) = scene.any_container().await?;
    scene.stop_pod(&pod.id).await?;
    scene.remove_pod(&pod.id).await?;
    let first = one.until(&pod.id, ContainerDeletedEvent, &pod.id).await?;
    let second = two.until(&pod.id, ContainerDeletedEvent, &pod.id).await?;
    for id in [&id, &pod.id] {
        ensure_eq!(kinds(&second, id), kinds(&first, id), "the second reader's");
        ensure_eq!(kinds(&first, id), LIFE, "the first reader's");
    }
    Ok(())
}

async fn no_gap(scene: &Scene<'_>) -> Verdict {
    let mut events = Events::listen(scene).await?;
    let pod = scene.any_pod().await?;
    let mut ids = Vec::new();
    for number in 0..8 {
        let name = format!("c{number}");
        ids.push(
            scene
                .run(&pod, scene.container(&pod, &name, &["true"]))
                .await?,
        );
    }
    for id in &ids {
        scene.until_exited(id).await?;
    }
    scene.stop_pod(&pod.id).await?;
    scene.remove_pod(&pod.id).await?;
    let seen = events
        .until(&pod.id, ContainerDeletedEvent, &pod.id)
        .await?;
    for id in &ids {
        ensure_eq!(kinds(&seen, id), LIFE, "of one of eight");
    }
    Ok(())
}

async fn later(scene: &Scene<'_>) -> Verdict {
    let mut early = Events::listen(scene).await?;
    let (pod, id) = scene.any_container().await?;
    early.until(&pod.id, ContainerStartedEvent, &id).await?;
    drop(early);
    let mut late = Events::listen(scene).await?;
    scene.stop(&id, 30).await?;
    let seen = late.until(&pod.id, ContainerStoppedEvent, &id).await?;
    ensure_eq!(
        kinds(&seen, &id),
        [ContainerStoppedEvent],
        "the container's, to a reader that came when it ran"
    );
    Ok(())
}
