use cri::v1::{Mount, PodSandboxConfig};

use crate::check::{
    case::{Case, Verdict, case, ensure, ensure_eq},
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

/// What a node shows of pods: mounts, pinned network namespaces, and processes that have the scene's name in their arguments.
fn seen(scene: &Scene<'_>) -> Verdict<(usize, usize, usize)> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?
        .lines()
        .count();
    let pinned = std::fs::read_dir("/run/netns").map_or(0, Iterator::count);
    let mark = format!("mark-of-{}-{}", scene.bed.run, scene.name);
    let processes = std::fs::read_dir("/proc")?.flatten();
    let marked = processes.filter(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let own = entry.file_name() == *std::process::id().to_string();
        !own && String::from_utf8_lossy(&line).contains(&mark)
    });
    Ok((mounts, pinned, marked.count()))
}

async fn traces(scene: &Scene<'_>) -> Verdict {
    // The first pod makes what all later ones share.
    let first = scene.pod(scene.network_pod("first")).await?;
    scene.stop_pod(&first.id).await?;
    scene.remove_pod(&first.id).await?;
    let before = seen(scene)?;
    let mark = format!("mark-of-{}-{}", scene.bed.run, scene.name);
    for number in 0..3 {
        let pod = scene
            .pod(scene.network_pod(&format!("pod{number}")))
            .await?;
        let script = format!("sleep 1000 & : {mark}; wait");
        scene.run(&pod, scene.script(&pod, "one", &script)).await?;
        scene.stop_pod(&pod.id).await?;
        scene.remove_pod(&pod.id).await?;
    }
    ensure_same(scene, before).await
}

/// Some of it a kernel or a helper takes apart a moment later.
async fn ensure_same(scene: &Scene<'_>, before: (usize, usize, usize)) -> Verdict {
    for _ in 0..100 {
        if seen(scene)? == before {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    ensure_eq!(
        seen(scene)?,
        before,
        "mounts, network namespaces and processes"
    );
    Ok(())
}
