use cri::v1::*;
use futures_util::future::join_all;

use crate::check::{
    case::{Case, Verdict, case, ensure, ensure_eq},
    scene::{Scene, spec},
};

pub(super) const CASES: &[Case] = &[
    case!(
        "image consistency",
        "an image is there as soon as it is pulled",
        at_once
    ),
    case!(
        "image consistency",
        "an image is gone as soon as it is removed",
        gone_at_once
    ),
    case!(
        "image consistency",
        "every call gives an image the same id",
        one_id
    ),
    case!(
        "image consistency",
        "the same image by two repositories has one id",
        two_repositories
    ),
    case!(
        "image consistency",
        "many removals at once all succeed",
        removals
    ),
    case!(
        "image consistency",
        "many pulls at once all succeed, and are one image",
        pulls
    ),
    case!(
        "image consistency",
        "an image that a container runs outlives its removal, or refuses it",
        in_use
    ),
];

async fn at_once(scene: &Scene<'_>) -> Verdict {
    for name in ["a", "b", "c", "d", "e"] {
        let reference = scene.own_image(name);
        scene.pull(&reference).await?;
        let image = scene.present_image(&reference).await?;
        let listed = scene.images().await?;
        ensure!(
            listed.iter().any(|it| it.id == image.id),
            "{reference} is not listed"
        );
    }
    Ok(())
}

async fn gone_at_once(scene: &Scene<'_>) -> Verdict {
    for name in ["a", "b", "c", "d", "e"] {
        let reference = scene.own_image(name);
        scene.pull(&reference).await?;
        let image = scene.present_image(&reference).await?;
        scene.remove_image(&reference).await?;
        ensure!(
            scene.image(&reference).await?.is_none(),
            "{reference} is found"
        );
        let listed = scene.images().await?;
        ensure!(
            listed.iter().all(|it| it.id != image.id),
            "{reference} is listed"
        );
    }
    Ok(())
}

async fn one_id(scene: &Scene<'_>) -> Verdict {
    let reference = scene.own_image("one");
    let pulled = scene.pull(&reference).await?;
    let id = scene.present_image(&reference).await?.id;
    ensure_eq!(pulled, id, "PullImage's image_ref");
    let listed = scene.images().await?;
    ensure!(
        listed
            .iter()
            .any(|it| it.id == id && it.repo_tags.contains(&reference)),
        "ListImages has another id"
    );
    let pod = scene.any_pod().await?;
    let mut config = scene.sleeper(&pod, "one");
    config.image = Some(spec(&reference));
    let container = scene.create(&pod, config).await?;
    let status = scene.status(&container).await?;
    let listed = scene.own_containers().await?;
    let of_list = listed.first().map(|it| it.image_ref.clone());
    // An id or a digest, as the runtime likes: both name the image.
    for (call, reference) in [
        ("ContainerStatus", status.image_ref),
        ("ListContainers", of_list.unwrap_or_default()),
    ] {
        let found = scene.present_image(&reference).await?.id;
        ensure_eq!(found, id, "the id by {call}'s image_ref");
    }
    if status.image_id.is_empty() {
        return Ok(());
    }
    ensure_eq!(status.image_id, id, "ContainerStatus's image_id");
    ensure_eq!(
        listed.first().map(|it| it.image_id.clone()),
        Some(id),
        "ListContainers's image_id"
    );
    Ok(())
}

async fn two_repositories(scene: &Scene<'_>) -> Verdict {
    let built = scene.recipe("one").build();
    let (one, two) = (
        scene.push("one", "1", &built),
        scene.push("two", "1", &built),
    );
    scene.pull(&one).await?;
    scene.pull(&two).await?;
    let image = scene.present_image(&one).await?;
    ensure_eq!(
        scene.present_image(&two).await?.id,
        image.id,
        "the id by the other repository"
    );
    ensure_eq!(image.repo_tags.len(), 2, "its tags");
    ensure_eq!(image.repo_digests.len(), 2, "its digests");
    scene.remove_image(&one).await?;
    ensure!(
        scene.image(&two).await?.is_none(),
        "the other repository's tag is left"
    );
    Ok(())
}

async fn removals(scene: &Scene<'_>) -> Verdict {
    let reference = scene.own_image("one");
    scene.pull(&reference).await?;
    for answer in join_all((0..8).map(|_| scene.remove_image(&reference))).await {
        answer?;
    }
    ensure!(
        scene.image(&reference).await?.is_none(),
        "it is still there"
    );
    Ok(())
}

async fn pulls(scene: &Scene<'_>) -> Verdict {
    let reference = scene.own_image("one");
    let mut refs = Vec::new();
    for answer in join_all((0..8).map(|_| scene.pull(&reference))).await {
        refs.push(answer?);
    }
    refs.dedup();
    ensure_eq!(refs.len(), 1, "different answers");
    let image = scene.present_image(&reference).await?;
    let listed = scene.images().await?;
    ensure_eq!(
        listed.iter().filter(|it| it.id == image.id).count(),
        1,
        "how often it is listed"
    );
    Ok(())
}

async fn in_use(scene: &Scene<'_>) -> Verdict {
    let reference = scene.own_image("one");
    scene.pull(&reference).await?;
    let pod = scene.any_pod().await?;
    let mut config = scene.sleeper(&pod, "one");
    config.image = Some(spec(&reference));
    let id = scene.run(&pod, config).await?;
    // A runtime may do either; a kubelet does not ask for it.
    let _refused = scene.remove_image(&reference).await.is_err();
    ensure_eq!(
        scene
            .sh(&id, "cat /bin/busybox | wc -c | grep -c .")
            .await?,
        "1",
        "what a command in it gives"
    );
    ensure_eq!(
        scene.status(&id).await?.state(),
        ContainerState::ContainerRunning,
        "the container's state"
    );
    Ok(())
}
