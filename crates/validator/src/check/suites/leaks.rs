use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

use cri::v1::{Mount, PodSandboxConfig};

use crate::check::{
    case::{Case, Ended, Verdict, case, ensure},
    scene::{Scene, security, spec},
};

pub(super) const CASES: &[Case] = &[
    case!(
        "leaks",
        "a pod that was refused leaves nothing, and comes once it is asked for rightly",
        pod
    ),
    case!(
        "leaks",
        "a container that was refused leaves nothing, and comes once it is asked for rightly",
        container
    ),
    case!(
        "leaks",
        "a container that cannot start can be removed, and comes again",
        start
    ),
    case!(alone "leaks", "a pod that has gone leaves no mount, no network namespace and no process", traces),
];

async fn pod(scene: &Scene<'_>) -> Verdict {
    let good = scene.network_pod("pod");
    let mut bad: PodSandboxConfig = good.clone();
    let linux = bad.linux.get_or_insert_default();
    linux
        .sysctls
        .insert("kernel.no_such_sysctl".to_owned(), "1".to_owned());
    ensure!(
        scene.try_pod(bad).await.is_err(),
        "a pod with a sysctl of nobody runs"
    );
    let left = scene.own_pods().await?;
    ensure!(
        left.iter()
            .all(|it| it.state() != cri::v1::PodSandboxState::SandboxReady),
        "the refused pod is ready"
    );
    // A runtime may keep a dead sandbox, which a kubelet then removes.
    for pod in left {
        scene.stop_pod(&pod.id).await?;
        scene.remove_pod(&pod.id).await?;
    }
    scene.pod(good).await?;
    Ok(())
}

async fn container(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let good = scene.sleeper(&pod, "one");
    let mut images = good.clone();
    images.image = Some(spec("registry.invalid/nobody/nothing:1"));
    let mut mounts = good.clone();
    mounts.mounts = vec![Mount {
        host_path: "/proc/no/such/volume".to_owned(),
        container_path: "/data".to_owned(),
        ..Default::default()
    }];
    let mut groups = good.clone();
    security(&mut groups).run_as_group = Some(cri::v1::Int64Value { value: 5 });
    for bad in [images, mounts, groups] {
        if let Ok(id) = scene.try_create(&pod, bad).await {
            ensure!(
                scene.start(&id).await.is_err(),
                "a container that cannot be right runs"
            );
            scene.remove(&id).await?;
        }
        let left = scene.own_containers().await?;
        ensure!(left.is_empty(), "the refused container is listed");
    }
    scene.run(&pod, good).await?;
    Ok(())
}

async fn start(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let bad = scene.container(&pod, "one", &["/no/such/program"]);
    if let Ok(id) = scene.try_create(&pod, bad).await {
        // Whether it begins is the runtime's business; it must go.
        let _ = scene.start(&id).await;
        scene.stop(&id, 1).await?;
        scene.remove(&id).await?;
    }
    ensure!(scene.own_containers().await?.is_empty(), "it is listed");
    scene.run(&pod, scene.sleeper(&pod, "one")).await?;
    Ok(())
}

/// What a node shows of pods: mounts, pinned network namespaces, and processes that have the scene's mark in their arguments.
fn seen(scene: &Scene<'_>) -> Verdict<BTreeSet<String>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mounts = mounts.lines().filter_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        Some(format!("mount {} at {}", words.first()?, words.get(4)?))
    });
    let pinned = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let pinned = pinned.map(|it| format!("network namespace {}", it.file_name().display()));
    let (own, mark) = (std::process::id().to_string(), mark(scene));
    let processes = fs::read_dir("/proc")?.flatten().filter(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        entry.file_name() != *own && String::from_utf8_lossy(&line).contains(&mark)
    });
    let processes = processes.map(|it| format!("{mark} process {}", it.file_name().display()));
    Ok(mounts.chain(pinned).chain(processes).collect())
}

/// In the arguments of all processes of the case's containers.
fn mark(scene: &Scene<'_>) -> String {
    format!("mark-of-{}-{}", scene.bed.run, scene.name)
}

async fn traces(scene: &Scene<'_>) -> Verdict {
    // The first pod makes what all later ones share.
    come_and_go(scene, "first").await?;
    let mut left = BTreeSet::new();
    // Somebody else may mount something meanwhile; what pods leave they leave each time.
    for round in ["a", "b", "c"] {
        let before = seen(scene)?;
        let mut own = vec![mark(scene)];
        for number in 0..3 {
            own.extend(come_and_go(scene, &format!("{round}{number}")).await?);
        }
        left = what_stays(scene, &before).await?;
        if left.is_empty() {
            return Ok(());
        }
        let certain: Vec<&String> = left
            .iter()
            .filter(|trace| own.iter().any(|id| trace.contains(id)))
            .collect();
        ensure!(certain.is_empty(), "it leaves {certain:?}");
    }
    Err(Ended::Failed(format!("nine pods, and each time: {left:?}")))
}

/// A pod's id and its container's, both gone.
async fn come_and_go(scene: &Scene<'_>, name: &str) -> Verdict<[String; 2]> {
    let pod = scene.pod(scene.network_pod(name)).await?;
    let script = format!("sleep 1000 & : {}; wait", mark(scene));
    let id = scene.run(&pod, scene.script(&pod, "one", &script)).await?;
    scene.stop_pod(&pod.id).await?;
    scene.remove_pod(&pod.id).await?;
    Ok([pod.id, id])
}

/// What was not there before, and does not go: some of it a kernel or a helper takes apart a moment later.
async fn what_stays(scene: &Scene<'_>, before: &BTreeSet<String>) -> Verdict<BTreeSet<String>> {
    let end = Instant::now() + scene.patience() / 4;
    loop {
        let left = &seen(scene)? - before;
        if left.is_empty() || Instant::now() > end {
            return Ok(left);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
