use cri::v1::*;

use crate::check::{
    calls::Refused,
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

async fn asked(scene: &Scene<'_>, id: &str) -> Result<Option<ContainerStats>, Refused> {
    let request = ContainerStatsRequest {
        container_id: id.to_owned(),
    };
    Ok(scene.calls().container_stats(request).await?.stats)
}

/// What holds sooner or later of a container that runs: runtimes may keep a sample for some seconds, and a slow one have none yet.
async fn of<T>(
    scene: &Scene<'_>,
    id: &str,
    what: &str,
    mut look: impl FnMut(ContainerStats) -> Option<T>,
) -> Verdict<T> {
    let found = async || Ok(asked(scene, id).await?.and_then(&mut look));
    scene.until_told(what, found).await
}

fn value(value: Option<UInt64Value>) -> u64 {
    value.map(|it| it.value).unwrap_or_default()
}

fn cpu(stats: &ContainerStats) -> u64 {
    value(stats.cpu.as_ref().and_then(|it| it.usage_core_nano_seconds))
}

async fn one(scene: &Scene<'_>) -> Verdict {
    let (_, id) = scene.any_container().await?;
    let what = "processor time, working set and its time";
    let stats = of(scene, &id, what, |stats| {
        let memory = stats.memory.unwrap_or_default();
        let there = value(memory.working_set_bytes) > 0 && memory.timestamp > 0;
        (there && cpu(&stats) > 0).then_some(stats)
    })
    .await?;
    let attributes = stats.attributes.unwrap_or_default();
    ensure_eq!(attributes.id, id, "the id");
    ensure_eq!(
        attributes.metadata.unwrap_or_default().name,
        "sleeper",
        "the name"
    );
    ensure_eq!(attributes.labels, scene.labels(), "the labels");
    Ok(())
}

async fn grows(scene: &Scene<'_>) -> Verdict {
    let (_, id) = scene.any_container().await?;
    let before = of(scene, &id, "stats", |stats| Some(cpu(&stats))).await?;
    scene
        .sh(&id, "n=0; while [ $n -lt 200000 ]; do n=$((n+1)); done")
        .await?;
    of(scene, &id, "20 ms more of processor time", |stats| {
        (cpu(&stats) > before + 20_000_000).then_some(())
    })
    .await
}

async fn writable_layer(scene: &Scene<'_>) -> Verdict {
    let (_, id) = scene.any_container().await?;
    let used = |stats: ContainerStats| stats.writable_layer.map(|it| value(it.used_bytes));
    let before = of(scene, &id, "the writable layer", used).await?;
    scene
        .sh(&id, "dd if=/dev/urandom of=/file bs=1M count=4 2>/dev/null")
        .await?;
    of(scene, &id, "3 MiB more in the writable layer", |stats| {
        used(stats).filter(|now| *now >= before + (3 << 20))
    })
    .await
    .map(drop)
}

async fn lists(scene: &Scene<'_>) -> Verdict {
    let pod = scene.pod(scene.host_pod("first")).await?;
    let other = scene.pod(scene.host_pod("second")).await?;
    let one = scene.run(&pod, scene.sleeper(&pod, "one")).await?;
    let two = scene.run(&other, scene.sleeper(&other, "two")).await?;
    scene.create(&pod, scene.sleeper(&pod, "created")).await?;
    // Sooner or later; a slow runtime may have no sample of one yet.
    let ids = async |filter: Option<ContainerStatsFilter>, wanted: &[&String]| {
        let request = ListContainerStatsRequest { filter };
        let there = async || {
            let reply = scene.calls().list_container_stats(request.clone()).await?;
            let stats = reply.stats.into_iter();
            let ids: Vec<String> = stats.filter_map(|it| Some(it.attributes?.id)).collect();
            Ok(wanted.iter().all(|id| ids.contains(id)).then_some(ids))
        };
        scene.until_told("stats of all that run", there).await
    };
    let filter = ContainerStatsFilter {
        id: one.clone(),
        ..Default::default()
    };
    let listed = ids(Some(filter), &[&one]).await?;
    ensure_eq!(listed, [one.as_str()], "stats by id");
    let filter = ContainerStatsFilter {
        pod_sandbox_id: other.id.clone(),
        ..Default::default()
    };
    let listed = ids(Some(filter), &[&two]).await?;
    ensure_eq!(listed, [two.as_str()], "stats by pod");
    let filter = ContainerStatsFilter {
        label_selector: scene.labels(),
        ..Default::default()
    };
    let listed = ids(Some(filter), &[&one, &two]).await?;
    let own = scene.own_containers().await?;
    ensure!(
        listed.iter().all(|id| own.iter().any(|it| it.id == *id)),
        "by labels others' too: {listed:?}"
    );
    ids(None, &[&one, &two]).await?;
    Ok(())
}

async fn nobody(scene: &Scene<'_>) -> Verdict {
    ensure!(asked(scene, "nobody").await.is_err(), "there are some");
    Ok(())
}

async fn of_pod(scene: &Scene<'_>, id: &str) -> Result<Option<PodSandboxStats>, Refused> {
    let request = PodSandboxStatsRequest {
        pod_sandbox_id: id.to_owned(),
    };
    Ok(scene.calls().pod_sandbox_stats(request).await?.stats)
}

async fn pod(scene: &Scene<'_>) -> Verdict {
    let (pod, id) = scene.any_container().await?;
    let what = "processor time, working set and a container";
    let measured = async || {
        let stats = of_pod(scene, &pod.id).await?;
        Ok(stats.filter(|stats| {
            let linux = stats.linux.clone().unwrap_or_default();
            let whole = value(linux.cpu.and_then(|it| it.usage_core_nano_seconds));
            let memory = value(linux.memory.and_then(|it| it.working_set_bytes));
            whole > 0 && memory > 0 && !linux.containers.is_empty()
        }))
    };
    let stats = scene.until_told(what, measured).await?;
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
    Ok(())
}

async fn pod_network(scene: &Scene<'_>) -> Verdict {
    let pod = scene.pod(scene.network_pod("pod")).await?;
    scene.run(&pod, scene.sleeper(&pod, "one")).await?;
    let network = async || {
        let linux = of_pod(scene, &pod.id).await?.and_then(|it| it.linux);
        let network = linux.and_then(|it| it.network);
        Ok(network.and_then(|it| it.default_interface))
    };
    let device = scene.until_told("a default device", network).await?;
    ensure!(!device.name.is_empty(), "it has no name: {device:?}");
    Ok(())
}

async fn pods(scene: &Scene<'_>) -> Verdict {
    let one = scene.pod(scene.host_pod("one")).await?;
    let two = scene.pod(scene.host_pod("two")).await?;
    let ids = async |filter: PodSandboxStatsFilter, at_least: usize| {
        let request = ListPodSandboxStatsRequest {
            filter: Some(filter),
        };
        let there = async || {
            let reply = scene
                .calls()
                .list_pod_sandbox_stats(request.clone())
                .await?;
            let stats = reply.stats.into_iter();
            let mut ids: Vec<String> = stats.filter_map(|it| Some(it.attributes?.id)).collect();
            ids.sort();
            Ok((ids.len() >= at_least).then_some(ids))
        };
        scene.until_told("stats of all pods", there).await
    };
    let filter = PodSandboxStatsFilter {
        id: one.id.clone(),
        ..Default::default()
    };
    ensure_eq!(ids(filter, 1).await?, [one.id.as_str()], "stats by id");
    let mut both = vec![one.id, two.id];
    both.sort();
    let filter = PodSandboxStatsFilter {
        label_selector: scene.labels(),
        ..Default::default()
    };
    ensure_eq!(ids(filter, 2).await?, both, "stats by labels");
    Ok(())
}

async fn no_pod(scene: &Scene<'_>) -> Verdict {
    match of_pod(scene, "nobody").await {
        Ok(_) => Err(Ended::Failed("there are some".to_owned())),
        Err(refused) if refused.code() == tonic::Code::Unimplemented => Err(refused.into()),
        Err(_) => Ok(()),
    }
}
