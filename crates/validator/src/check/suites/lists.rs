use cri::v1::*;

use crate::check::{
    case::{Case, Verdict, case, ensure, ensure_eq},
    scene::{Scene, spec},
};

pub(super) const CASES: &[Case] = &[
    case!("lists", "streamed pods are the listed ones", pods),
    case!(
        "lists",
        "streamed containers are the listed ones",
        containers
    ),
    case!("lists", "streamed images are the listed ones", images),
    case!(
        "lists",
        "streamed stats are of the same containers",
        container_stats
    ),
    case!("lists", "streamed stats are of the same pods", pod_stats),
    case!("lists", "streamed metrics have a running pod", metrics),
    case!("lists", "streamed lists have no pod in them twice", once),
];

async fn pods(scene: &Scene<'_>) -> Verdict {
    let one = scene.pod(scene.host_pod("one")).await?;
    scene.pod(scene.host_pod("two")).await?;
    scene.stop_pod(&one.id).await?;
    let filter = PodSandboxFilter {
        label_selector: scene.labels(),
        ..Default::default()
    };
    let request = StreamPodSandboxesRequest {
        filter: Some(filter),
    };
    let parts = scene.calls().stream_pod_sandboxes(request).await?;
    let mut streamed: Vec<_> = parts.into_iter().flat_map(|it| it.pod_sandboxes).collect();
    let mut listed = scene.own_pods().await?;
    streamed.sort_by(|a, b| a.id.cmp(&b.id));
    listed.sort_by(|a, b| a.id.cmp(&b.id));
    ensure_eq!(streamed, listed, "the streamed pods");
    Ok(())
}

async fn containers(scene: &Scene<'_>) -> Verdict {
    let (pod, _) = scene.any_container().await?;
    scene.create(&pod, scene.sleeper(&pod, "second")).await?;
    let filter = ContainerFilter {
        label_selector: scene.labels(),
        ..Default::default()
    };
    let request = StreamContainersRequest {
        filter: Some(filter),
    };
    let parts = scene.calls().stream_containers(request).await?;
    let mut streamed: Vec<_> = parts.into_iter().flat_map(|it| it.containers).collect();
    let mut listed = scene.own_containers().await?;
    streamed.sort_by(|a, b| a.id.cmp(&b.id));
    listed.sort_by(|a, b| a.id.cmp(&b.id));
    ensure_eq!(streamed, listed, "the streamed containers");
    Ok(())
}

async fn images(scene: &Scene<'_>) -> Verdict {
    let reference = scene.own_image("one");
    scene.pull(&reference).await?;
    let filter = ImageFilter {
        image: Some(spec(&reference)),
    };
    let request = StreamImagesRequest {
        filter: Some(filter),
    };
    let parts = scene.calls().stream_images(request).await?;
    let streamed: Vec<_> = parts.into_iter().flat_map(|it| it.images).collect();
    let image = scene.present_image(&reference).await?;
    let ids: Vec<_> = streamed.iter().map(|it| &it.id).collect();
    ensure_eq!(ids, [&image.id], "the streamed images of that reference");
    ensure_eq!(streamed[0].repo_tags, image.repo_tags, "its tags");
    Ok(())
}

async fn container_stats(scene: &Scene<'_>) -> Verdict {
    let (_, id) = scene.any_container().await?;
    let filter = ContainerStatsFilter {
        id: id.clone(),
        ..Default::default()
    };
    let request = StreamContainerStatsRequest {
        filter: Some(filter),
    };
    let streamed = async || {
        let parts = scene
            .calls()
            .stream_container_stats(request.clone())
            .await?;
        let stats = parts.into_iter().flat_map(|it| it.container_stats);
        let ids: Vec<_> = stats.filter_map(|it| Some(it.attributes?.id)).collect();
        Ok((!ids.is_empty()).then_some(ids))
    };
    let ids = scene.until_told("stats of the container", streamed).await?;
    ensure_eq!(ids, [id], "the containers");
    Ok(())
}

async fn pod_stats(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let filter = PodSandboxStatsFilter {
        id: pod.id.clone(),
        ..Default::default()
    };
    let request = StreamPodSandboxStatsRequest {
        filter: Some(filter),
    };
    let streamed = async || {
        let parts = scene
            .calls()
            .stream_pod_sandbox_stats(request.clone())
            .await?;
        let stats = parts.into_iter().flat_map(|it| it.pod_sandbox_stats);
        let ids: Vec<_> = stats.filter_map(|it| Some(it.attributes?.id)).collect();
        Ok((!ids.is_empty()).then_some(ids))
    };
    let ids = scene.until_told("stats of the pod", streamed).await?;
    ensure_eq!(ids, [pod.id], "the pods");
    Ok(())
}

async fn metrics(scene: &Scene<'_>) -> Verdict {
    let (pod, _) = scene.any_container().await?;
    let there = async || {
        let request = StreamPodSandboxMetricsRequest::default();
        let parts = scene.calls().stream_pod_sandbox_metrics(request).await?;
        let mut all = parts.into_iter().flat_map(|it| it.pod_sandbox_metrics);
        Ok(all
            .any(|it| it.pod_sandbox_id == pod.id && !it.container_metrics.is_empty())
            .then_some(()))
    };
    scene.until_told("the pod and its container", there).await
}

async fn once(scene: &Scene<'_>) -> Verdict {
    for number in 0..4 {
        scene.pod(scene.host_pod(&format!("pod{number}"))).await?;
    }
    let parts = scene
        .calls()
        .stream_pod_sandboxes(StreamPodSandboxesRequest::default())
        .await?;
    let mut ids: Vec<_> = parts
        .into_iter()
        .flat_map(|it| it.pod_sandboxes)
        .map(|it| it.id)
        .collect();
    let all = ids.len();
    ids.sort();
    ids.dedup();
    ensure!(all >= 4, "only {all} pods");
    ensure_eq!(ids.len(), all, "different pods");
    Ok(())
}
