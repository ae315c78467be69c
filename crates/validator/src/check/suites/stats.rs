use cri::v1::*;

use crate::check::{
    case::{Case, Ended, Verdict, case, ensure, ensure_eq},
    scene::Scene,
};

pub(super) const CASES: &[Case] = &[
    case!(
        "stats",
        "a container's are its own, with time, processor and memory",
        one
    ),
    case!("stats", "its processor time grows with its work", grows),
    case!(
        "stats",
        "its writable layer's bytes grow with what it writes",
        writable_layer
    ),
    case!(
        "stats",
        "they are listed for those that run, by id, pod and labels",
        lists
    ),
    case!(
        "stats",
        "of a container that is not there they are refused",
        nobody
    ),
    case!(
        "stats",
        "a pod's are its own, with those of its containers",
        pod
    ),
    case!("stats", "a pod on a network has its devices", pod_network),
    case!("stats", "pods' are listed by id and labels", pods),
    case!(
        "stats",
        "of a pod that is not there they are refused",
        no_pod
    ),
];

async fn of(scene: &Scene<'_>, id: &str) -> Verdict<ContainerStats> {
    let request = ContainerStatsRequest {
        container_id: id.to_owned(),
    };
    let stats = scene.calls().container_stats(request).await?.stats;
    stats.ok_or_else(|| Ended::Failed("no stats in the answer".to_owned()))
}

fn value(value: Option<UInt64Value>) -> u64 {
    value.map(|it| it.value).unwrap_or_default()
}

fn cpu(stats: &ContainerStats) -> u64 {
    value(stats.cpu.as_ref().and_then(|it| it.usage_core_nano_seconds))
}

async fn one(scene: &Scene<'_>) -> Verdict {
    let (_, id) = scene.any_container().await?;
    let stats = of(scene, &id).await?;
    let attributes = stats.attributes.clone().unwrap_or_default();
    ensure_eq!(attributes.id, id, "the id");
    ensure_eq!(
        attributes.metadata.unwrap_or_default().name,
        "sleeper",
        "the name"
    );
    ensure_eq!(attributes.labels, scene.labels(), "the labels");
    ensure!(cpu(&stats) > 0, "no processor time: {:?}", stats.cpu);
    let memory = stats.memory.unwrap_or_default();
    ensure!(
        value(memory.working_set_bytes) > 0 && memory.timestamp > 0,
        "no memory, or no time: {memory:?}"
    );
    Ok(())
}

async fn grows(scene: &Scene<'_>) -> Verdict {
    let (_, id) = scene.any_container().await?;
    let before = cpu(&of(scene, &id).await?);
    scene
        .sh(&id, "n=0; while [ $n -lt 200000 ]; do n=$((n+1)); done")
        .await?;
    // Runtimes may keep a sample for some seconds.
    let grown = async || Ok((cpu(&of(scene, &id).await?) > before + 20_000_000).then_some(()));
    scene.until("20 ms more of processor time", grown).await
}

async fn writable_layer(scene: &Scene<'_>) -> Verdict {
    let (_, id) = scene.any_container().await?;
    let used = async || {
        let layer = of(scene, &id).await?.writable_layer;
        Ok(layer.map(|it| value(it.used_bytes)))
    };
    let Some(before) = scene
        .until("a writable layer", async || {
            used()
                .await
                .map(|it: Option<u64>| it.map(Some).or(Some(None)))
        })
        .await?
    else {
        return Err(Ended::Failed("nothing about the writable layer".to_owned()));
    };
    scene
        .sh(&id, "dd if=/dev/urandom of=/file bs=1M count=4 2>/dev/null")
        .await?;
    let grown = async || {
        Ok(used()
            .await?
            .filter(|now| *now >= before + (3 << 20))
            .map(drop))
    };
    scene.until("3 MiB more in the writable layer", grown).await
}

