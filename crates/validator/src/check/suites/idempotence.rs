use cri::v1::ContainerState;

use crate::check::{
    case::{Case, Verdict, case, ensure, ensure_eq},
    scene::Scene,
};

pub(super) const CASES: &[Case] = &[
    case!(
        "idempotence",
        "a pod is stopped as often as one likes",
        stop_pod
    ),
    case!(
        "idempotence",
        "a pod is removed as often as one likes",
        remove_pod
    ),
    case!(
        "idempotence",
        "a pod that nobody has is stopped and removed",
        no_pod
    ),
    case!(
        "idempotence",
        "a container is stopped as often as one likes",
        stop
    ),
    case!(
        "idempotence",
        "a container is removed as often as one likes",
        remove
    ),
    case!(
        "idempotence",
        "a container that nobody has is stopped and removed",
        no_container
    ),
    case!(
        "idempotence",
        "an image is removed as often as one likes",
        remove_image
    ),
];

async fn stop_pod(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    for _ in 0..3 {
        scene.stop_pod(&pod.id).await?;
    }
    Ok(())
}

async fn remove_pod(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    scene.stop_pod(&pod.id).await?;
    for _ in 0..3 {
        scene.remove_pod(&pod.id).await?;
    }
    scene.stop_pod(&pod.id).await?;
    Ok(())
}

async fn no_pod(scene: &Scene<'_>) -> Verdict {
    scene.stop_pod("nobody").await?;
    scene.remove_pod("nobody").await?;
    Ok(())
}

async fn stop(scene: &Scene<'_>) -> Verdict {
    let (_, id) = scene.any_container().await?;
    for _ in 0..3 {
        scene.stop(&id, 30).await?;
    }
    let status = scene.status(&id).await?;
    ensure_eq!(status.state(), ContainerState::ContainerExited, "the state");
    ensure_eq!(status.exit_code, 0, "the exit code");
    Ok(())
}

async fn remove(scene: &Scene<'_>) -> Verdict {
    let (_, id) = scene.any_container().await?;
    scene.stop(&id, 30).await?;
    for _ in 0..3 {
        scene.remove(&id).await?;
    }
    ensure!(
        scene.own_containers().await?.is_empty(),
        "it is still listed"
    );
    scene.stop(&id, 30).await?;
    Ok(())
}

async fn no_container(scene: &Scene<'_>) -> Verdict {
    scene.stop("nobody", 1).await?;
    scene.remove("nobody").await?;
    Ok(())
}

async fn remove_image(scene: &Scene<'_>) -> Verdict {
    let reference = scene.own_image("one");
    scene.pull(&reference).await?;
    for _ in 0..3 {
        scene.remove_image(&reference).await?;
    }
    Ok(())
}
