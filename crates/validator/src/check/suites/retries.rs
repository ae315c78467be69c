use std::time::Duration;

use cri::v1::{ContainerState, PodSandboxState};
use futures_util::future::join_all;

use crate::check::{
    case::{Case, Verdict, case, ensure, ensure_eq},
    scene::Scene,
};

pub(super) const CASES: &[Case] = &[
    case!(
        "retries",
        "the same pod asked for many times at once is one pod",
        pods
    ),
    case!(
        "retries",
        "the same container asked for many times at once is one container",
        containers
    ),
    case!("retries", "many starts at once start it once", starts),
    case!("retries", "many stops at once all succeed", stops),
    case!(
        "retries",
        "many removals of a pod at once all succeed",
        removals
    ),
    case!(
        "retries",
        "a pod is had by asking again after its client went away",
        abandoned_pod
    ),
    case!(
        "retries",
        "a container is had by asking again after its client went away",
        abandoned_container
    ),
];

async fn pods(scene: &Scene<'_>) -> Verdict {
    let config = scene.host_pod("pod");
    let answers = join_all((0..6).map(|_| scene.try_pod(config.clone()))).await;
    let mut ids: Vec<String> = answers.iter().flatten().map(|pod| pod.id.clone()).collect();
    ensure!(
        !ids.is_empty(),
        "all are refused: {:?}",
        answers[0].as_ref().err().map(ToString::to_string)
    );
    ids.dedup();
    ensure_eq!(ids.len(), 1, "ids of one pod");
    let listed = scene.own_pods().await?;
    ensure_eq!(listed.len(), 1, "listed pods");
    ensure_eq!(
        listed[0].state(),
        PodSandboxState::SandboxReady,
        "its state"
    );
    Ok(())
}

async fn containers(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let config = scene.sleeper(&pod, "one");
    let answers = join_all((0..6).map(|_| scene.try_create(&pod, config.clone()))).await;
    let mut ids: Vec<&String> = answers.iter().flatten().collect();
    ensure!(
        !ids.is_empty(),
        "all are refused: {:?}",
        answers[0].as_ref().err().map(ToString::to_string)
    );
    ids.dedup();
    ensure_eq!(ids.len(), 1, "ids of one container");
    ensure_eq!(scene.own_containers().await?.len(), 1, "listed containers");
    scene.start(ids[0]).await?;
    Ok(())
}

async fn starts(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let config = scene.script(
        &pod,
        "one",
        "trap 'exit 0' TERM; echo started; while :; do sleep 0.1; done",
    );
    let id = scene.create(&pod, config.clone()).await?;
    let answers = join_all((0..6).map(|_| scene.start(&id))).await;
    ensure!(answers.iter().any(Result::is_ok), "all are refused");
    let status = scene.status(&id).await?;
    ensure_eq!(
        status.state(),
        ContainerState::ContainerRunning,
        "the state"
    );
    scene.until_logged(&pod, &config, "started\n").await?;
    scene.stop(&id, 30).await?;
    ensure_eq!(scene.output(&pod, &config)?, "started\n", "its log");
    Ok(())
}

async fn stops(scene: &Scene<'_>) -> Verdict {
    let (pod, id) = scene.any_container().await?;
    for answer in join_all((0..6).map(|_| scene.stop(&id, 30))).await {
        answer?;
    }
    for answer in join_all((0..6).map(|_| scene.stop_pod(&pod.id))).await {
        answer?;
    }
    let status = scene.status(&id).await?;
    ensure_eq!(status.state(), ContainerState::ContainerExited, "the state");
    Ok(())
}

async fn removals(scene: &Scene<'_>) -> Verdict {
    let (pod, _) = scene.any_container().await?;
    scene.stop_pod(&pod.id).await?;
    for answer in join_all((0..6).map(|_| scene.remove_pod(&pod.id))).await {
        answer?;
    }
    ensure!(scene.own_pods().await?.is_empty(), "it is still listed");
    Ok(())
}

/// As a kubelet whose deadline has passed: it goes away, waits, and asks for the same again until it has it.
async fn abandoned_pod(scene: &Scene<'_>) -> Verdict {
    let config = scene.network_pod("pod");
    for pause in [1, 5, 20] {
        let given_up = scene.try_pod(config.clone());
        let _ = tokio::time::timeout(Duration::from_millis(pause), given_up).await;
    }
    scene
        .until("the pod, by asking again", async || {
            match scene.try_pod(config.clone()).await {
                Ok(pod) => Ok((scene.pod_status(&pod.id).await?.state()
                    == PodSandboxState::SandboxReady)
                    .then_some(())),
                // It may be there under the first one's name.
                Err(_) => {
                    let listed = scene.own_pods().await?;
                    let ready = listed
                        .iter()
                        .any(|it| it.state() == PodSandboxState::SandboxReady);
                    Ok(ready.then_some(()))
                }
            }
        })
        .await?;
    ensure_eq!(scene.own_pods().await?.len(), 1, "listed pods");
    Ok(())
}

async fn abandoned_container(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let config = scene.sleeper(&pod, "one");
    for pause in [1, 3, 10] {
        let given_up = scene.try_create(&pod, config.clone());
        let _ = tokio::time::timeout(Duration::from_millis(pause), given_up).await;
    }
    let id = scene
        .until("the container, by asking again", async || {
            match scene.try_create(&pod, config.clone()).await {
                Ok(id) => Ok(Some(id)),
                Err(_) => Ok(scene
                    .own_containers()
                    .await?
                    .first()
                    .map(|it| it.id.clone())),
            }
        })
        .await?;
    ensure_eq!(scene.own_containers().await?.len(), 1, "listed containers");
    scene.start(&id).await?;
    Ok(())
}