async fn lists(scene: &Scene<'_>) -> Verdict {
    let pod = scene.pod(scene.host_pod("first")).await?;
    let other = scene.pod(scene.host_pod("second")).await?;
    let one = scene.run(&pod, scene.sleeper(&pod, "one")).await?;
    let two = scene.run(&other, scene.sleeper(&other, "two")).await?;
    scene.create(&pod, scene.sleeper(&pod, "created")).await?;
    let ids = async |filter: Option<ContainerStatsFilter>| -> Verdict<Vec<String>> {
        let request = ListContainerStatsRequest { filter };
        let stats = scene.calls().list_container_stats(request).await?.stats;
        let mut ids: Vec<String> = stats
            .into_iter()
            .filter_map(|it| Some(it.attributes?.id))
            .collect();
        ids.sort();
        Ok(ids)
    };
    let filter = ContainerStatsFilter {
        id: one.clone(),
        ..Default::default()
    };
    ensure_eq!(ids(Some(filter)).await?, [one.as_str()], "stats by id");
    let filter = ContainerStatsFilter {
        pod_sandbox_id: other.id.clone(),
        ..Default::default()
    };
    ensure_eq!(ids(Some(filter)).await?, [two.as_str()], "stats by pod");
    let filter = ContainerStatsFilter {
        label_selector: scene.labels(),
        ..Default::default()
    };
    let listed = ids(Some(filter)).await?;
    ensure!(
        listed.contains(&one) && listed.contains(&two),
        "by labels not all of this case's running ones: {listed:?}"
    );
    let all = ids(None).await?;
    ensure!(
        all.contains(&one) && all.contains(&two),
        "without a filter not all: {all:?}"
    );
    Ok(())
}

async fn nobody(scene: &Scene<'_>) -> Verdict {
    ensure!(of(scene, "nobody").await.is_err(), "there are some");
    Ok(())
}

async fn of_pod(scene: &Scene<'_>, id: &str) -> Verdict<PodSandboxStats> {
    let request = PodSandboxStatsRequest {
        pod_sandbox_id: id.to_owned(),
    };
    let stats = scene.calls().pod_sandbox_stats(request).await?.stats;
    stats.ok_or_else(|| Ended::Failed("no stats in the answer".to_owned()))
}

async fn pod(scene: &Scene<'_>) -> Verdict {
    let (pod, id) = scene.any_container().await?;
    let stats = of_pod(scene, &pod.id).await?;
    let attributes = stats.attributes.unwrap_or_default();
    ensure_eq!(attributes.id, pod.id, "the id");
    ensure_eq!(attributes.labels, scene.labels(), "the labels");
    let linux = stats.linux.unwrap_or_default();
    let containers: Vec<String> = linux
        .containers
        .iter()
        .filter_map(|it| Some(it.attributes.as_ref()?.id.clone()))
        .collect();
    ensure_eq!(containers, [id], "its containers");
    let whole = value(linux.cpu.as_ref().and_then(|it| it.usage_core_nano_seconds));
    ensure!(whole > 0, "no processor time: {:?}", linux.cpu);
    let memory = value(linux.memory.as_ref().and_then(|it| it.working_set_bytes));
    ensure!(memory > 0, "no memory: {:?}", linux.memory);
    Ok(())
}

async fn pod_network(scene: &Scene<'_>) -> Verdict {
    let pod = scene.pod(scene.network_pod("pod")).await?;
    scene.run(&pod, scene.sleeper(&pod, "one")).await?;
    let network = async || {
        let linux = of_pod(scene, &pod.id).await?.linux.unwrap_or_default();
        Ok(linux.network.and_then(|it| it.default_interface))
    };
    let device = scene.until("a default device", network).await?;
    ensure!(!device.name.is_empty(), "it has no name: {device:?}");
    Ok(())
}

async fn pods(scene: &Scene<'_>) -> Verdict {
    let one = scene.pod(scene.host_pod("one")).await?;
    let two = scene.pod(scene.host_pod("two")).await?;
    let ids = async |filter: PodSandboxStatsFilter| -> Verdict<Vec<String>> {
        let request = ListPodSandboxStatsRequest {
            filter: Some(filter),
        };
        let stats = scene.calls().list_pod_sandbox_stats(request).await?.stats;
        let mut ids: Vec<String> = stats
            .into_iter()
            .filter_map(|it| Some(it.attributes?.id))
            .collect();
        ids.sort();
        Ok(ids)
    };
    let filter = PodSandboxStatsFilter {
        id: one.id.clone(),
        ..Default::default()
    };
    ensure_eq!(ids(filter).await?, [one.id.as_str()], "stats by id");
    let mut both = vec![one.id, two.id];
    both.sort();
    let filter = PodSandboxStatsFilter {
        label_selector: scene.labels(),
        ..Default::default()
    };
    ensure_eq!(ids(filter).await?, both, "stats by labels");
    Ok(())
}

async fn no_pod(scene: &Scene<'_>) -> Verdict {
    match of_pod(scene, "nobody").await {
        Ok(_) => Err(Ended::Failed("there are some".to_owned())),
        Err(Ended::Failed(_)) => Ok(()),
        Err(other) => Err(other),
    }
}
